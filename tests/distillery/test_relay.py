"""Errors that one process of the service packs and another raises again."""

import pytest

from distillery import errors, relay
from distillery.errors import FieldProblem, InvalidInput, TooBusy

PROBLEM = FieldProblem("/images/3", "INVALID_INPUT", "This is not base64.", "Encode the bytes.")


@pytest.mark.parametrize(
    "kind",
    [
        errors.NotFound, errors.WrongState, errors.CorruptFile, errors.StorageFull, errors.Unavailable,
        errors.UnusableWeights, errors.MissingDependency, errors.DistilleryError,
    ],
)  # fmt: skip
def test_an_error_is_the_same_on_the_other_side(kind: type[errors.DistilleryError]) -> None:
    found = relay.unpacked(relay.packed(kind("What.", hint="How.", pointer="/where")))
    assert type(found) is kind
    assert (found.detail, found.hint, found.pointer) == ("What.", "How.", "/where")


def test_every_problem_keeps_its_place() -> None:
    found = relay.unpacked(relay.packed(InvalidInput([PROBLEM, PROBLEM])))
    assert type(found) is InvalidInput
    assert tuple(found.problems) == (PROBLEM, PROBLEM)


def test_the_time_to_ask_again_is_kept() -> None:
    found = relay.unpacked(relay.packed(TooBusy("Full.", retry_after_seconds=7, hint="Later.")))
    assert isinstance(found, TooBusy)
    assert (found.detail, found.retry_after_seconds, found.hint) == ("Full.", 7, "Later.")


def test_what_is_made_in_another_way_or_unknown_is_told_all_the_same() -> None:
    unfit = errors.UnfitTeacher("BGR.", cause="NORMALISATION", hint="Turn it.")
    for packed in (relay.packed(unfit), b'{"kind": "OfANewerVersion", "detail": "BGR.", "hint": "Turn it."}'):
        found = relay.unpacked(packed)
        assert type(found) is errors.DistilleryError
        assert (found.detail, found.hint) == ("BGR.", "Turn it.")


def test_bytes_that_are_no_error_are_an_outage() -> None:
    assert isinstance(relay.unpacked(b"<html>"), errors.Unavailable)
