"""Hostile model files are refused before torch is loaded: soon, in little memory, nothing written and nothing run."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from distillery.errors import DistilleryError, HostileFile, UnusableWeights
from engine.intake import answers, weights
from engine.intake.weights_safetensors import read_header
from tests.hostile import make_model_corpus, mutations
from tests.hostile.make_model_corpus import MARKER, Payload

MOST_BYTES = 300 << 20
MOST_CPU_SECONDS = 5
MUTATIONS = 500
ROOT = Path(__file__).resolve().parents[2]


def looked_at(paths: list[Path], marker: Path) -> list[dict[str, Any]]:
    """What the guarded check says of each file."""
    seen = {**os.environ, MARKER: str(marker), "OPENBLAS_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "tests.hostile.look_at_all"],
        cwd=ROOT,
        input="\n".join(map(str, paths)) + "\n",
        env=seen,
        capture_output=True,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in ended.stdout.splitlines()]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_model_corpus.write(tmp_path_factory.mktemp("corpus"))


def files_below(folder: Path) -> dict[str, int]:
    return {str(each): each.lstat().st_mtime_ns for each in folder.rglob("*")}


def test_the_payload_would_leave_its_marker_if_it_were_unpickled(tmp_path: Path) -> None:
    """Without this, the absence of the marker elsewhere would say nothing."""
    marker, file = tmp_path / "marker", tmp_path / "payload"
    file.write_bytes(pickle.dumps(Payload()))
    code = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
    subprocess.run(
        [sys.executable, "-c", code, str(file)], cwd=ROOT, env={**os.environ, MARKER: str(marker)}, check=True
    )
    assert marker.exists()


def test_every_hostile_file_is_refused_soon_in_little_memory_and_leaves_nothing(
    corpus: list[Path], tmp_path: Path
) -> None:
    assert len(corpus) >= 80
    folder, marker = corpus[0].parent, tmp_path / "marker"
    before = files_below(folder)
    told = looked_at(corpus, marker)
    assert len(told) == len(corpus)
    silent = [Path(each["path"]).name for each in told if each["said"] is None]
    assert silent == [], "a child that dies without a word would hide a fault of the check itself"
    assert [each["path"] for each in told if "error" not in each["said"]] == []
    assert {each["said"]["error"] for each in told} == {"HostileFile", "UnusableWeights"}
    assert all(each["said"]["detail"] and each["said"]["hint"] and each["said"]["pointer"] for each in told)
    assert [each["path"] for each in told if each["bytes"] >= MOST_BYTES] == []
    assert [each["path"] for each in told if each["cpu_seconds"] >= MOST_CPU_SECONDS] == []
    assert not any(each["torch"] for each in told)
    assert files_below(folder) == before
    assert not marker.exists()


def test_pickles_are_refused_with_the_advice_to_convert_them(corpus: list[Path]) -> None:
    named = {path.stem: path for path in corpus}
    for name in ("torch_zip", "pickle"):
        with pytest.raises(UnusableWeights, match="pickle") as refused:
            weights.check(named[name])
        assert "distillery models convert" in refused.value.hint
    with pytest.raises(UnusableWeights, match="TorchScript") as refused:
        weights.check(named["torchscript"])
    assert "ONNX" in refused.value.hint


@pytest.mark.parametrize("name", ["length_2_64", "constant_of_shape_8_gib", "table_objects"])
def test_the_guarded_child_itself_tells_why(name: str, corpus: list[Path]) -> None:
    path = next(each for each in corpus if each.stem == name)
    with pytest.raises(HostileFile) as refused:
        weights.look(path)
    with pytest.raises(HostileFile) as alone:
        weights.check(path)
    assert refused.value.detail == alone.value.detail, "the very reason, and not that the child died"


def test_a_header_that_takes_too_much_memory_is_refused_for_that(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    path.write_bytes(make_model_corpus.headed(b'{"a":[' + b'"ab",' * 1_900_000 + b'"ab"]}'))
    code = "import sys; from engine.intake import weights; weights._GROWTH_BYTES, weights._SIZES = 32 << 20, 0; "
    code += "sys.exit(weights.main(sys.argv[1:]))"
    ended = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True)
    said = weights.told(ended.stdout)
    assert said is not None and said["error"] == "HostileFile" and "memory" in said["detail"]


@pytest.mark.parametrize("name", ["cycle", "overlap", "torch_zip", "table_bomb", "tree_leads_back"])
def test_the_whole_program_tells_the_refusal_and_delivers_nothing(
    name: str, corpus: list[Path], tmp_path: Path
) -> None:
    path, marker, out = next(each for each in corpus if each.stem == name), tmp_path / "marker", tmp_path / "out"
    said = tmp_path / "import.json"
    said.write_text(json.dumps({"name": "x", "path": str(path)}))
    command = [
        sys.executable, "-X", "importtime", "-m", "worker.inspect_model", str(said), "--out", str(out),
        "--source", str(path), "--named", "x", "--events-fd", "1",
    ]  # fmt: skip
    ended = subprocess.run(command, cwd=ROOT, env={**os.environ, MARKER: str(marker)}, capture_output=True, text=True)
    assert ended.returncode == 1
    told = [json.loads(line) for line in ended.stdout.splitlines()]
    assert [each["kind"] for each in told] == ["phase", "failed"]
    assert told[1]["error"]["code"] in ("HOSTILE_FILE", "UNUSABLE_WEIGHTS")
    assert " torch\n" not in ended.stderr, "nothing hostile gets as far as torch"
    assert not out.exists() and not marker.exists()


def test_mutated_files_are_taken_or_refused_and_never_anything_else(tmp_path: Path) -> None:
    paths = mutations.write(tmp_path, MUTATIONS, seed=20261124)
    told = looked_at(paths, tmp_path / "marker")
    assert len(told) == MUTATIONS
    assert [(each["path"], each["exit_code"]) for each in told if each["said"] is None] == []
    taken = [Path(each["path"]) for each in told if "kind" in each["said"]]
    assert 0 < len(taken) < MUTATIONS
    for path in taken:
        try:
            read_header(path) if path.suffix == ".safetensors" else None
            answers.read(path) if path.suffix == ".npz" else None
        except DistilleryError as error:
            pytest.fail(f"{path.name} was taken, and then refused: {error}")


def test_the_originals_of_the_mutations_are_taken(tmp_path: Path) -> None:
    for ending, content in mutations.originals().items():
        path = tmp_path / f"whole{ending}"
        path.write_bytes(content)
        assert weights.check(path) == ending[1:]
