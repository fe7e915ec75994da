"""Pickled weights become safetensors on the user's machine, and nothing in them runs."""

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from distillery.convert import convert
from distillery.errors import UnusableWeights
from engine import convert as engine_convert
from tests.hostile.make_model_corpus import MARKER, Payload

STATE = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.zeros(2)}


def saved(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def names_in(path: Path) -> set[str]:
    with safe_open(path, framework="pt") as file:
        return set(file.keys())


@pytest.mark.parametrize("below", ["", "state_dict", "model_state_dict", "model", "net", "ema"])
def test_weights_are_found_below_the_usual_names(below: str, tmp_path: Path) -> None:
    source = saved({below: STATE, "epoch": 3} if below else STATE, tmp_path / "w.pt")
    told = engine_convert.convert(source, tmp_path / "w.safetensors")
    assert names_in(tmp_path / "w.safetensors") == set(STATE)
    assert (below in " ".join(told["notes"])) and told["tensors"] == 2


def test_prefixes_are_dropped_and_what_is_no_tensor_is_left_out_and_said(tmp_path: Path) -> None:
    state = {f"module.model.{name}": each for name, each in STATE.items()} | {"epoch": 3, "best": 0.9}
    told = engine_convert.convert(saved(state, tmp_path / "w.th"), tmp_path / "w.safetensors")
    assert names_in(tmp_path / "w.safetensors") == set(STATE)
    assert told["left_out"] == ["best", "epoch"]
    assert "'module.model.'" in " ".join(told["notes"])


def test_the_published_file_is_converted_by_a_child_so_that_the_client_loads_no_torch(
    data_root: Any, tmp_path: Path
) -> None:
    (source,) = data_root("cifar10-resnet-weights").glob("resnet20-*.th")
    made = convert(source, out=tmp_path / "resnet20.safetensors")
    assert (made.tensors, made.path.stat().st_size) == (97, made.size_bytes)
    assert "linear.weight" in names_in(made.path)
    code = "import sys, distillery.convert; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("form", ["pickle", "torch", "legacy", "nested"])
def test_a_payload_never_runs(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker, source = tmp_path / "marker", tmp_path / "w.pt"
    monkeypatch.setenv(MARKER, str(marker))
    if form == "pickle":
        source.write_bytes(pickle.dumps(Payload()))
    elif form == "legacy":
        torch.save({"state_dict": STATE, "hook": Payload()}, source, _use_new_zipfile_serialization=False)
    else:
        torch.save(Payload() if form == "torch" else {"state_dict": STATE, "hook": Payload()}, source)
    with pytest.raises(UnusableWeights) as refused:
        engine_convert.convert(source, tmp_path / "w.safetensors")
    assert not marker.exists() and not (tmp_path / "w.safetensors").exists()
    assert "posix.system" in refused.value.detail or form in ("pickle", "legacy")
    assert "Nothing in this file was run" in refused.value.hint
    with source.open("rb") as file:  # the same bytes do run where they are unpickled: the test means something
        if form == "pickle":
            pickle.load(file)  # noqa: S301 - our own bytes, which only touch the marker
            assert marker.exists()


@pytest.mark.parametrize(
    ("content", "why"),
    [({"epoch": 3}, "mapping with 'epoch'"), ([1, 2], "a list"), ({"state_dict": {"epoch": 1}}, "No state dict")],
)
def test_what_holds_no_weights_is_refused_and_told(content: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(UnusableWeights, match=why):
        engine_convert.convert(saved(content, tmp_path / "w.pt"), tmp_path / "out.safetensors")


def test_a_missing_file_and_one_that_would_be_overwritten(tmp_path: Path) -> None:
    with pytest.raises(UnusableWeights, match="no file"):
        convert(tmp_path / "absent.pt")
    same = tmp_path / "w.safetensors"
    same.write_bytes(b"x")
    with pytest.raises(UnusableWeights, match="overwritten"):
        convert(same)
    assert [each.name for each in tmp_path.iterdir()] == ["w.safetensors"]
