"""A published teacher on real images: what is wrong with how it reads them is named, with what it costs."""

import copy
import os
import zipfile
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.functional import pil_to_tensor

from distillery.errors import UnfitTeacher
from distillery.spec.preprocessing import Preprocessing
from engine.data.dataset import Dataset, Split
from engine.diagnosis import Suspect, examine, matched
from engine.evaluate import BatchNetwork
from models import build

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALVES = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
OWN = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
OF_A_CLASS, FEW_OF_A_CLASS = 40, 16


@pytest.fixture(scope="module")
def many_photographs(shared_data):
    """400 images of CIFAR-10's test split, forty of each class, all of them for validation."""
    images, labels = [], []
    with zipfile.ZipFile(shared_data("cifar10") / "cifar10_test.zip") as files:
        names = sorted(name for name in files.namelist() if name.endswith(".webp"))
        folders = groupby(names, key=lambda name: name.rpartition("/")[0])
        classes = []
        for label, (folder, members) in enumerate(folders):
            classes.append(folder.rpartition("/")[2])
            for name in list(members)[:OF_A_CLASS]:
                with files.open(name) as file, Image.open(file) as picture:
                    images.append(pil_to_tensor(picture.convert("RGB")))
                labels.append(label)
    split = Split(torch.stack(images), torch.tensor(labels), torch.arange(len(labels)))
    mean, std = IMAGENET
    return Dataset(
        name="cifar10", classes=tuple(classes), channels=3, image_size=32, mean=mean, std=std, train=split,
        validation=split, test=split, sha256="0" * 64, notes=(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def photographs(many_photographs):
    """160 of them, sixteen of each class."""
    whole = many_photographs.validation
    rows = torch.arange(len(whole))[torch.arange(len(whole)) % OF_A_CLASS < FEW_OF_A_CLASS]
    part = Split(whole.images[rows], whole.labels[rows], torch.arange(len(rows)))
    return replace(many_photographs, validation=part)


@pytest.fixture(scope="module")
def shared_data():
    """The folders of the shared data, for fixtures that are made once."""
    root = Path(os.environ.get("DISTILLERY_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"real data is not at {root}; set DISTILLERY_DATA")
    return lambda name: root / name


@pytest.fixture(scope="module", params=["resnet20"])
def teacher(request, shared_data):
    """The network with its author's weights."""
    (path,) = shared_data("cifar10-resnet-weights").glob(f"{request.param}-*.th")
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    network = build(request.param, classes=10, image_size=32, channels=3).eval()
    network.load_state_dict({key.removeprefix("module."): each for key, each in state.items()}, strict=True)
    return network


def look(network, photographs, *, reads=IMAGENET, minimum=None, **told):
    mean, std = reads
    suspect = Suspect(network, mean=mean, std=std, **told)
    data = replace(photographs, mean=mean, std=std)
    return examine(suspect, dataset=data, measured=OWN, minimum=minimum, pointer="/teacher")


def turned_round(network):
    """The same network, trained as if on images whose first channel is blue."""
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.conv1.weight.copy_(other.conv1.weight.flip(1))
    return other


def shuffled(network, order):
    """The same network, whose output i stands for the class order[i]."""
    other = copy.deepcopy(network)
    last = next(module for module in reversed(list(other.modules())) if isinstance(module, nn.Linear))
    with torch.no_grad():
        last.weight.copy_(last.weight[list(order)])
        last.bias.copy_(last.bias[list(order)])
    return other


def test_a_sound_teacher_is_measured_and_nothing_is_said(teacher, photographs):
    found = look(teacher, photographs, recorded=0.92)
    assert found.top1.value > 0.88
    assert found.images == 160
    assert found.warning == ""


def test_wrong_mean_and_deviation_are_named(teacher, photographs):
    found = look(teacher, photographs, reads=((0.0,) * 3, (2.0,) * 3), minimum=0.0, recorded=0.92)
    assert "Read with ImageNet's mean and deviation it answers 9" in found.warning
    assert "mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225" in found.warning
    assert "measured before, 92.0%" in found.warning


def test_a_teacher_that_is_fed_bytes_is_refused_with_its_normalisation(teacher, photographs):
    with pytest.raises(UnfitTeacher) as caught:
        look(teacher, photographs, reads=((0.0,) * 3, (1 / 255,) * 3), minimum=0.8)
    assert caught.value.code == "NORMALISATION"
    assert "ImageNet's mean and deviation it answers 9" in caught.value.detail
    assert caught.value.pointer == "/teacher"
    assert "mean 0.485" in caught.value.hint


def test_a_teacher_that_wants_bytes_is_told_so(teacher, photographs):
    """Weights trained on bytes, which a normalisation of 0 to 1 starves."""
    wants_bytes = copy.deepcopy(teacher)
    scale = torch.tensor([255 * each for each in IMAGENET[1]]).view(1, 3, 1, 1)

    class OnBytes(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = wants_bytes

        def forward(self, images):
            mean = torch.tensor(IMAGENET[0]).view(1, 3, 1, 1) * 255
            return self.network((images - mean) / scale)

    with pytest.raises(UnfitTeacher) as caught:
        look(OnBytes(), photographs, reads=HALVES)
    assert caught.value.code == "NORMALISATION"
    assert "Read as bytes from 0 to 255 it answers 9" in caught.value.detail


def test_blue_before_red_is_named(teacher, many_photographs):
    """Shown where it matters: most photographs are known by their shapes, whatever their colours."""
    whole = many_photographs.validation
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in IMAGENET)
    with torch.inference_mode():
        known, unknown = (
            torch.cat([teacher((part / 255 - mean) / std) for part in images.split(50)]).argmax(1) == whole.labels
            for images in (whole.images, whole.images.flip(1))
        )
    matters = torch.nonzero(known & ~unknown).flatten()
    rows = torch.cat([matters, torch.arange(0, len(whole), 8)]).unique()
    chosen = Split(whole.images[rows], whole.labels[rows], torch.arange(len(rows)))
    with pytest.raises(UnfitTeacher, match=r"Read as BGR it answers [89]") as caught:
        look(turned_round(teacher), replace(many_photographs, validation=chosen), minimum=0.85)
    assert caught.value.code == "NORMALISATION"
    assert "first channel is blue" in caught.value.hint


def test_shuffled_classes_are_refused_with_their_order(teacher, photographs):
    order = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)
    with pytest.raises(UnfitTeacher) as caught:
        look(shuffled(teacher, order), photographs, minimum=0.5)
    assert caught.value.code == "CLASS_ORDER"
    assert "With its classes in another order it answers" in caught.value.detail
    assert ", ".join(photographs.classes[label] for label in order) in caught.value.hint


def test_the_wrong_size_is_named(teacher, photographs):
    few = photographs.validation
    images = nn.functional.interpolate(few.images[::2], size=64, mode="bilinear", antialias=True)
    large = replace(photographs, validation=Split(images, few.labels[::2], few.ids[::2]), image_size=64)
    with pytest.raises(UnfitTeacher, match="With images of 32x32 pixels in place of 64x64 it answers") as caught:
        look(teacher, large, minimum=0.85, native_size=32)
    assert caught.value.code == "IMAGE_SIZE"
    assert "Set 'image_size' of the dataset to 32" in caught.value.hint


def test_an_untrained_teacher_is_refused_and_nothing_else_is_blamed(photographs):
    torch.manual_seed(0)
    with pytest.raises(UnfitTeacher, match="None of the usual mistakes explains it") as caught:
        look(build("resnet20", classes=10, image_size=32, channels=3), photographs, minimum=0.5)
    assert caught.value.code == "TEACHER_TOO_WEAK"
    assert "minimum_accuracy" in caught.value.hint


class BlackBox(nn.Module):
    """Turns what the job's networks read back into pixels, and these into what it takes for right."""

    def __init__(self, network, *, job, own):
        super().__init__()
        self.network = network
        self.numbers = [torch.tensor(each).view(1, 3, 1, 1) for each in (*job, *own)]

    def forward(self, images):
        mean, std, own_mean, own_std = self.numbers
        return self.network((images * std + mean - own_mean) / own_std)


def test_a_black_box_is_told_what_it_should_be_fed(teacher, photographs):
    expects = Preprocessing(image_size=32, mean=(0.0,) * 3, std=(2.0,) * 3)
    box = BlackBox(teacher, job=HALVES, own=(expects.mean, expects.std))
    found = look(box, photographs, reads=HALVES, expects=expects, recorded=0.92, minimum=0.0)
    assert "Read with ImageNet's mean and deviation it answers 9" in found.warning


class Table(BatchNetwork):
    """Answers by the id of a sample, as a table does."""

    def __init__(self, logits):
        super().__init__()
        self.register_buffer("logits", logits)

    def answer(self, batch):
        return self.logits[batch.ids]


def test_a_table_is_suspected_of_its_class_order_alone(photographs):
    order = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 9, 0])
    told = nn.functional.one_hot(order.argsort()[photographs.validation.labels], 10).float()
    with pytest.raises(UnfitTeacher, match="it answers 100% right") as caught:
        look(Table(told), photographs, reads_images=False)
    assert caught.value.code == "CLASS_ORDER"


def test_outputs_are_matched_by_how_often_they_meet_a_label():
    answers = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    labels = torch.tensor([2, 2, 1, 2, 0, 0, 0])
    assert matched(answers, labels, classes=3) == (2, 0, 1)
