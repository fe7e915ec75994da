"""The program that reads data sets: what it tells, what it delivers, how it leaves."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engine.data.packed import open_packed
from worker.messages import (
    EXIT_FAILED,
    EXIT_FINISHED,
    EXIT_SAVED,
    Delivered,
    Failed,
    Ingested,
    Message,
    PhaseBegan,
    Progressed,
    parse,
)

REPOSITORY = Path(__file__).resolve().parents[2]


class Program:
    """A run of `python -m worker.ingest`, listened to."""

    def __init__(self, folder: Path, *sources: Path, **fields: Any) -> None:
        order = folder / "import.json"
        order.write_text(json.dumps({"kind": "dataset_import", "name": "x", "path": "x", **fields}))
        self.out = folder / "out"
        reading, writing = os.pipe()
        given = [word for path in sources for word in ("--source", str(path), "--named", path.name)]
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "worker.ingest",
                str(order),
                "--out",
                str(self.out),
                *given,
                "--events-fd",
                str(writing),
            ],
            cwd=REPOSITORY,
            pass_fds=(writing,),
            stderr=subprocess.PIPE,
        )
        os.close(writing)
        self._pipe = os.fdopen(reading, "rb")

    def message(self) -> Message:
        return parse(self._pipe.readline())

    def ended(self) -> tuple[int, list[Message]]:
        """The exit code and all messages that were not read yet."""
        with self._pipe as pipe:
            messages = [parse(line) for line in pipe]
        code = self.process.wait(timeout=100)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code, messages


def cifar(folder: Path, data_root: Callable[[str], Path], *, ending: str) -> Path:
    """A part of CIFAR-10's test images, as zip."""
    with (
        zipfile.ZipFile(data_root("cifar10") / "cifar10_test.zip") as whole,
        zipfile.ZipFile(folder / "part.zip", "w") as part,
    ):
        for name in whole.namelist():
            if name.endswith(ending):
                part.writestr(name, whole.read(name))
    return folder / "part.zip"


def test_images_are_packed_previewed_and_told(tmp_path: Path, data_root: Callable[[str], Path]) -> None:
    code, messages = Program(tmp_path, cifar(tmp_path, data_root, ending="0.webp"), on_error="skip").ended()
    assert code == EXIT_FINISHED
    phases = [message.phase for message in messages if isinstance(message, PhaseBegan)]
    assert phases == ["reading", "packing", "checking"]
    last, delivered = messages[-1], [message for message in messages if isinstance(message, Delivered)]
    assert isinstance(last, Ingested)
    assert last.facts.splits == {"train": 720, "validation": 80, "test": 200, "unlabelled": 0}
    assert [message.name for message in delivered] == ["packed.dstl", "preview.json", "preview.png"]
    for message in delivered:
        content = Path(message.path).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (message.sha256, message.size_bytes)
    assert (delivered[0].sha256, delivered[0].size_bytes) == (last.facts.sha256, last.facts.size_bytes)
    assert len(open_packed(tmp_path / "out" / "packed.dstl")) == 1000
    preview = json.loads((tmp_path / "out" / "preview.json").read_text())
    assert preview["class_histogram"]["train"] == [72] * 10
    assert preview["size_histogram"] == [
        {"width": 32, "height": 32, "up_to_width": 32, "up_to_height": 32, "count": 1000}
    ]
    assert len(preview["samples"]) == 25 and {sample["label"] for sample in preview["samples"]} == set(
        preview["classes"]
    )
    with Image.open(tmp_path / "out" / "preview.png") as sheet:
        colours = np.asarray(sheet)
    assert colours.shape[1] > 800 and colours.std() > 40


def test_texts_are_previewed_by_their_lengths(tmp_path: Path, data_root: Callable[[str], Path]) -> None:
    code, messages = Program(tmp_path, data_root("sst2")).ended()
    assert code == EXIT_FINISHED and isinstance(messages[-1], Ingested)
    preview = json.loads((tmp_path / "out" / "preview.json").read_text())
    assert sum(bucket["count"] for bucket in preview["length_histogram"]) == sum(preview["splits"].values())
    assert all(
        len(sample["text"]) <= 500 and sample["label"] in ("positive", "negative") for sample in preview["samples"]
    )


def test_a_failure_names_the_broken_member_and_leaves_nothing(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for number in range(8):
            held = io.BytesIO()
            Image.new("RGB", (8, 8), (number * 30, 0, 0)).save(held, "PNG")
            content = held.getvalue()
            archive.writestr(f"{'cat' if number % 2 else 'dog'}/{number}.png", content[:50] if number > 5 else content)
    code, messages = Program(tmp_path, tmp_path / "pets.zip").ended()
    last = messages[-1]
    assert code == EXIT_FAILED and isinstance(last, Failed)
    assert last.error.detail.startswith("'cat/7.png': is not a whole") and "1 more is broken" in last.error.detail
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_leave_it_leaves_soon_and_keeps_nothing(
    tmp_path: Path, data_root: Callable[[str], Path], number: signal.Signals
) -> None:
    program = Program(tmp_path, data_root("cifar10") / "cifar10_train.zip")
    while not isinstance(program.message(), Progressed):
        pass
    program.process.send_signal(number)
    code, messages = program.ended()
    assert code == EXIT_SAVED
    assert not any(isinstance(message, Ingested | Failed) for message in messages)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    code, messages = Program(tmp_path, tmp_path / "nothing.zip").ended()
    last = messages[-1]
    assert code == EXIT_FAILED and isinstance(last, Failed)
    assert "'nothing.zip' does not exist" in last.error.detail
