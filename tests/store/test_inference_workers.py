"""Where predictions are answered, and which networks can be asked."""

from types import SimpleNamespace
from typing import Any

import pytest

from distillery.errors import NotFound, WrongState
from store import inference, leases, servable
from store.inference import InferenceWorker

SHA = "ab" * 32
ONE = InferenceWorker("inf_1", "http://10.0.0.1:7000", "secret-1")
OTHER = InferenceWorker("inf_2", "http://10.0.0.2:7000", "secret-2")


def living(shop: Any) -> list[InferenceWorker]:
    return shop.see(inference.living)  # type: ignore[no-any-return]


def let_pass(shop: Any, seconds: float) -> None:
    shop.sql("UPDATE inference_workers SET seen_at = seen_at - :seconds", seconds=seconds)


def test_a_worker_is_found_from_its_first_word_until_it_withdraws(shop: Any) -> None:
    assert living(shop) == []
    shop.do(inference.announce, ONE, alive_seconds=10)
    shop.do(inference.announce, OTHER, alive_seconds=10)
    assert living(shop) == [ONE, OTHER]
    shop.do(inference.withdraw, ONE.id)
    assert living(shop) == [OTHER]
    shop.do(inference.withdraw, ONE.id)


def test_a_worker_that_says_nothing_is_gone_and_back_with_its_next_word(shop: Any) -> None:
    shop.do(inference.announce, ONE, alive_seconds=10)
    let_pass(shop, 9)
    assert living(shop) == [ONE]
    let_pass(shop, 2)
    assert living(shop) == []
    shop.do(inference.announce, ONE, alive_seconds=10)
    assert living(shop) == [ONE]


def test_rows_of_the_dead_do_not_pile_up(shop: Any) -> None:
    shop.do(inference.announce, ONE, alive_seconds=10)
    let_pass(shop, inference.FORGOTTEN_SECONDS + 1)
    shop.do(inference.announce, OTHER, alive_seconds=10)
    assert [row.id for row in shop.sql("SELECT id FROM inference_workers")] == ["inf_2"]


def test_a_token_is_shown_to_nobody_by_accident() -> None:
    assert "secret-1" not in repr(ONE)


def facts(role: str) -> Any:
    return SimpleNamespace(
        role=role, artifact=f"{role}.safetensors", architecture=f"seed_{role}", classes=("cat", "dog"), image_size=32,
        channels=3, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), accuracy=0.9, sha256=SHA,
    )  # fmt: skip


def succeeded(shop: Any, *files: str) -> str:
    claim = shop.claimed()
    for place, name in enumerate(files):
        shop.deliver(claim, name, sha256=f"{place:02}" * 32, size_bytes=100 + place)
    shop.do(leases.succeed, claim, summary="done", models=[facts("student")])
    return str(claim.id)


def test_of_a_job_its_export_and_its_teacher_are_asked(shop: Any) -> None:
    job_id = succeeded(shop, "student.safetensors", "student.onnx", "teacher.safetensors")
    (student, teacher), note = shop.see(servable.of_job, job_id)
    assert (student.form, student.runtime, student.sha256, student.size_bytes) == (
        "export", "onnxruntime", "01" * 32, 101,
    )  # fmt: skip
    assert (teacher.form, teacher.runtime, teacher.architecture) == ("safetensors", "eager", "seed_teacher")
    for each in (student, teacher):
        assert (each.classes, each.image_size, each.channels) == (("cat", "dog"), 32, 3)
        assert (each.mean, each.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))
    assert note == ""
    (student, _), _ = shop.see(servable.of_job, job_id, runtime="eager")
    assert (student.form, student.sha256) == ("safetensors", "00" * 32)


def test_a_teacher_that_is_a_graph_is_run_as_one_and_a_table_is_not_asked(shop: Any) -> None:
    (_, teacher), _ = shop.see(servable.of_job, succeeded(shop, "student.safetensors", "teacher.onnx"))
    assert (teacher.form, teacher.runtime, teacher.preprocessing) == ("graph", "onnxruntime", None)
    networks, note = shop.see(servable.of_job, succeeded(shop, "student.safetensors", "teacher-table.npz"))
    assert [each.role for each in networks] == ["student"]
    assert note == "The job has delivered no teacher that answers images."


def test_a_kept_student_is_asked_by_its_export_too(shop: Any) -> None:
    job_id = succeeded(shop, "student.safetensors", "student.onnx")
    model_id = shop.job(job_id).student_model_id
    found = shop.see(servable.of_model, model_id)
    assert (found.id, found.role, found.form, found.sha256) == (model_id, "model", "export", "01" * 32)
    assert shop.see(servable.of_model, model_id, runtime="eager").sha256 == "00" * 32


def test_what_cannot_be_asked_says_why(shop: Any) -> None:
    with pytest.raises(NotFound):
        shop.see(servable.of_job, "job_none")
    with pytest.raises(NotFound):
        shop.see(servable.of_model, "mdl_none")
    running = shop.claimed()
    with pytest.raises(WrongState, match="is running and has no student") as caught:
        shop.see(servable.of_job, running.id)
    assert "Wait" in caught.value.hint
    shop.fail(running)
    with pytest.raises(WrongState, match="is failed") as caught:
        shop.see(servable.of_job, running.id)
    assert "Retry" in caught.value.hint
    job_id = succeeded(shop, "student.safetensors")
    shop.sql("DELETE FROM models")
    with pytest.raises(WrongState, match="deleted as a model"):
        shop.see(servable.of_job, job_id)
