"""The form of a teacher in a whole study: told, kept in checkpoints, and the same after a stop."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distillery.errors import MissingDependency
from engine import checkpoint, teacher_forms
from engine.loop import Stopped
from tests.worker.test_studies import DIGITS, RECIPE, Told, digest, given, report, run, spec
from worker.journal import Journal, identity
from worker.messages import FormChosen, Measured, PhaseBegan, Saved, Warned, parse
from worker.study import distil


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained resnet14 as an earlier job delivered it."""
    told = run(spec(student={"architecture": "resnet8"}, baseline=False), tmp_path_factory.mktemp("teacher"))
    return Path(told.files["teacher.safetensors"].path)


def job(teacher: Path, *, form: str = "auto", **changes: Any) -> Any:
    training = RECIPE | {"teacher_form": form}
    return spec(**{"teacher": given(teacher), "training": training, "baseline": False} | changes)


def teachers(told: Told, run_name: str = "training") -> list[str]:
    """The forms told of the teachers of a run, in order."""
    choices = [message.choice for message in told.of(FormChosen)]
    return [choice.form for choice in choices if choice.role == "teacher" and choice.run == run_name]


def test_a_short_study_is_eager_and_says_why(teacher, tmp_path):
    told = run(job(teacher), tmp_path)
    assert teachers(told) == ["eager-fp32"]
    (choice,) = [message.choice for message in told.of(FormChosen) if message.choice.role == "teacher"]
    assert "too short" in choice.reason
    assert choice.tried == ()
    assert digest(told) == digest(run(job(teacher, form="eager"), tmp_path / "eager"))


def test_a_stopped_study_keeps_its_form_and_delivers_the_very_student(teacher, tmp_path):
    asked = job(teacher, form="onnxruntime")
    whole = run(asked, tmp_path / "whole")
    parted = run(asked, tmp_path / "parted", stops=(6, 9))
    assert teachers(whole) == ["onnxruntime-fp32"]
    assert len(teachers(parted)) >= 2
    assert set(teachers(parted)) == {"onnxruntime-fp32"}
    assert digest(parted) == digest(whole)
    forms = [(each.run, each.teachers, each.student) for each in report(parted).forms]
    assert forms == [("training", ("onnxruntime",), "eager")]
    assert not whole.of(Warned) or not any("form" in each.message for each in whole.of(Warned))


def test_what_a_trial_chose_is_kept_although_another_trial_might_choose_otherwise(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_forms, "PAYS_TIMES", 0.0)
    told, asked = Told(), job(teacher)
    path = stopped(asked, tmp_path / "first", told=told, looks=12)
    (first,) = teachers(told)
    monkeypatch.setattr(teacher_forms, "_fastest", None)  # another trial would fail
    distil(asked, journal=Journal(made(tmp_path / "second"), told, asked, attempt=2), teacher_weights={}, resume=path)
    assert teachers(told) == [first, first]
    assert report(told).quality


def test_where_the_form_is_missing_the_run_goes_on_eagerly_and_warns(teacher, tmp_path, monkeypatch):
    told, asked = Told(), job(teacher, form="onnxruntime")
    path = stopped(asked, tmp_path / "first", told=told, looks=12)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    journal = Journal(made(tmp_path / "second"), told, asked, attempt=2)
    distil(asked, journal=journal, teacher_weights={}, resume=path)
    assert teachers(told) == ["onnxruntime-fp32", "eager-fp32"]
    (warned,) = [each for each in told.of(Warned) if "form" in each.message]
    assert "onnxruntime is not installed" in warned.message
    assert "may differ" in warned.message
    assert warned.message in report(told).warnings
    assert journal.forms["training"]["teachers"] == ["eager"], "from here on it stays the same"


def test_a_run_that_was_begun_before_there_were_forms_stays_eager(teacher, tmp_path):
    told, asked = Told(), job(teacher, form="onnxruntime")
    path = stopped(asked, tmp_path / "first", told=told, looks=12)
    journal = Journal(made(tmp_path / "second"), told, asked, attempt=2)
    restore = journal.restore

    def older(file: Path) -> None:
        restore(file)
        journal.forms = {}

    journal.restore = older  # type: ignore[method-assign]  # of this one journal: a file from before there were forms
    distil(asked, journal=journal, teacher_weights={}, resume=path)
    assert teachers(told) == ["onnxruntime-fp32", "eager-fp32"]


def test_further_seeds_take_the_form_of_the_first(teacher, tmp_path):
    told = run(job(teacher, form="folded", seeds=2), tmp_path)
    assert (teachers(told), teachers(told, "training-seed2")) == (["folded-fp32"], ["folded-fp32"])


def test_a_form_that_cannot_be_is_a_warning_of_the_job(teacher, tmp_path):
    told = run(job(teacher, form="onnxruntime", method={"preset": ["fitnet", "kd"]}), tmp_path)
    assert teachers(told) == ["eager-fp32"]
    (warned,) = [each for each in told.of(Warned) if "does not answer as asked for" in each.message]
    assert "reads its layers" in warned.message


def test_every_teacher_of_an_ensemble_and_every_assistant_has_its_own(teacher, tmp_path):
    members = [given(teacher), {"architecture": "wrn16-1", "train": {"epochs": 1}, "minimum_accuracy": 0}]
    assistants = [{"architecture": "resnet8", "train": {"epochs": 1}}]
    asked = spec(teacher=members, training=RECIPE | {"teacher_form": "folded"}, assistants=assistants, baseline=False)
    told = run(asked, tmp_path)
    assert teachers(told, "assisting1") == ["folded-fp32", "folded-fp32"]
    assert teachers(told) == ["folded-fp32"]


def test_the_form_does_not_make_another_study_of_it(teacher):
    assert identity(job(teacher, form="onnxruntime")) == identity(job(teacher))


def test_the_trainer_tells_its_supervisor(teacher, tmp_path):
    described = {
        "dataset": DIGITS, "teacher": given(teacher), "student": {"architecture": "resnet8"}, "baseline": False,
        "training": RECIPE | {"epochs": 1, "teacher_form": "onnxruntime"}, "latency": None, "export": ["safetensors"],
    }  # fmt: skip
    path = tmp_path / "job.json"
    path.write_text(json.dumps(described))
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "worker.run", path, "--out", tmp_path / "out", "--events-fd", str(writing)]
    with subprocess.Popen([*map(str, command)], pass_fds=(writing,), stderr=subprocess.PIPE) as trainer:
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            messages = [parse(line) for line in pipe]
        _, errors = trainer.communicate()
    assert trainer.returncode == 0, errors.decode()
    kinds = [message.kind for message in messages]
    assert kinds.index("form") > kinds.index("estimated")
    told = [message.choice for message in messages if isinstance(message, FormChosen)]
    assert ("teacher", "training", "onnxruntime-fp32") in [(each.role, each.run, each.form) for each in told]


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def stopped(asked: Any, out: Path, *, told: Told, looks: int) -> Path:
    """The last checkpoint of an attempt that was asked to leave in the middle of the student's run."""
    left = [looks]

    def stop() -> bool:
        left[0] -= 1
        return left[0] <= 0

    journal = Journal(made(out), told, asked, stop_requested=stop)
    with pytest.raises(Stopped):
        distil(asked, journal=journal, teacher_weights={}, resume=None)
    return Path(told.of(Saved)[-1].path)


def test_asked_to_leave_before_a_resumed_run_takes_a_step_nothing_of_it_is_lost(tmp_path):
    """Of a study that has a finished run, so that there is something to save without the running one."""
    told = Told()
    asked = spec(baseline=False, training=RECIPE | {"epochs": 3})
    journal = Journal(made(tmp_path / "first"), told, asked)
    journal.stop_requested = lambda: any("training/loss" in message.values for message in told.of(Measured))
    with pytest.raises(Stopped):
        distil(asked, journal=journal, teacher_weights={}, resume=None)
    path = Path(told.of(Saved)[-1].path)
    before = checkpoint.load(path, sha256=None)
    assert (before["run"], list(before["finished"])) == ("training", ["teaching"])
    journal = Journal(made(tmp_path / "second"), told, asked, attempt=2)
    journal.restore(path)
    journal.stop_requested = lambda: True
    with pytest.raises(Stopped):
        journal.leave_when_asked()
    after = checkpoint.load(Path(told.of(Saved)[-1].path), sha256=None)
    assert after["run"] == "training"
    assert after["loop"]["step"] == before["loop"]["step"] > 0
    assert told.of(Saved)[-1].step == told.of(Saved)[-2].step


def compiled(teacher: Path, *, wanted: str = "on") -> Any:
    """Of the student that is compiled in the shortest time."""
    recipe = RECIPE | {"compile": wanted}
    return spec(teacher=given(teacher), student={"architecture": "seed_student"}, training=recipe, baseline=False)


def test_a_compiled_study_that_is_stopped_delivers_the_very_student_and_says_so(teacher, tmp_path):
    asked = compiled(teacher)
    whole, parted = run(asked, tmp_path / "whole"), run(asked, tmp_path / "parted", stops=(9,))
    assert digest(parted) == digest(whole)
    told = [each.choice for each in parted.of(FormChosen) if each.choice.role == "student"]
    assert [each.form for each in told] == ["compiled-fp32", "compiled-fp32"]
    assert told[1].reason == "as the run began."


def test_where_nothing_can_be_compiled_a_resumed_run_goes_on_without_and_warns(teacher, tmp_path, monkeypatch):
    told, asked = Told(), compiled(teacher)
    path = stopped(asked, tmp_path / "first", told=told, looks=9)
    monkeypatch.setenv("CXX", "no-such-compiler")
    later = compiled(teacher, wanted="auto")  # by 'on' it would be refused at once
    distil(later, journal=Journal(made(tmp_path / "second"), told, later, attempt=2), teacher_weights={}, resume=path)
    forms = [each.choice.form for each in told.of(FormChosen) if each.choice.role == "student"]
    assert forms == ["compiled-fp32", "eager-fp32"]
    (warned,) = [each for each in told.of(Warned) if "uncompiled" in each.message]
    assert "no-such-compiler" in warned.message


def test_what_cannot_be_compiled_here_is_refused_before_anything_is_trained(teacher, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    told = Told()
    asked = spec(training=RECIPE | {"compile": "on"}, baseline=False)
    with pytest.raises(MissingDependency, match="no-such-compiler") as refused:
        distil(asked, journal=Journal(tmp_path, told, asked), teacher_weights={}, resume=None)
    assert refused.value.pointer == "/training/compile"
    assert [message.phase for message in told.of(PhaseBegan)] == ["preparing"]
