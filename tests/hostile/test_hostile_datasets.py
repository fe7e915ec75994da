"""Hostile data-set files are refused: soon, in little memory, with nothing written and nothing run.

Each is read by the real code in a child that is forked from a process with everything loaded; some by the program.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.cases import Case
from tests.hostile.data_mutations import all_mutations, sound
from tests.hostile.make_corpus import cases
from tests.hostile.payloads import MARKER
from worker.messages import EXIT_FAILED, Failed, parse

REPOSITORY = Path(__file__).resolve().parents[2]
MOST_MEMORY = 300 * 10**6
MOST_CPU_SECONDS = 10
"""Twice what is asked for: the machine may be busy, and its processor old."""
MUTATIONS = 1_500
_ALL = cases()
_THROUGH_THE_PROGRAM = (
    "zip-bomb--flat.zip", "tar-kinds--device.tar", "image-bomb--png-60000-squared.zip", "npz--objects-as-labels.npz",
    "parquet--garbage-between.parquet", "pickled--torch.csv",
)  # fmt: skip


@dataclass
class Server:
    """Reads one file after the other; see `fork_server`. Those of parquet are read by a process that has pyarrow."""

    plain: "subprocess.Popen[str]"
    with_pyarrow: "subprocess.Popen[str]"
    folder: Path

    @property
    def marker(self) -> Path:
        return self.folder / "marker"

    def read(self, file: Path, **task: Any) -> dict[str, Any]:
        process = self.with_pyarrow if file.suffix == ".parquet" else self.plain
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(json.dumps({"file": str(file), "named": file.name, **task}) + "\n")
        stdin.flush()
        told: dict[str, Any] = json.loads(stdout.readline())
        return told


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("hostile")
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", MARKER: str(folder / "marker")}

    def started(*modules: str) -> "subprocess.Popen[str]":
        workplace = folder / f"workplace-{len(modules)}"
        command = [sys.executable, "-m", "tests.hostile.fork_server", str(workplace), *modules]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, text=True, **pipes)

    with started() as plain, started("pyarrow.parquet", "engine.intake.parquet") as with_pyarrow:
        yield Server(plain, with_pyarrow, folder)
        for process in (plain, with_pyarrow):
            assert process.stdin is not None
            process.stdin.close()


def test_the_corpus_is_large_and_wide() -> None:
    assert len(_ALL) >= 500
    assert len({case.family for case in _ALL}) >= 20


@pytest.mark.parametrize("case", _ALL, ids=lambda case: case.file_name)
def test_a_hostile_file_is_refused(case: Case, server: Server) -> None:
    file = case.write(server.folder)
    try:
        told = server.read(file)
    finally:
        file.unlink()
    assert told["ended"] == case.refused_as, told
    assert told["detail"] and told["hint"]
    assert not any(ord(character) < 32 or character in "\u202e\u2066" for character in told["detail"])
    assert told["left"] == [], "Something was left in the folder, or written beside it."
    assert told["memory_bytes"] < MOST_MEMORY
    assert told["cpu_seconds"] < MOST_CPU_SECONDS
    assert not server.marker.exists(), "What the file holds was run."


def test_hostile_files_left_nothing_where_they_point_to() -> None:
    assert not [path for path in ("/tmp/evil.png", "/tmp/evil", "/evil.png") if Path(path).exists()]


@pytest.mark.parametrize("ending", sorted(sound()))
def test_what_is_damaged_below_is_sound_itself(ending: str, server: Server) -> None:
    file = server.folder / f"sound.{ending}"
    file.write_bytes(sound()[ending])
    assert server.read(file)["ended"] == "read"


def test_damaged_files_are_read_or_refused_and_never_crash(server: Server) -> None:
    ends: dict[str, int] = {}
    for ending, seed, content in all_mutations(MUTATIONS):
        file = server.folder / f"mutated.{ending}"
        file.write_bytes(content)
        told = server.read(file, previewed=False, spec={"on_error": "skip" if seed % 3 else "fail"})
        where = f"mutation {seed} of {ending}: {told}"
        assert told["ended"] in ("read", "HostileFile", "UnreadableData"), where
        assert told["ended"] == "read" or (told["detail"] and told["hint"] is not None and told["left"] == []), where
        assert told["memory_bytes"] < MOST_MEMORY, where
        ends[told["ended"]] = ends.get(told["ended"], 0) + 1
    assert min(ends.values()) > MUTATIONS // 20, f"The damage is all of one kind: {ends}"
    assert not server.marker.exists()


@pytest.mark.parametrize("name", _THROUGH_THE_PROGRAM)
def test_the_program_refuses_it_too_and_says_so(name: str, tmp_path: Path) -> None:
    case = next(case for case in _ALL if case.file_name == name)
    file = case.write(tmp_path)
    order = tmp_path / "import.json"
    order.write_text('{"kind": "dataset_import", "name": "x", "path": "x"}')
    reading, writing = os.pipe()
    command = [
        sys.executable,
        "-m",
        "worker.ingest",
        order,
        "--out",
        tmp_path / "out",
        "--source",
        file,
        "--named",
        name,
    ]
    with os.fdopen(reading, "rb") as pipe:
        process = subprocess.Popen(
            [*map(str, command), "--events-fd", str(writing)],
            cwd=REPOSITORY,
            env={**os.environ, MARKER: str(tmp_path / "marker")},
            pass_fds=(writing,),
        )
        os.close(writing)
        messages = [parse(line) for line in pipe]
        assert process.wait(timeout=100) == EXIT_FAILED
    last = messages[-1]
    assert isinstance(last, Failed)
    assert last.error.code == {"HostileFile": "HOSTILE_FILE", "UnreadableData": "UNREADABLE_DATA"}[case.refused_as]
    assert list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "marker").exists()
