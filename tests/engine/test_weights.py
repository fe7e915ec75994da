"""Weights files: what is written can be read anywhere, and what does not fit is refused with the tensors at fault."""

import hashlib
import json

import pytest
import torch
from torch import nn

from distillery.errors import UnknownName, UnusableWeights
from engine import weights

FACTS = weights.describe(
    architecture="resnet8", classes=("T-shirt", "Größe"), image_size=28, channels=1, mean=(0.5,), std=(0.25,)
)


def network(*, classes=3, seed=0):
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, classes))
    return layers.to(memory_format=torch.channels_last)


def equal(left, right):
    return all(torch.equal(one, other) for one, other in zip(left.values(), right.values(), strict=True))


def test_what_is_saved_is_loaded(tmp_path):
    path = tmp_path / "student.safetensors"
    sha256, size = weights.save_safetensors(network(seed=1), path, metadata=FACTS)
    other = network(seed=2)
    weights.load_safetensors(other, path)
    assert equal(other.state_dict(), network(seed=1).state_dict())
    assert (sha256, size) == (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)


def test_the_file_says_how_to_use_it(tmp_path):
    path = tmp_path / "student.safetensors"
    weights.save_safetensors(network(), path, metadata=FACTS)
    found = weights.read_metadata(path)
    assert found == FACTS
    assert json.loads(found["classes"]) == ["T-shirt", "Größe"]
    assert json.loads(found["mean"]) == [0.5]
    assert (found["architecture"], found["image_size"], found["channels"]) == ("resnet8", "28", "1")


def test_the_file_needs_nothing_of_ours(tmp_path):
    from safetensors.torch import load_file

    path = tmp_path / "student.safetensors"
    weights.save_safetensors(network(), path, metadata=FACTS)
    loaded = load_file(path)
    assert loaded.keys() == network().state_dict().keys()
    assert equal({name: loaded[name] for name in network().state_dict()}, network().state_dict())


def test_equal_weights_give_equal_files(tmp_path):
    """The library writes its metadata in another order each time; ten keys agree by chance once in millions."""
    metadata = {f"key{number}": "x" for number in range(10)}
    hashes = {weights.save_safetensors(network(), tmp_path / f"{n}", metadata=metadata)[0] for n in range(3)}
    assert len(hashes) == 1


def test_tied_weights_are_saved(tmp_path):
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    weights.save_safetensors(tied, tmp_path / "tied.safetensors", metadata={})
    weights.load_safetensors(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)), tmp_path / "tied.safetensors")


def test_a_file_for_another_network_names_the_tensors(tmp_path):
    path = tmp_path / "other.safetensors"
    state = dict(network().state_dict())
    state["extra"] = torch.zeros(1)
    del state["0.bias"]
    state["3.weight"] = torch.zeros(5, 4)
    weights.save_safetensors(state, path, metadata={})
    target = network(seed=3)
    with pytest.raises(UnusableWeights) as caught:
        weights.load_safetensors(target, path)
    assert "missing: 0.bias" in str(caught.value)
    assert "unexpected: extra" in str(caught.value)
    assert "3.weight [5, 4] instead of [3, 4]" in str(caught.value)
    assert equal(target.state_dict(), network(seed=3).state_dict())


def test_a_long_list_of_tensors_is_cut(tmp_path):
    weights.save_safetensors({f"w{n}": torch.zeros(1) for n in range(99)}, tmp_path / "f", metadata={})
    with pytest.raises(UnusableWeights, match="and 94 more"):
        weights.load_safetensors(network(), tmp_path / "f")


def test_missing_batch_counters_are_forgiven(tmp_path):
    state = {name: each for name, each in network().state_dict().items() if "num_batches" not in name}
    weights.save_safetensors(state, tmp_path / "old.safetensors", metadata={})
    weights.load_safetensors(network(seed=4), tmp_path / "old.safetensors")


def test_half_precision_weights_fill_a_single_precision_network(tmp_path):
    halves = {name: each.half() if each.is_floating_point() else each for name, each in network().state_dict().items()}
    weights.save_safetensors(halves, tmp_path / "half.safetensors", metadata={})
    target = network(seed=5)
    weights.load_safetensors(target, tmp_path / "half.safetensors")
    assert {each.dtype for each in target.parameters()} == {torch.float32}
    assert torch.equal(target[3].weight, halves["3.weight"].float())


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path, spoilt):
    source = network()
    with torch.no_grad():
        source[3].bias[1] = spoilt
    weights.save_safetensors(source, tmp_path / "nan.safetensors", metadata={})
    with pytest.raises(UnusableWeights, match=r"not finite, in 3\.bias"):
        weights.load_safetensors(network(), tmp_path / "nan.safetensors")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"\xff" * 64,
        (2**40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        b"PK\x03\x04 a zip, as torch.save writes",
    ],
)
def test_a_foreign_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    for use in (weights.read_metadata, lambda file: weights.load_safetensors(network(), file)):
        with pytest.raises(UnusableWeights, match=r"foreign\.safetensors"):
            use(path)


def test_a_file_cut_short_is_refused(tmp_path):
    path = tmp_path / "cut.safetensors"
    weights.save_safetensors(network(), path, metadata=FACTS)
    good = path.read_bytes()
    for size in range(0, len(good), 37):
        path.write_bytes(good[:size])
        with pytest.raises(UnusableWeights):
            weights.load_safetensors(network(), path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UnusableWeights, match="gone"):
        weights.read_metadata(tmp_path / "gone.safetensors")
    with pytest.raises(UnusableWeights, match="no weights file"):
        weights.load_safetensors(network(), tmp_path)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub folder of torch."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_missing_torchvision_weights_say_which_file_goes_where(hub):
    with pytest.raises(UnusableWeights) as caught:
        weights.torchvision_weights("torchvision/resnet18", "DEFAULT")
    assert str(hub / "resnet18-f37072fd.pth") in caught.value.detail
    assert "resnet18-f37072fd.pth" in caught.value.hint


def test_altered_torchvision_weights_are_never_read(hub):
    torch.save({"weight": torch.zeros(1)}, hub / "resnet18-f37072fd.pth")
    with pytest.raises(UnusableWeights, match="sha256"):
        weights.torchvision_weights("torchvision/resnet18", "IMAGENET1K_V1")


@pytest.mark.parametrize(
    ("name", "which", "expected"),
    [
        ("seed_teacher", "DEFAULT", UnusableWeights),
        ("torchvision/resnet19", "DEFAULT", UnknownName),
        ("torchvision/resnet18", "IMAGENET9", UnknownName),
    ],
)
def test_unknown_torchvision_weights_are_refused(hub, name, which, expected):
    with pytest.raises(expected):
        weights.torchvision_weights(name, which)


def published(folder, state):
    """A file named after its own hash, as torchvision names its weights."""
    torch.save(state, folder / "net.pth")
    digest = hashlib.sha256((folder / "net.pth").read_bytes()).hexdigest()
    return (folder / "net.pth").rename(folder / f"net-{digest[:8]}.pth")


def test_a_published_file_is_read(tmp_path):
    state = dict(network().state_dict())
    assert equal(weights.published_state(published(tmp_path, state)), state)


def test_old_densenet_names_and_training_heads_are_translated(tmp_path):
    old = {
        "features.denseblock1.denselayer1.norm.1.weight": torch.zeros(1),
        "features.denseblock1.denselayer1.conv.2.weight": torch.zeros(1),
        "features.norm5.weight": torch.zeros(1),
        "aux1.fc.weight": torch.zeros(1),
    }
    assert list(weights.published_state(published(tmp_path, old))) == [
        "features.denseblock1.denselayer1.norm1.weight",
        "features.denseblock1.denselayer1.conv2.weight",
        "features.norm5.weight",
    ]


def test_the_old_densenet_names_become_those_of_the_network_itself(tmp_path):
    from torchvision.models import densenet121

    with torch.device("meta"):
        names = list(densenet121().state_dict())
    old = [name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") for name in names if "denselayer" in name]
    state = {name: torch.zeros(1) for name in old}
    assert list(weights.published_state(published(tmp_path, state))) == [n for n in names if "denselayer" in n]
