"""A job is tried out on networks that are thrown away: its estimate is told first, and its result is not touched."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch

from distillery.spec import parse, resolve
from engine.loop import Stopped
from engine.teachers import state_sha256
from worker import estimate
from worker.bursts import planned, timed
from worker.journal import Journal
from worker.messages import Delivered, Estimated, Message, PhaseBegan, Warned
from worker.preparation import prepare
from worker.study import distil

RECIPE = {
    "epochs": 2, "batch_size": 64, "optimizer": {"name": "adamw", "lr": 3e-3}, "seed": 0, "device": "cpu", "threads": 1,
    "precision": "fp32",
}  # fmt: skip
TRAINED = {"architecture": "resnet14", "train": {"epochs": 1}, "minimum_accuracy": 0}


class Told(list[Message]):
    """A teller that keeps what it is told."""

    def tell(self, message: Message) -> None:
        self.append(message)

    def of(self, kind: type) -> list[Any]:
        return [message for message in self if isinstance(message, kind)]


def spec(**changes: Any) -> Any:
    base = {
        "dataset": {"kind": "digits", "image_size": 8, "limit": 300}, "teacher": TRAINED,
        "student": {"architecture": "resnet8"}, "training": RECIPE, "latency": None, "export": ["safetensors"],
    }  # fmt: skip
    return resolve(parse({key: value for key, value in (base | changes).items() if value is not ...}))


def prepared(job: Any, out: Path, **journal: Any) -> Any:
    journal = Journal(out=out, teller=Told(), spec=job, **journal)
    return prepare(job, journal=journal, teacher_weights={}), journal


def student_of(told: Told) -> str:
    (path,) = [each.path for each in told.of(Delivered) if each.name == "student.safetensors"]
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_the_estimate_is_told_before_anything_is_trained_and_changes_nothing(tmp_path, monkeypatch):
    job, told, plain = spec(), Told(), Told()
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
    distil(job, journal=Journal(tmp_path / "with", told, job), teacher_weights={}, resume=None)
    monkeypatch.setattr(estimate, "tell", lambda *_, **__: None)
    distil(job, journal=Journal(tmp_path / "without", plain, job), teacher_weights={}, resume=None)
    assert student_of(told) == student_of(plain)
    assert plain.of(Estimated) == []
    (estimated,) = told.of(Estimated)
    kinds = [message.phase if isinstance(message, PhaseBegan) else message.kind for message in told]
    assert kinds.index("preparing") < kinds.index("estimated") < kinds.index("teaching")
    for interval in (estimated.estimate.seconds, estimated.estimate.memory_bytes, estimated.estimate.artifact_bytes):
        assert 0 < interval.low < interval.high
    assert estimated.estimate.notes


METHODS: dict[str, dict[str, Any]] = {
    "assistant": {"assistants": [{"architecture": "wrn16-1"}], "seeds": 2},
    "online": {"method": {"strategy": "online"}, "teacher": {"architecture": "resnet14"}, "baseline": False},
    "self_distillation": {"method": {"strategy": "self_distillation"}, "teacher": ..., "baseline": False},
}
RUNS = {
    "assistant": {"teaching": 1, "assisting1": 1, "training": 2, "baseline": 2},
    "online": {"training": 1},
    "self_distillation": {"training": 1},
}


@pytest.mark.parametrize("name", METHODS)
def test_every_training_is_tried_out(name, tmp_path):
    ready, journal = prepared(spec(**METHODS[name]), tmp_path)
    state, random = [state_sha256(each) for each in ready.teachers if each is not None], torch.get_rng_state()
    assert {plan.run: plan.times for plan in planned(ready)} == RUNS[name]
    torch.set_rng_state(random)
    bursts = timed(ready, journal=journal)
    assert torch.equal(torch.get_rng_state(), random)
    assert state == [state_sha256(each) for each in ready.teachers if each is not None]
    for each in bursts.trainings:
        assert each.pace.steps >= 3
        assert each.pace.steps_per_epoch == 5
        assert 0 < each.pace.weights_bytes < each.pace.state_bytes
        assert each.pace.step_seconds > 0
        assert each.pace.image_seconds > 0


def test_a_job_that_may_take_longer_than_it_is_allowed_is_warned_of(tmp_path):
    ready, journal = prepared(spec(resources={"max_seconds": 1}, baseline=False), tmp_path)
    estimate.tell(ready, journal=journal)
    (warned,) = [each for each in journal.teller.of(Warned) if "max_seconds" in each.message]
    assert "will take longer" in warned.message


def test_a_job_whose_checkpoints_have_no_room_is_refused(tmp_path, monkeypatch):
    from distillery.errors import StorageFull

    ready, journal = prepared(spec(baseline=False), tmp_path)

    class Disk:
        free = 100_000

    monkeypatch.setattr("worker.estimate.shutil.disk_usage", lambda _: Disk)
    with pytest.raises(StorageFull, match="will write at least") as caught:
        estimate.tell(ready, journal=journal)
    assert caught.value.pointer == "/training/keep"
    assert caught.value.hint


def test_a_long_burst_is_left_when_asked(tmp_path, monkeypatch):
    ready, journal = prepared(spec(baseline=False), tmp_path)
    journal.stop_requested = lambda: True
    monkeypatch.setattr("engine.burst._STOP_SECONDS", 0.0)
    with pytest.raises(Stopped):
        timed(ready, journal=journal)
