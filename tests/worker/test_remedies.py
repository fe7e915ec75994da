"""What the next attempt does differently, and when there is nothing left to try."""

import errno

import pytest

from distillery.errors import StorageFull, Unavailable
from distillery.views import Adjustments, JobError
from worker.messages import Halted
from worker.remedies import no_space, remedy

OUT_OF_MEMORY = Halted(reason="out_of_memory", detail="Memory ran out.", run="training")
DIVERGED = Halted(reason="diverged", detail="The loss was nan.", run="training")


def test_memory_that_runs_out_halves_the_parts_three_times_and_then_fails() -> None:
    adjusted = Adjustments()
    for parts in (2, 4, 8):
        after = remedy(OUT_OF_MEMORY, before=adjusted, batch_size=128)
        assert isinstance(after, Adjustments) and after.micro_batches == parts
        adjusted = after
    error = remedy(OUT_OF_MEMORY, before=adjusted, batch_size=128)
    assert isinstance(error, JobError)
    assert (error.code, error.pointer) == ("OUT_OF_MEMORY", "/training/batch_size")


def test_a_batch_is_not_parted_into_more_than_its_rows() -> None:
    adjusted = Adjustments(micro_batches=2)
    assert isinstance(remedy(OUT_OF_MEMORY, before=adjusted, batch_size=3), JobError)


def test_each_run_goes_on_at_half_the_rate_once() -> None:
    after = remedy(DIVERGED, before=Adjustments(micro_batches=2, rate_halved=("teaching1",)), batch_size=8)
    assert after == Adjustments(micro_batches=2, rate_halved=("teaching1", "training"))
    error = remedy(DIVERGED, before=Adjustments(rate_halved=("training",)), batch_size=8)
    assert isinstance(error, JobError)
    assert error.code == "DIVERGED"


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (StorageFull("full"), True),
        (OSError(errno.ENOSPC, "full"), True),
        (OSError(errno.EDQUOT, "full"), True),
        (OSError(errno.EIO, "broken"), False),
        (Unavailable("away"), False),
    ],
)
def test_a_full_disk_is_told_from_a_broken_one(error: Exception, full: bool) -> None:
    assert no_space(error) is full
