"""A frozen teacher answers in another form only where that gives its answers, and stays what it was."""

import copy
import io
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from engine import form_making, teacher_forms
from engine.answers_table import AnswersTable
from engine.data.cuts import augmented
from engine.data.views import Batch, Normalisation
from engine.export import export_onnx
from engine.form_making import NAMES, FormMaker
from engine.intake.answers import Answers
from engine.precision import autocast
from engine.runtimes import find
from engine.teacher_forms import MOST_KL, MOST_MEAN_KL, choose_form, divergences, judged
from engine.teachers import EnsembleTeacher, Form, FrozenTeacher, frozen_members
from models import build

CPU = torch.device("cpu")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HERE = [name for name in NAMES if name == "folded" or not find(name).absent_on(CPU)]
EXACT = [name for name in HERE if "int8" not in name and "bf16" not in name]
ENDLESS = 10**9


@pytest.fixture(scope="module")
def images(request: pytest.FixtureRequest) -> Tensor:
    """Augmented training images of CIFAR-10, as a run would show them: float32 [64, 3, 32, 32]."""
    root = Path(__file__).resolve().parents[3] / "shared" / "data"
    archive = Path(os.environ.get("DISTILLERY_DATA", root)) / "cifar10" / "cifar10_train.zip"
    if not archive.is_file():
        pytest.skip(f"real data is not at {archive}; set DISTILLERY_DATA")
    with zipfile.ZipFile(archive) as files:
        names = sorted(name for name in files.namelist() if name.endswith(".webp"))[:: 50_000 // 64][:64]
        pixels = [np.array(Image.open(io.BytesIO(files.read(name))).convert("RGB")) for name in names]
    whole = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    views = augmented(whole, augment=("crop", "flip"), generator=torch.Generator().manual_seed(0))
    return Normalisation(mean=IMAGENET[0], std=IMAGENET[1], device=CPU, channels_last=True)(views)


@pytest.fixture
def network(data_root: Any) -> nn.Module:
    """resnet20 with its author's weights, 92 % on CIFAR-10."""
    (path,) = data_root("cifar10-resnet-weights").glob("resnet20-*.th")
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    made = build("resnet20", classes=10, image_size=32, channels=3)
    made.load_state_dict({key.removeprefix("module."): each for key, each in state.items()}, strict=True)
    return made.eval()


def chosen(teacher: FrozenTeacher, images: Tensor, **options: Any) -> teacher_forms.Chosen:
    asked = {"batch_size": 32, "batches_in_run": ENDLESS, "precision": "fp32"} | options
    return choose_form(teacher, images, **asked)


def batch_of(images: Tensor) -> Batch:
    rows = torch.arange(len(images))
    return Batch(images, rows, rows)


def eager(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(network).eval()(images)


def spoilt(network: nn.Module) -> nn.Module:
    """The same network with a hundredth of noise in its weights: still right on most images."""
    other, generator = copy.deepcopy(network), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each in other.parameters():
            each.mul_(1 + 0.03 * torch.randn(each.shape, generator=generator))
    return other


@pytest.mark.parametrize("name", EXACT)
def test_a_form_of_full_precision_gives_the_answers_of_the_network(name, network, images):
    teacher = FrozenTeacher(network)
    before = teacher.state_sha256()
    told = chosen(teacher, images, wanted=name)
    assert told.name == name
    assert told.choice.form == teacher.form == f"{name}-fp32"
    for count in (32, 5, 64):  # the last batch of an epoch is smaller
        answers = teacher.knowledge(batch_of(images[:count])).logits
        torch.testing.assert_close(answers, eager(network, images[:count]), rtol=1e-4, atol=1e-4)
        assert not answers.requires_grad
    assert teacher.state_sha256() == before
    assert not any(name not in dict(network.named_parameters()) for name, _ in teacher.network.named_parameters())


def test_the_fastest_of_the_faithful_is_taken_and_all_are_told(network, images):
    teacher = FrozenTeacher(network)
    before, told = teacher.state_sha256(), chosen(teacher, images)
    choice = told.choice
    assert [each.form for each in choice.tried] == list(NAMES)
    timed = {each.form: each for each in choice.tried if each.speedup is not None}
    assert set(EXACT) <= set(timed)
    best = max(timed.values(), key=lambda each: each.speedup.median)
    assert told.name == (best.form if best.speedup.median >= 1.1 else "eager")
    for each in choice.tried:
        assert bool(each.refused) == (each.speedup is None)
        if not each.refused:
            assert each.kl_mean <= MOST_MEAN_KL
            assert each.kl_max <= MOST_KL
            assert each.speedup.low <= each.speedup.median <= each.speedup.high
    assert choice.images == 64
    assert choice.eager_images_per_second.median > 0
    assert choice.trial_seconds > 0
    torch.testing.assert_close(teacher.knowledge(batch_of(images)).logits, eager(network, images), rtol=0.05, atol=0.2)
    assert teacher.state_sha256() == before


def test_a_spoilt_form_is_refused_and_the_network_answers(network, images, monkeypatch):
    """What ONNX Runtime loads is a real export of a network whose weights are not the teacher's."""

    def export(own: nn.Module, path: Path, **shape: int) -> None:
        export_onnx(spoilt(own), path, **shape)

    monkeypatch.setattr(form_making, "export_onnx", export)
    agreement = (eager(spoilt(network), images).argmax(1) == eager(network, images).argmax(1)).float().mean()
    assert agreement > 0.9, "it would pass for the teacher by its accuracy"
    teacher = FrozenTeacher(network)
    told = chosen(teacher, images, wanted="onnxruntime")
    assert told.name == "eager"
    assert teacher.form == told.choice.form == "eager-fp32"
    (tried,) = told.choice.tried
    assert tried.kl_mean > MOST_MEAN_KL
    assert "at most 0.0001 is allowed" in tried.refused
    torch.testing.assert_close(teacher.knowledge(batch_of(images)).logits, eager(network, images))


def test_a_form_that_is_wild_on_one_image_is_refused(network, images):
    reference = eager(network, images).repeat(32, 1)
    answers = reference.clone()
    form = Form("another", "fp32", lambda each: each)
    unsure = reference.amax(1).argmin()
    answers[unsure] = 0.6 * reference[unsure]
    assert divergences(reference, answers).max() > 3 * MOST_KL
    assert divergences(reference, answers).mean() < MOST_MEAN_KL, "on average nobody would see it"
    kept, tried = judged(form, answers, reference=reference, name="another")
    assert kept is None
    assert "on one image" in tried.refused
    assert judged(form, reference + 1.0, reference=reference, name="another")[0] is form, "softmax sees no shift"
    for broken in (reference.clone().fill_(float("nan")), reference[:, :5]):
        assert judged(form, broken, reference=reference, name="another")[0] is None


def test_divergences_are_those_of_the_definition(images):
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    p, q = ((each / 4).softmax(1) for each in (first, second))
    torch.testing.assert_close(divergences(first, second), (p * (p / q).log()).sum(1))
    assert divergences(first.float(), second.float()).dtype == torch.float64


def test_a_short_run_stays_eager_and_nothing_is_made_for_it(network, images, monkeypatch):
    def refuse(*_: Any) -> None:
        raise AssertionError("Something was made for a run that is too short.")

    monkeypatch.setattr(FormMaker, "make", refuse)
    # Of the second it is not known before a batch is timed: nobody could answer it for longer than a few seconds.
    for batches, words in ((3, "too short"), (1_600, "pays from")):
        told = chosen(FrozenTeacher(network), images, batches_in_run=batches)
        assert told.name == "eager"
        assert words in told.choice.reason
        assert told.choice.tried == ()


def test_what_is_never_tried_is_told_with_the_reason(network, images):
    rows = np.arange(64)
    table = Answers(rows, None, np.zeros((64, 10), dtype=np.float32), None, "logits")
    cases = {
        "training.teacher_form": (FrozenTeacher(network), {"wanted": "eager"}),
        "reads its layers layer2": (FrozenTeacher(network, layers=("layer2",)), {}),
        "black box": (FrozenTeacher(AnswersTable(table, classes=10, outputs="auto")), {}),
    }
    for words, (teacher, options) in cases.items():
        told = chosen(teacher, images, **options)
        assert told.name == "eager"
        assert words in told.choice.reason
        assert told.choice.trial_seconds == 0
    assert "nobody could say" in chosen(FrozenTeacher(network), images[:4]).choice.reason
    with pytest.raises(ValueError, match="layer2"):
        FrozenTeacher(network, layers=("layer2",)).answer_in(Form("x", "fp32", lambda each: each))


def test_a_form_that_is_not_to_be_had_is_told_and_left(network, images, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    teacher = FrozenTeacher(network)
    told = chosen(teacher, images, wanted="openvino")
    assert told.name == "eager"
    assert "the package openvino is not installed" in told.choice.reason
    assert "the package openvino is not installed" in told.choice.tried[0].refused
    assert teacher.form == "eager-fp32"


def test_a_network_that_cannot_be_exported_stays_eager_with_every_reason(images, monkeypatch):
    class Branches(nn.Module):
        """What it computes hangs on what it sees, which no graph holds."""

        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10)

        def forward(self, shown: Tensor) -> Tensor:
            found = self.norm(self.convolution(shown))
            return found.mean(dim=(2, 3)) if float(shown.sum()) > 0 else found.amax(dim=(2, 3))

    teacher = FrozenTeacher(Branches())
    told = chosen(teacher, images)
    assert told.name == "eager"
    assert all(each.refused for each in told.choice.tried)
    assert "cannot be written as ONNX" in next(each.refused for each in told.choice.tried if each.form == "onnxruntime")


def test_asked_to_leave_in_the_middle_it_stays_eager(network, images):
    class Left(Exception):
        pass

    looks = []

    def leave() -> None:
        looks.append(1)
        if len(looks) == 2:
            raise Left

    teacher = FrozenTeacher(network)
    with pytest.raises(Left):
        chosen(teacher, images, meanwhile=leave)
    assert teacher.form == "eager-fp32"


def test_the_name_of_eager_tells_the_precision_of_the_caller(network, images):
    teacher = FrozenTeacher(network)
    with autocast(CPU, precision="bf16"):
        assert teacher.form == teacher.form_in("bf16") == "eager-bf16"
        told = chosen(teacher, images, precision="bf16", wanted="folded")
        assert told.choice.form == teacher.form == "folded-bf16"
        assert teacher.knowledge(batch_of(images[:4])).logits.dtype == torch.bfloat16
    assert teacher.form == "folded-fp32"


def test_each_member_of_an_ensemble_has_its_own_form(network, images):
    members = [FrozenTeacher(network), FrozenTeacher(spoilt(network))]
    ensemble = EnsembleTeacher(members, merge="mean_logits")
    assert frozen_members(ensemble) == tuple(members)
    assert frozen_members(members[0]) == (members[0],)
    assert frozen_members(None) == ()
    before = ensemble.knowledge(batch_of(images)).logits
    chosen(members[0], images, wanted="onnxruntime")
    assert [each.form for each in members] == ["onnxruntime-fp32", "eager-fp32"]
    torch.testing.assert_close(ensemble.knowledge(batch_of(images)).logits, before, rtol=1e-4, atol=1e-4)


def test_eight_bits_are_told_by_their_figures(network, images):
    """Whether they are faithful hangs on network and processor; that the bound decides does not."""
    for name in (name for name in HERE if name.endswith("int8")):
        told = chosen(FrozenTeacher(network), images, wanted=name)
        (tried,) = told.choice.tried
        faithful = tried.kl_mean <= MOST_MEAN_KL and tried.kl_max <= MOST_KL
        assert told.name == (name if faithful else "eager")
        assert tried.kl_mean > 1e-9, "eight bits leave a trace"


def test_the_trial_leaves_no_file_behind(network, images, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    teacher = FrozenTeacher(network)
    chosen(teacher, images, wanted="openvino" if "openvino" in HERE else "onnxruntime")
    assert list(tmp_path.iterdir()) == []
    assert teacher.knowledge(batch_of(images[:7])).logits.shape == (7, 10)
