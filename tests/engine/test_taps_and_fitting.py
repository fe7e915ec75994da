"""Reading layers of any network as maps, and finding out which layers of two networks belong together."""

import copy

import pytest
import torch
from torch import nn
from torchvision.models import SwinTransformer, VisionTransformer

import models
from distillery.errors import InvalidRequest
from distillery.spec.objectives import LayerPair
from engine.fitting import Feature, Fitting, Surveyed, paired, survey
from engine.taps import EMBEDDING, as_map, classifier, tapped
from models import catalog

STAGES_OF_VIT = tuple(f"encoder.layers.encoder_layer_{place}" for place in range(4))


def vit():
    """16 patches and a class token."""
    return VisionTransformer(8, 2, num_layers=4, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=10)


def swin():
    """Maps of 8x8x12 and 4x4x24 from 16x16 pixels."""
    return SwinTransformer([2, 2], embed_dim=12, depths=[1, 1], num_heads=[1, 2], window_size=[2, 2], num_classes=10)


def built(name, *, size=16):
    return models.build(name, classes=10, image_size=size, channels=3)


def images(count=2, size=16):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def hooks_of(network):
    return [hook for module in network.modules() for hook in (*module._forward_hooks, *module._forward_pre_hooks)]


def looked_at(name, *, size=32):
    return survey(built(name, size=size), images(2, size), stages=catalog.find(name).stages)


def test_a_tap_gives_the_answers_and_the_maps_of_the_layers():
    network = built("resnet8").eval()
    found = tapped(network, images(), ("layer1", "layer3"))
    assert torch.equal(found.logits, network(images()))
    assert {name: tuple(value.shape) for name, value in found.features.items()} == {
        "layer1": (2, 16, 16, 16),
        "layer3": (2, 64, 4, 4),
    }


def test_a_gradient_flows_from_a_tapped_layer_into_the_network():
    network = built("resnet8")
    tapped(network, images(), ("layer2",)).features["layer2"].sum().backward()
    assert network.conv1.weight.grad is not None
    assert network.linear.weight.grad is None


def test_no_hook_stays_on_a_network():
    network = built("resnet8")
    tapped(network, images(), ("layer1", EMBEDDING))
    assert hooks_of(network) == []


@pytest.mark.parametrize("layers", [("layer1", "layer7"), ("layer1", EMBEDDING)])
def test_no_hook_stays_when_asking_fails(layers):
    network = built("resnet8")
    with pytest.raises((InvalidRequest, RuntimeError)):
        tapped(network, torch.zeros(2, 5, 16, 16), layers)
    assert hooks_of(network) == []


def test_an_unknown_layer_names_the_nearest_and_says_how_many_there_are():
    network = built("resnet8")
    with pytest.raises(InvalidRequest, match="There is no layer 'layer4'") as caught:
        tapped(network, images(), ("layer4",))
    assert "Did you mean layer" in caught.value.hint
    assert EMBEDDING in caught.value.hint
    shown, _, more = caught.value.hint.partition("There are ")[2].rstrip(".").removesuffix(" more").partition(" and ")
    assert len(shown.split(", ")) + int(more) == len(dict(network.named_modules()))


def test_of_few_layers_all_are_named():
    with pytest.raises(InvalidRequest) as caught:
        tapped(nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), torch.zeros(1, 3), ("head",))
    assert caught.value.hint.endswith("There are embedding, 0, 1.")


def test_a_layer_that_is_never_used_is_refused():
    network = built("resnet8")
    network.spare = nn.Identity()
    with pytest.raises(InvalidRequest, match="'spare' is never used"):
        tapped(network, images(), ("spare",))


@pytest.mark.parametrize("name", ["resnet8", "resnet8x4", "wrn16-1", "seed_student"])
def test_the_embedding_is_what_the_classifier_reads(name):
    network = built(name).eval()
    found = tapped(network, images(), (EMBEDDING,))
    vector = found.features[EMBEDDING]
    assert vector.shape[2:] == (1, 1)
    torch.testing.assert_close(classifier(network)(vector.flatten(1)), found.logits)


@pytest.mark.parametrize(("make", "size"), [(vit, 8), (swin, 16)])
def test_the_embedding_of_a_transformer_is_what_its_head_reads(make, size):
    network = make().eval()
    found = tapped(network, images(size=size), (EMBEDDING,))
    torch.testing.assert_close(classifier(network)(found.features[EMBEDDING].flatten(1)), found.logits)


def test_a_network_without_linear_layers_is_classified_by_its_last_convolution():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert classifier(network) is network[1]
    assert tapped(network, images(), (EMBEDDING,)).features[EMBEDDING].shape == (2, 4, 14, 14)


def test_a_network_with_nothing_to_classify_by_is_refused():
    with pytest.raises(InvalidRequest, match="no classifier"):
        classifier(nn.Sequential(nn.ReLU()))


def test_vectors_become_maps_of_one_pixel_and_maps_stay():
    assert as_map(torch.zeros(2, 5), layer="x").shape == (2, 5, 1, 1)
    value = torch.randn(2, 5, 3, 3)
    assert as_map(value, layer="x") is value


@pytest.mark.parametrize("tokens", [4, 5, 16, 17, 2])
def test_a_class_token_is_left_out_and_the_others_lie_row_by_row(tokens):
    value = torch.randn(2, tokens, 6)
    found = as_map(value, layer="x")
    side = found.shape[-1]
    assert found.shape == (2, 6, side, side)
    first = tokens - side**2
    assert first in (0, 1)
    for place in range(side**2):
        assert torch.equal(found[:, :, place // side, place % side], value[:, first + place])


def test_the_layers_of_a_vision_transformer_are_read_without_the_class_token():
    network, raw = vit().eval(), []
    hook = network.get_submodule(STAGES_OF_VIT[1]).register_forward_hook(lambda _m, _i, result: raw.append(result))
    with torch.no_grad():
        network(images(size=8))
        hook.remove()
        found = tapped(network, images(size=8), STAGES_OF_VIT[1:2]).features[STAGES_OF_VIT[1]]
    assert raw[0].shape == (2, 17, 16)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), raw[0][:, 1:])


def test_maps_with_the_channels_last_are_turned():
    value = torch.randn(2, 4, 4, 6)
    assert torch.equal(as_map(value, layer="x"), value.permute(0, 3, 1, 2))
    found = tapped(swin(), images(), ("features.1", "features.3")).features
    assert [tuple(each.shape) for each in found.values()] == [(2, 12, 8, 8), (2, 24, 4, 4)]


@pytest.mark.parametrize("value", [torch.zeros(2, 3, 5), torch.zeros(2), torch.zeros(2, 1, 1, 1, 1), (1, 2), None])
def test_what_is_no_map_is_refused_with_its_shape(value):
    what = str(tuple(value.shape)) if isinstance(value, torch.Tensor) else type(value).__name__
    with pytest.raises(InvalidRequest, match="The layer 'x' gives") as caught:
        as_map(value, layer="x")
    assert what in caught.value.detail


def test_a_survey_finds_shapes_and_signs():
    found = looked_at("resnet8", size=16)
    assert found.stages == ("layer1", "layer2", "layer3")
    assert found.features == {
        "layer1": Feature(16, 16, signed=False),
        "layer2": Feature(32, 8, signed=False),
        "layer3": Feature(64, 4, signed=False),
        EMBEDDING: Feature(64, 1, signed=False),
    }
    assert str(found.features["layer2"]) == "32x8x8"


def test_layers_that_are_not_rectified_are_signed():
    """The residual sums of a pre-activated network and of a transformer, and what a tap is put on before the ReLU."""
    assert all(looked_at("wrn16-1").features[f"block{place}"].signed for place in (1, 2, 3))
    found = survey(built("resnet8"), images(), stages=("layer1",), layers=("layer2.0.bn2",))
    assert found.features["layer2.0.bn2"] == Feature(32, 8, signed=True)
    assert all(each.signed for each in survey(vit(), images(size=8), stages=STAGES_OF_VIT).features.values())


def test_small_maps_are_signed_all_the_same():
    """A deep network that has learned nothing gives maps of 1e-13."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16 * 16, 2))
    with torch.no_grad():
        network[0].weight.mul_(1e-12)
        network[0].bias.zero_()
    found = survey(network, images(), stages=("0", "1")).features
    assert [found[layer].signed for layer in ("0", "1")] == [True, False]


@pytest.mark.parametrize("training", [True, False])
def test_a_survey_leaves_the_network_as_it_was(training):
    network = built("seed_student").train(training)
    network.features[0].eval()
    network.norm = nn.BatchNorm2d(3)
    before = copy.deepcopy(network.state_dict())
    flags = [module.training for module in network.modules()]
    survey(network, images(), stages=("features.2",))
    assert [module.training for module in network.modules()] == flags
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert hooks_of(network) == []


def test_a_survey_leaves_the_statistics_of_batch_norm_alone():
    network = built("resnet8").train()
    before = copy.deepcopy(network.state_dict())
    survey(network, images(), stages=("layer1", "layer2", "layer3"))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_layer_whose_map_is_not_square_is_refused():
    network = nn.Sequential(nn.AvgPool2d((2, 1)), nn.Flatten(), nn.Linear(3 * 8 * 16, 2))
    with pytest.raises(InvalidRequest, match=r"'0' gives \(3, 8, 16\), which is no square map"):
        survey(network, images(), stages=("0",))


def test_networks_of_one_kind_are_paired_stage_by_stage():
    for student, teacher in (("resnet8", "resnet20"), ("seed_student", "seed_teacher"), ("wrn16-1", "resnet8")):
        pairs = list(paired(looked_at(student), looked_at(teacher)))
        expected = zip(catalog.find(student).stages, catalog.find(teacher).stages, strict=True)
        assert pairs == [LayerPair(student=ours, teacher=theirs) for ours, theirs in expected]


def test_stages_are_paired_by_resolution_before_depth():
    """The stages of seed_cnn end half as large as those of a thin network."""
    student, teacher = looked_at("resnet8"), looked_at("seed_student")
    assert [student.features[layer].size for layer in student.stages] == [32, 16, 8]
    assert [teacher.features[layer].size for layer in teacher.stages] == [16, 8, 4]
    found = [(pair.student, pair.teacher) for pair in paired(student, teacher)]
    assert found == [("layer1", "features.2"), ("layer2", "features.2"), ("layer3", "features.5")]


def test_stages_of_one_resolution_are_paired_by_depth():
    layers = survey(vit(), images(size=8), stages=STAGES_OF_VIT)
    deep = Surveyed({f"block{n}": Feature(8, 4, signed=True) for n in range(8)}, tuple(f"block{n}" for n in range(8)))
    assert [pair.teacher for pair in paired(layers, deep)] == ["block1", "block3", "block5", "block7"]
    assert [pair.teacher for pair in paired(layers, layers)] == list(STAGES_OF_VIT)


def test_a_convolutional_network_is_paired_with_a_transformer():
    student, teacher = looked_at("resnet8", size=8), survey(vit(), images(size=8), stages=STAGES_OF_VIT)
    found = [(pair.student, pair.teacher) for pair in paired(student, teacher)]
    assert found[0][1] in STAGES_OF_VIT[:2]
    assert found[-1] == ("layer3", STAGES_OF_VIT[-1])
    assert {pair.teacher for pair in paired(teacher, student)} == {"layer2"}


@pytest.fixture(scope="module")
def fitting():
    return Fitting(looked_at("resnet8", size=16), looked_at("wrn16-1", size=16))


@pytest.mark.parametrize(
    ("rule", "students"), [("middle", ["layer2"]), ("last", ["layer3"]), ("embedding", [EMBEDDING])]
)
def test_a_rule_takes_one_pair(fitting, rule, students):
    assert [pair.student for pair in fitting.pairs(rule)] == students


def test_auto_takes_every_stage(fitting):
    assert [pair.teacher for pair in fitting.pairs("auto")] == ["block1", "block2", "block3"]


def test_of_an_even_number_of_pairs_the_middle_is_the_shallower():
    layers = survey(vit(), images(size=8), stages=STAGES_OF_VIT)
    (pair,) = Fitting(layers, layers).pairs("middle")
    assert pair.student == STAGES_OF_VIT[1]


def test_named_pairs_are_taken_as_they_are(fitting):
    named = (LayerPair(student="layer3", teacher="block1"), LayerPair(student="layer1", teacher=EMBEDDING))
    assert fitting.pairs(named) == named
    assert fitting.shapes(named[1]) == (Feature(16, 16, signed=False), Feature(64, 1, signed=False))


def test_the_shapes_of_a_layer_that_was_not_looked_at_are_refused(fitting):
    with pytest.raises(InvalidRequest, match="The student was not asked for a layer 'layer9'") as caught:
        fitting.shapes(LayerPair(student="layer9", teacher="block1"))
    assert "layer1, layer2, layer3, embedding" in caught.value.hint
    with pytest.raises(InvalidRequest, match="The teacher was not asked for a layer 'layer1'"):
        fitting.shapes(LayerPair(student="layer1", teacher="layer1"))


def test_a_fitting_without_data_has_no_ids(fitting):
    assert fitting.ids.shape == fitting.labels.shape == (0,)
    assert fitting.ids.dtype == fitting.labels.dtype == torch.int64
