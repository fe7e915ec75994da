"""Our own families: the sizes the literature gives, any input, and answers that repeat."""

import pytest
import torch

from distillery.errors import InvalidRequest
from models import build, catalog, count

OWN = [row.name for row in catalog.ROWS if not row.name.startswith("torchvision/")]


def test_the_seed_networks_are_those_of_the_design_document() -> None:
    teacher, student = catalog.find("seed_teacher"), catalog.find("seed_student")
    assert (teacher.parameters, student.parameters) == (12_976_266, 620_362)
    assert round(teacher.parameters / student.parameters, 1) == 20.9
    assert round(teacher.macs / student.macs, 1) == 56.8


@pytest.mark.parametrize(("name", "tap"), [("seed_teacher", "features.14"), ("seed_student", "features.8")])
def test_the_seed_networks_end_their_last_stage_where_the_documents_hints_tap(name: str, tap: str) -> None:
    assert catalog.find(name).stages[-1] == tap
    assert _map_of(build(name, classes=10, image_size=32, channels=3), tap, side=32).shape[2:] == (4, 4)


def _map_of(network: torch.nn.Module, tap: str, *, side: int) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    network.get_submodule(tap).register_forward_hook(lambda _module, _inputs, result: seen.append(result))
    with torch.inference_mode():
        network.eval()(torch.zeros(1, 3, side, side))
    return seen[0]


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet8x4", 1_233_540),
        ("resnet32x4", 7_433_860),
        ("wrn16-2", 703_284),
        ("wrn40-1", 569_780),
        ("wrn40-2", 2_255_156),
    ],
)
def test_the_networks_of_the_literature_have_its_parameters_for_100_classes(name: str, published: int) -> None:
    with torch.device("meta"):
        assert count.parameters(build(name, classes=100, image_size=32, channels=3)) == published


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize(("channels", "side", "classes"), [(1, 4, 2), (1, 8, 10), (3, 28, 7), (4, 33, 3)])
def test_any_channels_sizes_and_classes_fit(name: str, channels: int, side: int, classes: int) -> None:
    network = build(name, classes=classes, image_size=side, channels=channels).eval()
    images = torch.randn(2, channels, side, side)
    with torch.inference_mode():
        logits = network(images)
        assert torch.equal(network(images), logits)
    assert logits.shape == (2, classes)
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", OWN)
def test_the_size_of_the_image_changes_no_weight(name: str) -> None:
    with torch.device("meta"):
        small, large = (build(name, classes=10, image_size=side, channels=3).state_dict() for side in (8, 64))
    assert {key: each.shape for key, each in small.items()} == {key: each.shape for key, each in large.items()}


@pytest.mark.parametrize("name", ["seed_student", "resnet8", "resnet8x4", "wrn16-1"])
def test_every_weight_is_trained_and_the_seed_decides_the_draw(name: str) -> None:
    torch.manual_seed(3)
    network = build(name, classes=10, image_size=32, channels=3)
    network(torch.randn(4, 3, 32, 32)).logsumexp(1).sum().backward()
    assert all(each.grad is not None for each in network.parameters())

    torch.manual_seed(3)
    again = build(name, classes=10, image_size=32, channels=3)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(("classes", "channels", "said"), [(0, 3, "0 classes"), (10, 0, "0 channels")])
def test_a_network_without_classes_or_channels_is_refused(classes: int, channels: int, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        build("resnet20", classes=classes, image_size=32, channels=channels)


def test_an_image_of_hardly_any_pixels_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="smallest it works on is 4x4"):
        build("resnet20", classes=10, image_size=3, channels=3)
