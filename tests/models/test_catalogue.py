"""The catalogue tells the truth: every row is held against the network it tells of."""

import gzip
import re
import subprocess
import sys

import pytest
import torch

from distillery.errors import UnknownName
from distillery.spec.objectives import LayerPair
from models import build, catalog, count
from models.catalog_table import TABLE
from models.families import FAMILIES
from models.recount import layer_names, shortened
from models.torchvision_stems import SMALL_SIDE

LAYER = LayerPair.model_json_schema()["properties"]["student"]["pattern"]
"""What a job may call a layer."""


@pytest.mark.parametrize("row", catalog.ROWS, ids=lambda row: row.name)
def test_a_row_holds_what_its_network_has(row: catalog.Row) -> None:
    channels, side, _ = row.input
    with torch.device("meta"):
        network = build(row.name, classes=10, image_size=side, channels=channels)

    assert count.parameters(network) == row.parameters
    assert count.multiply_adds(network, channels=channels, image_size=side) == row.macs
    assert len(row.stages) >= 3
    layers = layer_names(network)
    assert catalog.layers(row.name) == tuple(layers)
    assert [layers.index(stage) for stage in row.stages] == sorted(layers.index(stage) for stage in row.stages)


@pytest.mark.parametrize("row", catalog.ROWS, ids=lambda row: row.name)
def test_the_layers_are_called_the_same_whatever_the_images_and_the_classes(row: catalog.Row) -> None:
    for side in {row.smallest, max(row.smallest, SMALL_SIDE)} - {row.input[1]}:
        with torch.device("meta"):
            network = build(row.name, classes=3, image_size=side, channels=1)
        assert catalog.layers(row.name) == tuple(layer_names(network))


def test_the_names_of_the_layers_are_a_small_file() -> None:
    assert catalog.LAYERS_FILE.stat().st_size < 150_000
    lines = gzip.decompress(catalog.LAYERS_FILE.read_bytes()).decode().splitlines()
    assert [line.split()[0] for line in lines] == [row.name for row in catalog.ROWS]
    assert all(re.fullmatch(LAYER, path) for line in lines for path in line.split()[1:])
    with pytest.raises(UnknownName):
        catalog.layers("resnet9")


def test_every_network_that_can_be_built_has_a_row_and_no_other_has() -> None:
    built = [name for family in FAMILIES for name in family.names()]
    assert [row.name for row in catalog.ROWS] == built
    assert len(set(built)) == len(built)


@pytest.mark.parametrize("row", catalog.ROWS, ids=lambda row: row.name)
def test_a_row_can_be_written_as_it_was_read(row: catalog.Row) -> None:
    line = next(line for line in TABLE.splitlines() if line.startswith(f"{row.name} "))
    assert line.endswith(f" {shortened(row.stages)}")


def test_the_catalogue_and_the_package_import_no_torch() -> None:
    program = (
        "import sys, models.catalog; models.catalog.layers('resnet8'); "
        "assert not {'torch', 'torchvision', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("seed_techer", "'seed_teacher'"),
        ("ResNet20", "'resnet20'"),
        ("wrn-40-2", "'wrn40-2'"),
        ("resnet50", "'torchvision/resnet50'"),
        ("mobilenet_v2", "'torchvision/mobilenet_v2'"),
        ("torchvision/resnet19", "'torchvision/resnet1"),
        ("something else entirely", "`distillery architectures`"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(asked: str, nearest: str) -> None:
    with pytest.raises(UnknownName) as raised:
        build(asked, classes=10, image_size=32, channels=3)
    assert asked in raised.value.detail
    assert nearest in raised.value.hint


def test_an_unknown_name_tells_the_field_it_came_from() -> None:
    with pytest.raises(UnknownName) as raised:
        catalog.find("nonsense", pointer="/student/architecture")
    assert raised.value.problems[0].pointer == "/student/architecture"
