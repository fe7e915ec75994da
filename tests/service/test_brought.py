"""What users bring, through a whole service: API, worker, guarded programs."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from distillery.client import Client
from distillery.errors import InvalidRequest, JobEndedBadly


@pytest.mark.timeout(300)
def test_data_and_models_of_strangers(embedded_service: str, data_root: Any, tmp_path: Path) -> None:
    with Client(embedded_service) as client:
        outside = tmp_path / "flowers.zip"
        with zipfile.ZipFile(outside, "w") as archive:
            archive.writestr("train/rose/1.png", b"not an image")
            archive.writestr("../../../../tmp/distillery-was-here", b"x")
        with pytest.raises(JobEndedBadly, match="leads out of its folder") as refused:
            client.datasets.add(outside, name="flowers")
        assert refused.value.hint
        (failed,) = client.datasets.list()
        assert failed.error is not None
        assert (failed.status, failed.error.code) == ("failed", "HOSTILE_FILE")
        assert failed.error.type.startswith("urn:distillery:")
        assert not Path("/tmp/distillery-was-here").exists()

        texts = client.datasets.add(name="sst2", path=str(data_root("sst2")))
        assert texts.facts is not None
        assert texts.facts.task == "text-classification"
        assert sum(texts.facts.splits.values()) > 9_000
        preview = json.loads(client.datasets.preview(texts.id))
        assert preview["samples"][0]["text"]

        pickled = tmp_path / "teacher.safetensors"
        pickled.write_bytes(next(data_root("cifar10-resnet-weights").glob("resnet20-*.th")).read_bytes())
        with pytest.raises(InvalidRequest, match="pickled") as foreign:
            client.add_model(pickled, name="teacher")
        assert "distillery models convert" in foreign.value.hint
        client.datasets.remove(texts.id)
        assert [each.id for each in client.datasets.list()] == [failed.id]
