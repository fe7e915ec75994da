"""Classifiers behind the stages of any network, and networks of their own that end there."""

import copy
import sys
from functools import cache

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

import models
from distillery.errors import InvalidRequest, MissingDependency
from engine.exits import AtExit, EarlyExit, Head, WithExits, early_exit, rebuild_exit, require_early_exits
from engine.export import check_onnx, export_onnx
from engine.fitting import Feature, Surveyed, survey
from engine.weights import describe, load_safetensors, read_metadata, save_safetensors
from models import catalog, count

CATALOGUED = (
    *("resnet8", "resnet20", "wrn16-2", "seed_student", "torchvision/resnet18", "torchvision/mobilenet_v3_small"),
    *("torchvision/shufflenet_v2_x0_5", "torchvision/swin_t"),
)
NETWORKS = (*CATALOGUED, "vit")
CLASSES = 10


def images(size, *, batch=3, channels=3):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(1))


def built(name, *, size=32):
    torch.manual_seed(0)
    if name != "vit":
        network = models.build(name, classes=CLASSES, image_size=size, channels=3)
        return network, catalog.find(name).stages
    network = VisionTransformer(
        size, size // 4, num_layers=4, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=CLASSES
    )
    return network, tuple(f"encoder.layers.encoder_layer_{place}" for place in range(4))


def made(name, *, size=32):
    """With batch-norm statistics as after some training."""
    network, stages = built(name, size=size)
    whole = WithExits(network, survey(network, images(size), stages=stages), classes=CLASSES)
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return whole.eval()


@cache
def known(name):
    """Made once for the tests that only read it."""
    return made(name)


@pytest.mark.parametrize("size", [32, 8])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_exit_answers_and_brings_its_map_to_the_shape_of_the_deepest(name, size):
    whole = (known(name) if size == 32 else made(name, size=size)).eval()
    with torch.no_grad():
        found = whole.answers(images(size, batch=2))
        alone = whole(images(size, batch=2))
    stages = 4 if name == "vit" else len(catalog.find(name).stages)
    assert len(whole.stages) == stages - 1
    assert [tuple(each.shape) for each in found.logits] == [(2, CLASSES)] * stages
    assert len({each.shape for each in found.maps}) == 1
    assert len(found.maps) == stages
    assert torch.equal(found.logits[-1], alone)


@pytest.mark.parametrize("name", ["resnet8", "torchvision/mobilenet_v3_small", "vit"])
def test_a_batch_of_two_small_images_trains_every_head(name):
    whole = made(name, size=8).train()
    torch.stack([each.sum() for each in whole.answers(images(8, batch=2)).logits]).sum().backward()
    assert all(each.grad is not None for each in whole.heads.parameters())


@pytest.mark.parametrize("name", NETWORKS)
def test_an_early_exit_answers_as_the_head_in_the_whole_network_does(name):
    whole, views = known(name), images(32)
    with torch.inference_mode():
        expected = whole.answers(views).logits
        for number in range(1, len(whole.stages) + 1):
            torch.testing.assert_close(early_exit(whole, number)(views), expected[number - 1], rtol=0, atol=1e-5)
            torch.testing.assert_close(AtExit(whole, number)(views), expected[number - 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_earlier_an_exit_the_less_it_costs(name):
    whole = known(name)
    networks = [*(early_exit(whole, number) for number in range(1, len(whole.stages) + 1)), whole.network]
    sizes = [count.parameters(each) for each in networks]
    costs = [count.multiply_adds(each, channels=3, image_size=32) for each in networks]
    assert sizes == sorted(set(sizes))
    assert costs == sorted(set(costs))


@pytest.mark.parametrize(
    ("name", "number", "kept", "dropped"),
    [
        ("resnet8", 1, ("trunk.conv1", "trunk.layer1"), ("trunk.layer2", "trunk.linear")),
        ("wrn16-2", 2, ("trunk.block1", "trunk.block2"), ("trunk.block3", "trunk.bn1", "trunk.fc")),
        ("vit", 2, ("trunk.class_token", "trunk.encoder.layers.encoder_layer_1"), ("encoder_layer_2", "trunk.heads")),
        ("torchvision/swin_t", 1, ("trunk.features.0", "trunk.features.1"), ("trunk.features.3", "trunk.head.")),
    ],
)
def test_nothing_behind_the_stage_is_kept_and_names_stay_those_of_the_network(name, number, kept, dropped):
    whole = known(name)
    names = list(early_exit(whole, number).state_dict())
    assert all(any(each.startswith(prefix) for each in names) for prefix in kept)
    assert not [each for each in names if any(part in each for part in dropped)]
    own = {each.removeprefix("trunk.") for each in names if each.startswith("trunk.")}
    assert own < set(whole.network.state_dict())


def test_an_early_exit_has_weights_of_its_own():
    whole, views = made("resnet8"), images(32)
    cut = early_exit(whole, 1)
    before = cut(views)
    with torch.no_grad():
        for parameter in whole.parameters():
            parameter.zero_()
    assert torch.equal(cut(views), before)
    assert torch.equal(copy.deepcopy(cut)(views), before)


@pytest.mark.parametrize("ask", [lambda whole: early_exit(whole, 2), require_early_exits], ids=["cut", "ask"])
def test_cutting_leaves_the_whole_network_as_it_is(ask):
    whole = made("seed_student").train()
    whole.heads[0].eval()
    whole.network.features[0].eval()
    flags = [module.training for module in whole.modules()]
    before = copy.deepcopy(whole.state_dict())
    ask(whole)
    assert [module.training for module in whole.modules()] == flags
    assert all(torch.equal(value, before[name]) for name, value in whole.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in whole.modules())


def test_an_early_exit_stays_in_evaluation_mode():
    cut, views = early_exit(known("resnet8"), 1), images(32)
    expected = cut(views)
    nn.Sequential(cut).train()
    assert not any(module.training for module in cut.modules())
    assert torch.equal(cut(views), expected)


@pytest.mark.parametrize(("name", "number"), [("resnet8", 1), ("wrn16-2", 2), ("seed_student", 2)])
def test_an_early_exit_is_made_again_from_its_file_alone(name, number, tmp_path):
    cut, views, path = early_exit(known(name), number), images(32), tmp_path / "exit.safetensors"
    facts = describe(
        architecture=name, classes=["x"] * CLASSES, image_size=32, channels=3, mean=[0.5] * 3, std=[0.2] * 3
    )
    save_safetensors(cut, path, metadata={**facts, "exit": str(number)})
    told = read_metadata(path)
    again = rebuild_exit(
        told["architecture"],
        int(told["exit"]),
        classes=CLASSES,
        image_size=int(told["image_size"]),
        channels=int(told["channels"]),
    )
    load_safetensors(again, path)
    assert torch.equal(again(views), cut(views))


@pytest.mark.parametrize("name", ["resnet8", "vit"])
def test_an_early_exit_exports_and_the_file_answers_any_batch(name, tmp_path):
    cut, path = early_exit(known(name), 1), tmp_path / "exit1.onnx"
    export_onnx(cut, path, channels=3, image_size=32)
    assert check_onnx(path, cut, samples=images(32, batch=5)) < 1e-4


def test_the_delivered_student_has_no_head_and_the_names_of_the_catalogue():
    whole, (plain, _) = known("resnet20"), built("resnet20")
    state = whole.delivered()
    assert list(state) == list(plain.state_dict())
    plain.load_state_dict(state, strict=True)
    assert torch.equal(plain.eval()(images(32)), whole(images(32)))


@pytest.mark.parametrize(
    ("before", "after"), [(8, 4), (7, 4), (8, 8), (2, 1), (1, 1), (35, 17), (8, 3), (8, 2), (2, 4)]
)
def test_a_head_fits_stages_of_any_sizes(before, after):
    head = Head([Feature(3, before, signed=True), Feature(5, after, signed=True)], classes=CLASSES)
    bottleneck, logits = head.read(images(before))
    assert bottleneck.shape == (3, 5, after, after)
    assert logits.shape == (3, CLASSES)


def test_a_head_passes_through_the_channels_of_all_stages_behind_its_own():
    head = known("torchvision/resnet18").heads[0]
    assert [step[2].weight.shape[:2] for step in head.steps] == [(128, 64), (256, 128), (512, 256)]
    assert [len(each.steps) for each in known("torchvision/resnet18").heads] == [3, 2, 1]


def test_what_is_compared_may_be_negative_only_where_the_deepest_map_is():
    """And the answers are the same: they do not depend on what a survey saw."""
    shapes = {signed: [Feature(3, 8, signed=True), Feature(5, 4, signed=signed)] for signed in (True, False)}
    heads = {signed: Head(each, classes=CLASSES) for signed, each in shapes.items()}
    heads[False].load_state_dict(heads[True].state_dict())
    (free, logits), (rectified, others) = (heads[signed].eval().read(images(8)) for signed in (True, False))
    assert (free < 0).any()
    assert torch.equal(free.relu(), rectified)
    assert torch.equal(logits, others)


def test_the_weights_of_the_exits_are_found_by_number():
    whole = known("resnet8")
    assert whole.at(1) == ("layer1", whole.heads[0])
    assert whole.at(2) == ("layer2", whole.heads[1])


@pytest.mark.parametrize("number", [-1, 0, 3])
def test_an_exit_that_is_not_there_is_refused(number):
    for ask in (early_exit, AtExit):
        with pytest.raises(InvalidRequest, match=f"There is no exit {number}") as caught:
            ask(known("resnet8"), number)
        assert "1 to 2" in caught.value.hint


def test_a_network_of_one_stage_is_refused():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, CLASSES))
    surveyed = Surveyed({"0": Feature(4, 6, signed=True)}, ("0",))
    with pytest.raises(InvalidRequest, match="single stage") as caught:
        WithExits(network, surveyed, classes=CLASSES)
    assert caught.value.pointer == "/student/architecture"


class Wilful(nn.Module):
    """Its path depends on the pixels, which cannot be written down."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.second = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.linear = nn.Linear(8, CLASSES)

    def forward(self, views):
        maps = self.first(views if views.mean() > 0 else -views)
        return self.linear(self.second(maps).mean((2, 3)))


def test_a_network_that_cannot_be_cut_is_refused_with_a_mend():
    network = Wilful()
    whole = WithExits(network, survey(network, images(8), stages=("first", "second")), classes=CLASSES)
    assert whole.answers(images(8)).logits[0].shape == (3, CLASSES)
    for ask in (lambda: early_exit(whole, 1), lambda: require_early_exits(whole)):
        with pytest.raises(InvalidRequest, match="Wilful cannot be cut behind 'first'") as caught:
            ask()
        assert "deliver_exits: false" in caught.value.hint
        assert caught.value.pointer == "/method/deliver_exits"


def test_without_torchvision_the_refusal_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision.models.feature_extraction", None)
    with pytest.raises(MissingDependency, match="torchvision"):
        early_exit(known("resnet8"), 1)


def test_an_early_exit_runs_where_the_whole_network_is_on_another_layout():
    whole = made("resnet8").to(memory_format=torch.channels_last)
    cut = early_exit(whole, 1)
    assert isinstance(cut, EarlyExit)
    torch.testing.assert_close(cut(images(32)), whole.answers(images(32)).logits[0], rtol=0, atol=1e-5)
