"""Whole studies of every strategy on real digits: what they deliver, what they tell, and that they survive a stop."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from distillery.errors import InvalidRequest, UnusableWeights
from distillery.report import Report
from distillery.spec import parse, resolve
from engine.data.dataset import Dataset
from engine.data.readers import load
from engine.data.sealed import SealedSplit
from engine.delivered import network_of
from engine.evaluate import accuracy, predict
from engine.loop import Stopped
from engine.weights import read_metadata
from worker.journal import Journal
from worker.messages import Delivered, Finished, Measured, Message, PhaseBegan, Progressed, Saved, Warned
from worker.study import distil

DIGITS = {"kind": "digits", "image_size": 8}
TRAINED = {"architecture": "resnet14", "train": {"epochs": 3}}
RECIPE = {
    "epochs": 2, "batch_size": 64, "optimizer": {"name": "adamw", "lr": 3e-3}, "seed": 0, "device": "cpu", "threads": 1,
    "precision": "fp32",
}  # fmt: skip


class Told(list[Message]):
    """A teller that keeps what it is told."""

    def tell(self, message: Message) -> None:
        self.append(message)

    def of(self, kind: type) -> list[Any]:
        return [message for message in self if isinstance(message, kind)]

    @property
    def files(self) -> dict[str, Delivered]:
        return {message.name: message for message in self.of(Delivered)}


def spec(**changes: Any) -> Any:
    base = {
        "dataset": DIGITS, "teacher": TRAINED, "student": {"architecture": "resnet8"}, "training": RECIPE,
        "latency": None, "export": ["safetensors"],
    }  # fmt: skip
    return resolve(parse({key: value for key, value in (base | changes).items() if value is not ...}))


def run(job: Any, out: Path, *, weights: dict[int, Path] | None = None, stops: tuple[int, ...] = ()) -> Told:
    """The study from start to end, stopped after each of the given numbers of looks and taken up again."""
    told, resume = Told(), None
    for attempt, looks in enumerate((*stops, None), 1):
        left = [looks]

        def stop(left: list[int | None] = left) -> bool:
            if left[0] is not None:
                left[0] -= 1
            return left[0] is not None and left[0] <= 0

        journal = Journal(out=out / f"a{attempt}", teller=told, spec=job, attempt=attempt, stop_requested=stop)
        (out / f"a{attempt}").mkdir(parents=True)
        try:
            distil(job, journal=journal, teacher_weights=weights or {}, resume=resume)
        except Stopped:
            saved = told.of(Saved)
            resume = Path(saved[-1].path) if saved else None
    return told


def report(told: Told) -> Report:
    return Report.model_validate_json(Path(told.files["report.json"].path).read_bytes())


def digest(told: Told, name: str = "student.safetensors") -> str:
    return hashlib.sha256(Path(told.files[name].path).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(parse({"dataset": DIGITS, "teacher": TRAINED, "student": {"architecture": "resnet8"}}).dataset)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained resnet14 as an earlier job delivered it."""
    told = run(spec(student={"architecture": "resnet8"}, baseline=False), tmp_path_factory.mktemp("teacher"))
    return Path(told.files["teacher.safetensors"].path)


def given(teacher: Path) -> dict[str, Any]:
    return {"architecture": "resnet14", "weights": str(teacher)}


STRATEGIES: dict[str, dict[str, Any]] = {
    "features": {"method": {"preset": ["crd", "reviewkd", "kd"]}},
    "online": {"method": {"strategy": "online"}, "teacher": {"architecture": "resnet14"}},
    "one_way": {"method": {"strategy": "online", "mutual": False}, "teacher": {"architecture": "resnet14"}},
    "self_distillation": {"method": {"strategy": "self_distillation"}, "teacher": ...},
    "dafl": {"method": {"strategy": "data_free", "synthesis": "dafl", "steps_per_epoch": 4}},
    "fast": {"method": {"strategy": "data_free", "synthesis": {"name": "fast", "pool": 256}, "steps_per_epoch": 4}},
    "assistant": {"assistants": [{"architecture": "resnet14"}]},
    "seeds": {"seeds": 2},
}


def study(name: str, teacher: Path) -> Any:
    changes = {"teacher": given(teacher), "dataset": {**DIGITS, "limit": 400}, **STRATEGIES[name]}
    return spec(**changes)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_stopped_study_delivers_the_very_student_of_an_uninterrupted_one(name, teacher, tmp_path):
    whole = run(study(name, teacher), tmp_path / "whole")
    parted = run(study(name, teacher), tmp_path / "parted", stops=(3, 5, 9))
    assert len({message.path.split("/")[-2] for message in parted.of(Saved)}) >= 3, "it was stopped, and went on"
    assert digest(parted) == digest(whole)
    assert report(parted).quality[0].top1 == report(whole).quality[0].top1


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name not in ("assistant", "seeds")])
def test_every_strategy_learns_from_batches_in_parts(name, teacher, tmp_path):
    """Whether the parts add up is tested with the loop; here, that nothing of a strategy needs the batch whole."""
    job, told = study(name, teacher), Told()
    distil(job, journal=Journal(tmp_path, told, job), teacher_weights={}, resume=None, micro_batches=2)
    assert report(told).quality[0].top1.value > 0
    runs = {message.data["run"] for message in told.of(Warned) if "in 2 parts" in message.message}
    assert runs == {"training", "baseline"} - ({"baseline"} if "data_free" in str(job.method) else set())


def test_online_delivers_the_teacher_too(teacher, digits, tmp_path):
    told = run(study("online", teacher), tmp_path)
    found = report(told)
    assert {each.role for each in found.quality} == {"teacher", "student", "baseline"}
    (finished,) = told.of(Finished)
    assert [(each.role, each.architecture) for each in finished.models] == [
        ("teacher", "resnet14"), ("student", "resnet8"),
    ]  # fmt: skip
    for role in ("teacher", "student"):
        network = network_of(Path(told.files[f"{role}.safetensors"].path), dataset=digits, otherwise="")
        logits = predict(network, digits.test, mean=digits.mean, std=digits.std, device="cpu")
        top1 = next(each.top1.value for each in found.quality if each.role == role)
        assert accuracy(logits, digits.test.labels) == pytest.approx(top1)
    assert any("training/validation/accuracy/teacher" in message.values for message in told.of(Measured))


def test_of_several_peers_each_is_delivered_with_its_accuracy(teacher, tmp_path):
    peers = [{"architecture": "resnet14"}, {"architecture": "wrn16-1"}]
    told = run(spec(method={"strategy": "online"}, teacher=peers, baseline=False), tmp_path)
    roles = {each.role: each.architecture for each in report(told).quality}
    assert roles == {"teacher": "resnet14", "teacher2": "wrn16-1", "student": "resnet8"}
    series = {key for message in told.of(Measured) for key in message.values}
    assert {f"training/validation/accuracy{name}" for name in ("", "/teacher", "/teacher2")} <= series
    (finished,) = told.of(Finished)
    assert [each.artifact for each in finished.models] == [
        "teacher.safetensors", "teacher2.safetensors", "student.safetensors",
    ]  # fmt: skip


def test_self_distillation_needs_no_teacher_and_delivers_its_exits(teacher, digits, tmp_path):
    job = spec(
        **STRATEGIES["self_distillation"], export=["safetensors", "onnx"],
        latency={"runtimes": ["eager"], "batch_sizes": [1], "seconds": 1},
    )  # fmt: skip
    told = run(job, tmp_path)
    found = report(told)
    assert {each.role for each in found.quality} == {"student", "baseline", "exit1", "exit2"}
    assert {"exit1.safetensors", "exit2.safetensors", "exit1.onnx", "exit2.onnx", "student.onnx"} <= told.files.keys()
    assert not any(name.startswith("teacher") for name in told.files)
    by_role = {each.role: each for each in found.quality}
    assert by_role["exit1"].macs < by_role["exit2"].macs < by_role["student"].macs * 1.5
    assert by_role["student"].parameters == by_role["baseline"].parameters
    for place, each in enumerate(found.exits, 1):
        assert (each.role, each.stage) == (f"exit{place}", f"layer{place}")
        assert each.latency.comparisons[0].rounds >= 30
        network = network_of(Path(told.files[f"{each.role}.safetensors"].path), dataset=digits, otherwise="")
        logits = predict(network, digits.test, mean=digits.mean, std=digits.std, device="cpu")
        assert accuracy(logits, digits.test.labels) == pytest.approx(by_role[each.role].top1.value)
    assert "exit 1 (behind layer1)" in found.summary


@pytest.mark.parametrize("name", ["dafl", "fast"])
def test_a_data_free_job_reads_nothing_but_the_test_split(name, teacher, tmp_path, monkeypatch):
    """The splits for training and validation are sealed as soon as the data is loaded: whoever touches them fails."""
    sealed: list[Dataset] = []
    real = load

    def loading(*arguments: Any, **options: Any) -> Dataset:
        dataset = real(*arguments, **options)
        sealed.append(dataset)
        return dataset

    monkeypatch.setattr("worker.preparation.load", loading)
    looked: list[str] = []
    test = {field: SealedSplit.__dict__[field] for field in ("images", "labels", "ids")}
    for field, refusal in test.items():

        def refuse(self: SealedSplit, field: str = field, refusal: Any = refusal) -> Any:
            looked.append(field)
            return refusal.__get__(self)

        monkeypatch.setattr(SealedSplit, field, property(refuse))
    told = run(study(name, teacher), tmp_path)
    assert len(sealed) == 1
    assert looked == []
    assert {each.role for each in report(told).quality} == {"teacher", "student"}
    assert report(told).helped is None
    assert report(told).synthetic.startswith("data:image/png;base64,")
    assert told.files["synthetic.png"].media_type == "image/png"
    assert "train_images" not in report(told).dataset


def test_a_data_free_job_asks_the_weights_for_their_normalisation(teacher, tmp_path):
    from safetensors.torch import load_file, save_file

    bare = tmp_path / "bare.safetensors"
    save_file(load_file(teacher), bare, metadata={"architecture": "resnet14"})
    with pytest.raises(UnusableWeights, match="mean and deviation") as caught:
        run(spec(**STRATEGIES["fast"] | {"teacher": given(bare)}), tmp_path / "run")
    assert caught.value.pointer == "/teacher/weights"


@pytest.mark.parametrize("merge", ["mean_logits", "mean_probabilities", "confidence"])
def test_several_teachers_given_and_trained_teach_together(merge, teacher, digits, tmp_path):
    members = [given(teacher), {"architecture": "wrn16-1", "train": {"epochs": 3}}]
    told = run(spec(teacher={"members": members, "merge": merge}, baseline=False), tmp_path)
    roles = {each.role: each for each in report(told).quality}
    assert roles.keys() == {"teacher", "teacher1", "teacher2", "student"}
    assert roles["teacher"].parameters == roles["teacher1"].parameters + roles["teacher2"].parameters
    assert roles["teacher"].architecture == "resnet14 + wrn16-1"
    header = read_metadata(Path(told.files["teacher.safetensors"].path))
    assert (json.loads(header["members"]), header["merge"]) == (["resnet14", "wrn16-1"], merge)
    network = network_of(Path(told.files["teacher.safetensors"].path), dataset=digits, otherwise="")
    logits = predict(network, digits.test, mean=digits.mean, std=digits.std, device="cpu")
    assert accuracy(logits, digits.test.labels) == pytest.approx(roles["teacher"].top1.value)
    (finished,) = told.of(Finished)
    assert [(each.role, each.artifact) for each in finished.models] == [
        ("teacher", "teacher2.safetensors"), ("student", "student.safetensors"),
    ]  # fmt: skip


def test_fetched_weights_go_to_the_teacher_at_their_place(teacher, tmp_path):
    model = "mdl_" + "0" * 26
    members = [{"architecture": "wrn16-1", "train": {"epochs": 3}}, {"architecture": "resnet14", "model": model}]
    told = run(spec(teacher={"members": members}, baseline=False), tmp_path, weights={1: teacher})
    assert digest(told, "teacher2.safetensors") == hashlib.sha256(teacher.read_bytes()).hexdigest()


def test_a_chain_of_assistants_is_taught_one_by_the_other(teacher, tmp_path):
    job = spec(
        teacher=given(teacher),
        assistants=[{"architecture": "wrn16-1", "train": {"epochs": 3}}, {"architecture": "resnet8"}],
    )
    told = run(job, tmp_path)
    assert [message.phase for message in told.of(PhaseBegan)] == [
        "preparing", "assisting", "training", "baseline", "evaluating", "exporting",
    ]  # fmt: skip
    roles = {each.role: each for each in report(told).quality}
    assert list(roles) == ["teacher", "student", "baseline", "assistant1", "assistant2"]
    assert roles["assistant1"].architecture == "wrn16-1"
    series = {key for message in told.of(Measured) for key in message.values}
    assert {"assisting1/loss/soft_targets", "assisting2/loss/soft_targets"} <= series
    (finished,) = told.of(Finished)
    assert [each.artifact for each in finished.models] == [
        "assistant1.safetensors", "assistant2.safetensors", "student.safetensors",
    ]  # fmt: skip


def test_several_seeds_tell_mean_and_spread(teacher, tmp_path):
    told = run(spec(teacher=given(teacher), seeds=3), tmp_path)
    found = report(told)
    assert [each.seed for each in found.seeds.runs] == [0, 1, 2]
    assert found.seeds.runs[0].student == pytest.approx(
        next(e.top1.value for e in found.quality if e.role == "student")
    )
    assert found.gain == found.seeds.gain
    mean = sum(each.student - each.baseline for each in found.seeds.runs) / 3
    assert found.gain.value == pytest.approx(mean)
    assert "mean of 3 seeds" in found.summary
    progress = [message.progress for message in told.of(Progressed) if message.progress.phase == "training"]
    assert [each.step for each in progress] == sorted(each.step for each in progress)
    assert progress[-1].step == progress[-1].total_steps


def test_one_seed_of_several_is_the_same_run_as_alone(teacher, tmp_path):
    several = run(spec(teacher=given(teacher), seeds=2, baseline=False), tmp_path / "several")
    alone = run(spec(teacher=given(teacher), baseline=False), tmp_path / "alone")
    assert digest(several) == digest(alone)
    second = spec(teacher=given(teacher), baseline=False, training=RECIPE | {"seed": 1})
    other = run(second, tmp_path / "second")
    accuracies = [each.student for each in report(several).seeds.runs]
    assert accuracies[1] == pytest.approx(next(e.top1.value for e in report(other).quality if e.role == "student"))


def test_an_unknown_layer_is_refused_before_anything_is_trained(teacher, tmp_path):
    pairs = [{"student": "layer7", "teacher": "layer2"}]
    job = spec(teacher=given(teacher), method={"objective": [{"term": "hint", "pairs": pairs}]})
    told = Told()
    journal = Journal(out=tmp_path, teller=told, spec=job)
    with pytest.raises(InvalidRequest, match="There is no layer 'layer7'") as caught:
        distil(job, journal=journal, teacher_weights={}, resume=None)
    assert "layer1" in caught.value.hint
    assert caught.value.pointer == "/method/objective/0/pairs"
    assert [message.phase for message in told.of(PhaseBegan)] == ["preparing"]


def test_a_dead_term_is_a_warning_of_the_job(teacher, tmp_path):
    terms = [{"term": "cross_entropy", "weight": 1.0}, {"term": "soft_targets", "weight": 1e-7}]
    told = run(spec(teacher=given(teacher), method={"objective": terms}, baseline=False), tmp_path)
    (warned,) = [message for message in told.of(Warned) if "teaches nothing" in message.message]
    assert warned.data == {"run": "training"}
    assert warned.message in report(told).warnings


def test_convolutions_teach_a_transformer_and_the_other_way_round(tmp_path, monkeypatch):
    """Nets of the shape of vit_b_16, small: their tokens are read as maps."""
    from torchvision.models import VisionTransformer

    import models
    from worker import exports
    from worker import ready as built

    # The small network goes by a name of the catalogue, under which a fresh process would find the large one.
    monkeypatch.setattr(exports, "_hold_against", lambda *_, **__: None)

    def build(name: str, *, classes: int, image_size: int, channels: int) -> torch.nn.Module:
        if name != "torchvision/vit_b_16":
            return models.build(name, classes=classes, image_size=image_size, channels=channels)
        network = VisionTransformer(
            image_size=image_size,
            patch_size=2,
            num_layers=12,
            num_heads=2,
            hidden_dim=16,
            mlp_dim=32,
            num_classes=classes,
        )
        network.conv_proj = torch.nn.Conv2d(channels, 16, 2, stride=2)
        return network

    monkeypatch.setattr(built, "build", build)
    pair = ("resnet14", "torchvision/vit_b_16")
    for number, (slow, fast) in enumerate((pair, pair[::-1])):
        job = spec(
            teacher={"architecture": slow, "train": {"epochs": 1}, "minimum_accuracy": 0}, baseline=False,
            student={"architecture": fast}, method={"preset": ["fitnet", "at", "sp", "reviewkd", "crd"]},
            training=RECIPE | {"epochs": 1},
        )  # fmt: skip
        told = run(job, tmp_path / str(number))
        assert {"training/loss/hint", "training/loss/review"} <= {key for m in told.of(Measured) for key in m.values}


def test_what_cannot_be_measured_here_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    job = spec(latency={"runtimes": ["cuda-graph", "eager"], "devices": ["cuda"]})
    with pytest.raises(InvalidRequest, match="cuda-graph on cuda, because PyTorch finds no CUDA device") as told:
        run(job, tmp_path)
    assert told.value.pointer == "/latency/runtimes"
    assert "eager, compiled, onnxruntime" in told.value.hint
