"""What a teacher said is read again by seeds, stopped attempts and other jobs, and each run tells how often."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distillery.errors import InvalidRequest, InvalidSpec
from distillery.spec import parse, resolve
from worker.bursts import timed
from worker.journal import Journal
from worker.messages import Answered
from worker.preparation import prepare
from worker.remembering import recalled_share
from worker.study import distil

IMAGES = 300
RECIPE = {"epochs": 10, "batch_size": 64, "seed": 0, "device": "cpu", "threads": 1, "precision": "fp32"}
DATA = {"kind": "digits", "limit": IMAGES, "augment": ["crop"]}
TEACHER = {"architecture": "resnet14", "train": {"epochs": 1}, "minimum_accuracy": 0}


class Told(list[Any]):
    """A teller that keeps what it is told."""

    def tell(self, message: Any) -> None:
        self.append(message)

    def of(self, kind: type) -> list[Any]:
        return [message for message in self if isinstance(message, kind)]


@pytest.fixture(autouse=True)
def answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own."""
    monkeypatch.setenv("DISTILLERY_ANSWERS", str(tmp_path / "answers"))
    return tmp_path / "answers"


def spec(recipe: dict[str, Any] | None = None, **changes: Any) -> Any:
    base = {
        "dataset": DATA, "teacher": TEACHER, "student": {"architecture": "resnet8"},
        "training": RECIPE | (recipe or {}), "latency": None, "export": ["safetensors"], "baseline": False,
    }  # fmt: skip
    return resolve(parse(base | changes))


def run(job: Any, out: Path, weights: Path | None = None) -> Told:
    told = Told()
    out.mkdir()
    journal = Journal(out=out, teller=told, spec=job)
    distil(job, journal=journal, teacher_weights={0: weights} if weights else {}, resume=None)
    return told


def test_a_job_asks_once_about_each_view_and_the_next_job_not_at_all(tmp_path: Path) -> None:
    told = run(spec(seeds=2), tmp_path / "one")
    first, second = told.of(Answered)
    assert (first.run, first.asked, first.recalled) == ("training", 8 * IMAGES, 2 * IMAGES)
    assert (second.run, second.asked, second.recalled) == ("training-seed2", 0, 10 * IMAGES)
    assert "computed 2,400 answers" in first.sentence
    weights = tmp_path / "one" / "teacher.safetensors"
    given = {
        "architecture": "resnet14",
        "weights": str(weights),
        "minimum_accuracy": 0,
    }
    warmer = {"preset": None, "objective": [{"term": "soft_targets", "temperature": 2}]}
    other = spec({"seed": 5, "batch_size": 32}, teacher=given, method=warmer, student={"architecture": "resnet14"})
    again = run(other, tmp_path / "two", weights)
    (only,) = again.of(Answered)
    assert (only.asked, only.recalled) == (0, 10 * IMAGES)


@pytest.mark.parametrize(
    ("data", "answers_are", "why"),
    [
        ({"views": "all"}, "live", ""),
        ({"views": 3}, "live", ""),
        ({"views": "all", "image_size": 32}, "auto", "Each of 81 views of an image is seen too seldom in 10 epochs."),
    ],
)
def test_a_live_teacher_says_why(tmp_path: Path, data: Any, answers_are: str, why: str) -> None:
    limited = DATA | {"limit": 50} | data
    told = run(spec({"teacher_answers": answers_are, "epochs": 10}, dataset=limited), tmp_path / "one")
    (only,) = told.of(Answered)
    assert (only.asked, only.recalled, only.why_live) == (0, 0, why)
    assert "answered live" in only.sentence
    assert why in only.sentence


def test_answers_that_must_be_kept_and_find_no_room_refuse_the_job_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISTILLERY_ANSWERS_BYTES", "10000")
    with pytest.raises(InvalidRequest, match="0 MB, and DISTILLERY_ANSWERS_BYTES allows 0 MB") as error:
        run(spec({"teacher_answers": "cached", "epochs": 1}, teacher=TEACHER), tmp_path / "one")
    assert error.value.pointer == "/training/teacher_answers"
    assert "DISTILLERY_ANSWERS_BYTES" in error.value.hint


@pytest.mark.parametrize("strategy", ["online", "self_distillation", "data_free"])
def test_only_a_frozen_teacher_of_given_images_can_be_remembered(strategy: str) -> None:
    teacher = {"architecture": "resnet14", **({} if strategy == "online" else {"weights": "x.safetensors"})}
    sent = {"dataset": DATA, "student": {"architecture": "resnet8"}, "method": {"strategy": strategy}}
    sent |= {} if strategy == "self_distillation" else {"teacher": teacher}
    assert parse(sent).method.strategy == strategy
    with pytest.raises(InvalidSpec) as error:
        parse(sent | {"training": {"teacher_answers": "cached"}})
    assert [each.pointer for each in error.value.problems] == ["/training/teacher_answers"]


@pytest.mark.parametrize(
    ("changes", "views"),
    [
        ({"training": {"epochs": 4}}, 8),
        ({"training": {"epochs": 240}}, 60),
        ({"training": {"epochs": 240, "teacher_answers": "live"}}, "all"),
        ({"dataset": DATA | {"views": 5}, "training": {"epochs": 240}}, 5),
        ({"dataset": DATA | {"views": "all"}}, "all"),
        ({"method": {"strategy": "online"}, "teacher": {"architecture": "resnet14"}}, "all"),
    ],
)
def test_the_resolved_spec_tells_how_many_views_there_are(changes: Any, views: Any) -> None:
    sent = {"dataset": DATA, "teacher": TEACHER, "student": {"architecture": "resnet8"}} | changes
    resolved = resolve(parse(sent))
    assert resolved.dataset.views == views
    assert resolve(resolved) == resolved


def test_the_estimate_counts_what_will_be_read(tmp_path: Path) -> None:
    job = spec({"epochs": 32}, seeds=2)
    journal = Journal(out=tmp_path, teller=Told(), spec=job)
    ready = prepare(job, journal=journal, teacher_weights={})
    (student,) = [each for each in timed(ready, journal=journal).trainings if each.plan.run == "training"]
    assert student.recalled == pytest.approx(1 - 8 / 64)
    assert student.asking_seconds > 0
    cold = student.seconds(held_back=0, synthesis=0)
    assert student.warm.seconds(held_back=0, synthesis=0) <= cold
    assert not (tmp_path / "answers" / "locks").exists()  # what is only tried out leaves nothing
    lesson = student.plan.lesson()
    live = job.model_copy(update={"training": job.training.model_copy(update={"teacher_answers": "live"})})
    assert recalled_share(ready, lesson) == student.recalled
    assert recalled_share(replace(ready, spec=live), lesson) == 0


def test_where_nothing_can_be_written_the_teacher_answers_live_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("DISTILLERY_ANSWERS", str(tmp_path / "file" / "answers"))
    told = run(spec({"epochs": 1}, dataset=DATA | {"limit": 50}), tmp_path / "one")
    (only,) = told.of(Answered)
    assert (only.asked, only.recalled) == (0, 0)
    assert "DISTILLERY_ANSWERS" in only.why_live
    with pytest.raises(InvalidRequest, match="cannot be written"):
        run(spec({"teacher_answers": "cached", "epochs": 1}, dataset=DATA | {"limit": 50}), tmp_path / "two")
