"""What a burst promises against what jobs then take: ten small jobs of different kinds, each run whole by the trainer.

python benchmarks/estimates.py --cifar ../shared/data/cifar10 --markdown docs/measured/estimates.md
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distillery.spec.training import Training
from distillery.views import Estimate, Interval
from engine.environment import cpu_model

_DIGITS: dict[str, Any] = {"kind": "digits", "image_size": 8}
_TEACHER: dict[str, Any] = {"architecture": "resnet14", "train": {"epochs": 2}}
_PLAIN: dict[str, Any] = {"latency": None, "export": ["safetensors"]}
_TRAIN_IMAGES, _TEST_IMAGES = 100, 20
"""Of each class of CIFAR-10."""


def jobs(cifar: Path) -> dict[str, dict[str, Any]]:
    """Specs by name. `cifar` is an archive of a few CIFAR-10 images."""
    colours = {"kind": "npz", "path": str(cifar)}
    return {
        "digits, kd": _job(_DIGITS, "resnet8", epochs=8, batch_size=64, **_PLAIN),
        "digits, batches of 16": _job(_DIGITS, "resnet8", epochs=3, batch_size=16, **_PLAIN),
        "digits, three seeds": _job(_DIGITS, "resnet8", epochs=3, batch_size=64, seeds=3, **_PLAIN),
        "digits, crd": _job(_DIGITS, "resnet8", epochs=4, method={"preset": ["crd", "kd"]}, **_PLAIN),
        "digits, online": _job(
            _DIGITS, "resnet8", epochs=4, method={"strategy": "online"}, teacher={"architecture": "resnet14"}, **_PLAIN
        ),
        "digits, assistant, ONNX": _job(
            _DIGITS, "resnet8", epochs=3, assistants=[{"architecture": "wrn16-1"}], latency=None
        ),
        "digits, timed in eager": _job(
            _DIGITS, "resnet8", epochs=2, latency={"runtimes": ["eager"]}, export=["safetensors"]
        ),
        "CIFAR-10, kd": _job(colours, "resnet8", epochs=4, batch_size=64, **_PLAIN),
        "CIFAR-10, exits": _job(
            colours, "resnet20", epochs=3, method={"strategy": "self_distillation"}, teacher=None, **_PLAIN
        ),
        "CIFAR-10, no baseline, AdamW": _job(
            colours, "resnet14", epochs=3, baseline=False, optimizer={"name": "adamw", "lr": 2e-3}, **_PLAIN
        ),
    }


def _job(data: dict[str, Any], student: str, **given: Any) -> dict[str, Any]:
    recipe = {name: given.pop(name) for name in ("epochs", "batch_size", "optimizer") if name in given}
    teacher = given.pop("teacher", {**_TEACHER, "minimum_accuracy": 0})
    spec = {"dataset": data, "teacher": teacher, "student": {"architecture": student}, **given}
    return {**spec, "training": {"seed": 0, "device": "cpu", **recipe}}


@dataclass(frozen=True)
class Outcome:
    """A job as it was promised and as it came."""

    name: str
    estimate: Estimate
    seconds: float
    memory_bytes: float
    disk_bytes: float


def run(name: str, spec: dict[str, Any], *, folder: Path) -> Outcome:
    """Run one job by the trainer, in a process of its own.

    Raises:
        RuntimeError: it failed, or told no estimate.
    """
    folder.mkdir()
    job = folder / "job.json"
    job.write_text(json.dumps(spec))
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "worker.run", str(job), "--out", str(folder / "out"), "--events-fd", str(writing)]
    began = time.monotonic()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, pass_fds=(writing,), stdout=log, stderr=log, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}
        )
    os.close(writing)
    estimate = None
    with os.fdopen(reading) as messages:
        for message in map(json.loads, messages):
            if message["kind"] == "estimated":
                estimate = Estimate.model_validate(message["estimate"])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or estimate is None:
        raise RuntimeError(f"The job '{name}' failed:\n{(folder / 'log').read_text()}")
    written = _kept_bytes(folder / "out", keep=Training().keep)
    return Outcome(name, estimate, time.monotonic() - began, usage.ru_maxrss * 1024, written)


def _kept_bytes(folder: Path, *, keep: int) -> int:
    """What a supervisor would keep: it deletes all checkpoints but the newest."""
    files = [each for each in folder.rglob("*") if each.is_file()]
    checkpoints = sorted((each for each in files if each.suffix == ".ckpt"), key=lambda each: each.stat().st_mtime_ns)
    return sum(each.stat().st_size for each in files if each not in checkpoints[:-keep])


def few_of_cifar(folder: Path, archive: Path) -> None:
    """The first images of each class in CIFAR-10's two zips, as a NumPy archive."""
    arrays: dict[str, NDArray[Any]] = {}
    for split, count in (("train", _TRAIN_IMAGES), ("test", _TEST_IMAGES)):
        with zipfile.ZipFile(folder / f"cifar10_{split}.zip") as files:
            found = list(_first_of_each(files, count))
        arrays[f"x_{split}"] = np.stack([pixels for pixels, _ in found])
        arrays[f"y_{split}"] = np.array([label for _, label in found])
    np.savez(archive, **arrays)  # type: ignore[arg-type]  # numpy's own signature takes a flag among the arrays


def _first_of_each(files: zipfile.ZipFile, count: int) -> Iterator[tuple[NDArray[Any], int]]:
    from PIL import Image

    names = sorted(name for name in files.namelist() if name.endswith(".webp"))
    for label, (_, members) in enumerate(groupby(names, key=lambda name: name.rpartition("/")[0])):
        for member in islice(members, count):
            with Image.open(io.BytesIO(files.read(member))) as picture:
                yield np.asarray(picture.convert("RGB")), label


def table(outcomes: list[Outcome]) -> str:
    """Markdown: promised and taken, and whether the interval held."""
    lines = [
        "| job | promised, s | taken, s | promised, MB of memory | taken, MB | promised, MB on disk | taken, MB |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in outcomes:
        pairs = (
            _pair(each.estimate.seconds, each.seconds, scale=1),
            _pair(each.estimate.memory_bytes, each.memory_bytes, scale=1e6),
            _pair(each.estimate.artifact_bytes, each.disk_bytes, scale=1e6),
        )
        lines.append(f"| {each.name} | {' | '.join(pairs)} |")
    return "\n".join(lines)


def _pair(promised: Interval | None, taken: float, *, scale: float) -> str:
    if promised is None:
        return f"unknown | {taken / scale:,.0f}"
    mark = "" if promised.low <= taken <= promised.high else " (outside)"
    return f"{promised.low / scale:,.0f} to {promised.high / scale:,.0f} | {taken / scale:,.0f}{mark}"


def held(outcomes: list[Outcome]) -> str:
    """In how many jobs each interval held."""
    counts = {
        "time": sum(_inside(each.estimate.seconds, each.seconds) for each in outcomes),
        "memory": sum(_inside(each.estimate.memory_bytes, each.memory_bytes) for each in outcomes),
        "disk": sum(_inside(each.estimate.artifact_bytes, each.disk_bytes) for each in outcomes),
    }
    return ", ".join(f"{what} in {count} of {len(outcomes)}" for what, count in counts.items())


def _inside(promised: Interval | None, taken: float) -> bool:
    return promised is not None and promised.low <= taken <= promised.high


def page(outcomes: list[Outcome]) -> str:
    """The page in docs/measured."""
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return (
        "# What a burst promises, and what jobs take\n\n"
        "Written by `python benchmarks/estimates.py --cifar FOLDER --markdown FILE`. Each job was run whole by "
        "`python -m worker.run`; what was promised was told in its first phase, after a few steps of each of its "
        "trainings on networks that were thrown away. The time is that of the whole process, the memory its largest "
        "resident set, the disk what lay in its folder at the end.\n\n"
        f"- The intervals held: {held(outcomes)}.\n"
        f"- Machine: {cpu_model()}, {os.cpu_count()} cores, shared with other work (load over 1, 5 and 15 minutes at "
        f"the end: {load}). {time.strftime('%Y-%m-%d', time.gmtime())}.\n\n"
        f"{table(outcomes)}\n"
    )


def main() -> None:
    """Run all jobs and print what came of them."""
    options = argparse.ArgumentParser(description="Estimates against reality.")
    options.add_argument("--cifar", type=Path, required=True, help="folder with cifar10_train.zip and cifar10_test.zip")
    options.add_argument("--markdown", type=Path, help="write the page here")
    options.add_argument("--only", type=int, default=None, help="so many of the jobs")
    given = options.parse_args()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="distillery-estimates-") as folder:
        archive = Path(folder) / "cifar.npz"
        few_of_cifar(given.cifar, archive)
        for number, (name, spec) in enumerate(list(jobs(archive).items())[: given.only]):
            outcomes.append(run(name, spec, folder=Path(folder) / str(number)))
            sys.stderr.write(f"{table(outcomes[-1:]).splitlines()[-1]}\n")
            if given.markdown:
                given.markdown.write_text(page(outcomes), encoding="utf-8")
    sys.stdout.write(f"{table(outcomes)}\n\n{held(outcomes)}\n")


if __name__ == "__main__":
    main()
