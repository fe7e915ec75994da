"""Job files and `--set`: read as JSON would be, and errors that say where and how to mend."""

import copy
import io
from pathlib import Path
from typing import Any

import pytest

from distillery.errors import InvalidRequest, InvalidSpec
from distillery.job_files import apply, read
from distillery.spec import parse

JOB: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "resnet20", "train": {"epochs": 2}},
    "student": {"architecture": "resnet8"},
    "method": {"objective": [{"term": "cross_entropy", "weight": 0.1}, {"term": "soft_targets", "temperature": 4}]},
}


@pytest.fixture
def job() -> dict[str, Any]:
    return copy.deepcopy(JOB)


def test_a_list_is_entered_by_number(job: dict[str, Any]) -> None:
    apply(job, ["method.objective.1.temperature=2"])
    assert parse(job).method.terms[1].temperature == 2  # type: ignore[union-attr]


def test_missing_sections_are_made_on_the_way(job: dict[str, Any]) -> None:
    apply(job, ["training.optimizer.name=adamw", "training.optimizer.lr=5e-4", "labels.team=vision"])
    assert job["training"] == {"optimizer": {"name": "adamw", "lr": 0.0005}}
    assert parse(job).labels == {"team": "vision"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 0.0005), ("1E3", 1000.0), (".5", 0.5), ("3.", 3.0), ("-2", -2), ("010", 10), ("true", True),
        ("null", None), ("", None), ("~", None), ("yes", "yes"), ("on", "on"), ("2026-01-02", "2026-01-02"),
        ("1_000", "1_000"), ("12:30:00", "12:30:00"), ("0x10", "0x10"), (".inf", ".inf"), (".nan", ".nan"),
        ("[1, 32]", [1, 32]), ("{name: sgd, lr: 1e-1}", {"name": "sgd", "lr": 0.1}), ('"5e-4"', "5e-4"),
        ("a=b", "a=b"),
    ],
)  # fmt: skip
def test_a_value_is_read_as_a_plain_scalar(text: str, value: Any) -> None:
    found = apply({"labels": {}}, [f"labels.x={text}"])["labels"]["x"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("setting", "said", "hint"),
    [
        ("foo", "'--set foo' is not of the form path=value", "--set training.epochs=20"),
        ("=3", "not of the form", ""),
        ("method.objective.5.weight=1", "'method.objective' is a list of 2, and '5' is no place", "from 0 to 1"),
        ("method.objective.first.weight=1", "'first' is no place", "from 0 to 1"),
        ("method.objective.-1=1", "'-1' is no place", "from 0 to 1"),
        ("teacher.architecture.name=x", "'teacher.architecture' is 'resnet20' and has no field", "--set 'teacher"),
        ("name=[", "The value of '--set name=[' cannot be read", "Quote it"),
    ],
)
def test_a_setting_that_does_not_fit_says_where_and_how_to_mend(
    job: dict[str, Any], setting: str, said: str, hint: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        apply(job, [setting])
    assert said in caught.value.detail
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("setting", "path", "nearest"),
    [
        ("trainig.epochs=3", "trainig.epochs", "training"),
        ("training.epoch=3", "training.epoch", "epochs"),
        ("method.objective.1.temprature=3", "method.objective.1.temprature", "temperature"),
    ],
)
def test_a_mistyped_path_is_answered_with_the_nearest_known_key(
    job: dict[str, Any], setting: str, path: str, nearest: str
) -> None:
    with pytest.raises(InvalidSpec) as caught:
        apply(job, [setting])
    (problem,) = caught.value.problems
    assert f"'--set {path}'" in problem.detail
    assert f"'{nearest}'" in problem.hint


def test_what_else_is_wrong_with_the_spec_is_for_the_service_to_say(job: dict[str, Any]) -> None:
    assert apply({**job, "surprise": 1}, ["training.epochs=-1"])["training"]["epochs"] == -1


def test_yaml_and_json_are_read_alike(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: x\ntraining: {optimizer: {name: sgd, lr: 5e-2}}  # a comment\n")
    (tmp_path / "a.json").write_text('{"name": "x", "training": {"optimizer": {"name": "sgd", "lr": 5e-2}}}')
    assert read(str(tmp_path / "a.yaml")) == read(str(tmp_path / "a.json"))


def test_a_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("name: from a pipe"))
    assert read("-") == {"name": "from a pipe"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [1, 2", "line 1, column 9"),
        (b"a: 1\na: 2\n", "line 2, column 1: 'a' stands here twice"),
        (b"1: 2\n", "the key 1 is no text"),
        (b"a: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        (b"- a\n- b\n", "holds a list instead of a job spec"),
        (b"", "holds nothing instead of a job spec"),
        (b"just words", "holds a str instead"),
        (b"\xff\xfe\x00", "is not text in UTF-8"),
    ],
)
def test_a_file_that_is_no_job_is_named_with_the_place(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(content)
    with pytest.raises(InvalidRequest) as caught:
        read(str(path))
    assert said in caught.value.detail
    assert str(path) in caught.value.detail
    assert caught.value.hint


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="No such file or directory"):
        read(str(tmp_path / "job.yaml"))
    with pytest.raises(InvalidRequest, match="Is a directory"):
        read(str(tmp_path))
