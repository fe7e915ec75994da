"""Training from a packed file that is larger than the memory a process may take, against the same images in memory.

    python -m benchmarks.larger_than_memory --gib 1.5 --limit-gib 0.5 --markdown docs/measured/larger-than-memory.md

Three processes of their own train the same small network by the real loop, a turn each in every round, in another
order each time, on the same shuffled batches:

- `memory`: every image in one tensor, without a limit.
- `mapped`: images from the file, under the limit.
- `cold`: the same from a copy of the file, of which the kernel gives back every page before each turn, so that each
  image comes from the disk, as it does when the file is larger than the machine's memory.

The limit is RLIMIT_DATA, set when the libraries are loaded, which take most of a GiB by themselves. It counts what a
process allocates and not what it maps to read, needs no privileges, and a tensor of the file's size does not come about
under it (a fourth process tries). It does not bound the kernel's page cache, which a control group would: that is what
`cold` is for. Rates are those of steps 6 to the last of a turn: by the clock, and by the CPU's, which is steadier where
other processes run but does not count waiting for the disk.
"""

import argparse
import gc
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

GIB = 2**30
TITLES = {
    "memory": "in memory, no limit", "mapped": "mapped, under the limit",
    "cold": "mapped, none of it in the page cache",
}  # fmt: skip
GOAL = 0.90
CLASSES, CHANNELS = 10, 3
_WARM_UP = 5
_HELD_BACK = 16
_AT_ONCE = 2048
_ID = "dts_" + "0" * 26
Turn = dict[str, float]


def write_images(path: Path, *, gib: float, side: int) -> int:
    """A packed file of so many bytes of noise, which no disk can shrink; gives the number of images."""
    from engine.data.packed import SPLITS, PackedWriter

    count = int(gib * GIB) // (CHANNELS * side * side)
    random_, shape = np.random.default_rng(0), (CHANNELS, side, side)
    with PackedWriter(path, task="image-classification", channels=CHANNELS) as writer:
        for start in range(0, count, _AT_ONCE):
            for image in random_.integers(0, 256, (min(_AT_ONCE, count - start), *shape), dtype=np.uint8):
                writer.add_image(image, name=str(len(writer)))
        split = np.full(count, SPLITS.index("train"), dtype=np.uint8)
        split[: 2 * _HELD_BACK] = np.repeat([SPLITS.index("validation"), SPLITS.index("test")], _HELD_BACK)
        classes = [str(number) for number in range(CLASSES)]
        writer.finish(classes=classes, labels=np.arange(count, dtype=np.int64) % CLASSES, split=split)
    return count


class Clock:
    """An observer that stops the loop after some steps and knows how long those after the warm-up took."""

    def __init__(self, steps: int) -> None:
        self._left, self._steps = steps, steps
        self._began = self._cpu_began = self.seconds = self.cpu_seconds = 0.0

    def stop_requested(self) -> bool:
        """Asked after every step."""
        self._left -= 1
        if self._left == self._steps - _WARM_UP:
            self._began, self._cpu_began = time.perf_counter(), time.process_time()
        self.seconds, self.cpu_seconds = time.perf_counter() - self._began, time.process_time() - self._cpu_began
        return self._left == 0

    def progress(self, **values: Any) -> None:
        """Ignored."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Ignored."""

    def warning(self, message: str) -> None:
        """Ignored."""

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Ignored."""


def contend(options: argparse.Namespace) -> None:
    """One contender: loads the data, says so, and takes a turn for each seed that comes on the standard input."""
    import torch

    from distillery.spec.dataset import StoredData
    from engine.data.dataset import Split
    from engine.data.readers import load

    torch.set_num_threads(options.threads)
    if options.role != "memory":
        limit = int(_status()["VmData"] * 2**20 + options.limit_gib * GIB)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    began = time.perf_counter()
    data = load(StoredData(id=_ID), stored=options.file)
    if options.role in ("memory", "refused"):
        try:
            train = Split(data.train.images[:], data.train.labels, data.train.ids)
        except (MemoryError, RuntimeError) as error:
            print(json.dumps({"refused": str(error).splitlines()[0]}), flush=True)
            return
        data = type(data)(**{**vars(data), "train": train})
    print(json.dumps({"load_seconds": time.perf_counter() - began}), flush=True)
    for line in sys.stdin:
        if options.role == "cold":
            _forget(data.train.images, options.file)
        print(json.dumps(_turn(data, options, seed=int(line))), flush=True)


def _forget(images: Any, file: Path) -> None:
    """Have the kernel give back every page of the file; those that a process maps stay, so they are unmapped first."""
    import mmap

    images._mapping.madvise(mmap.MADV_DONTNEED)
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _turn(data: Any, options: argparse.Namespace, *, seed: int) -> Turn:
    """Images per second of the loop, and of making its batches alone, in that order of the images."""
    import torch

    from distillery.spec.objectives import CrossEntropyTerm
    from distillery.spec.training import ConstantSchedule, Sgd, Training
    from engine.data.views import batches
    from engine.loop import Stopped, train
    from engine.objectives import build as objective_of
    from engine.strategies.offline import Offline
    from models import build

    torch.manual_seed(0)
    network = build(options.network, classes=CLASSES, image_size=data.image_size, channels=CHANNELS)
    recipe = Training(
        epochs=1, batch_size=options.batch_size, optimizer=Sgd(lr=0.01), schedule=ConstantSchedule(), seed=seed,
        device="cpu", precision="fp32", threads=options.threads,
    )  # fmt: skip
    lesson = Offline(network, objective=objective_of([CrossEntropyTerm(weight=1.0)]), teacher=None)
    gc.collect()  # a loop that was stopped leaves cycles behind, and the memory of a turn would add up
    clock, before = Clock(options.steps), _read_bytes()
    with suppress(Stopped):
        train(lesson, dataset=data, recipe=recipe, augment=("crop", "flip"), observer=clock)
    read = _read_bytes() - before
    images = (options.steps - _WARM_UP) * options.batch_size
    if options.role == "cold":
        _forget(data.train.images, options.file)
    began = time.perf_counter()
    views = batches(
        data.train, batch_size=options.batch_size, seed=seed, epoch=0, augment=("crop", "flip"), mean=data.mean,
        std=data.std,
    )  # fmt: skip
    made = sum(len(batch.labels) for batch in islice(views, options.steps))
    alone = made / (time.perf_counter() - began)
    rates = {"rate": images / clock.seconds, "cpu_rate": images / clock.cpu_seconds, "batches_alone": alone}
    return {**rates, "read_mib": read / 2**20, **_status()}


def _read_bytes() -> int:
    """Bytes that this process has had read from the disk."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


def _status() -> Turn:
    """What the kernel counts of this process, in MiB, by the names that it has there."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    told = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(kib) / 1024 for name, kib, _ in told}


@dataclass
class Contender:
    """One of the processes, and what it told."""

    role: str
    process: "subprocess.Popen[str]"
    turns: list[Turn] = field(default_factory=list)

    def hear(self) -> dict[str, Any]:
        """Its next word.

        Raises:
            RuntimeError: it ended without one.
        """
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise RuntimeError(f"The process '{self.role}' ended with code {self.process.wait()}.")
        told: dict[str, Any] = json.loads(line)
        return told

    def take_turn(self, seed: int) -> None:
        """Have it train, and wait for its figures."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seed}\n")
        self.process.stdin.flush()
        self.turns.append(self.hear())

    def leave(self) -> None:
        """Let it end."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait()


def begun(role: str, file: Path, options: argparse.Namespace) -> Contender:
    """Start a contender."""
    command = [sys.executable, "-m", "benchmarks.larger_than_memory", "--role", role, "--file", str(file)]
    for name in ("limit_gib", "steps", "batch_size", "threads", "network"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    pipe = subprocess.PIPE
    return Contender(role, subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment))


def copied(file: Path) -> Path:
    """A copy beside it that lies on the disk: pages that wait to be written are not given back either."""
    copy = file.with_suffix(".copy.dstl")
    shutil.copyfile(file, copy)
    with copy.open("rb+") as opened:
        os.fsync(opened.fileno())
    return copy


def measure(file: Path, options: argparse.Namespace) -> tuple[str, dict[str, Contender]]:
    """What the process says that may not take so much memory, and the contenders after all rounds."""
    refused = begun("refused", file, options)
    told = refused.hear()
    refused.leave()
    contenders = {}
    for role in options.contenders:  # one after the other: loading is not what is measured
        # Pages that another process maps are not given back, so `cold` has a file to itself.
        own = copied(file) if role == "cold" else file
        contenders[role] = begun(role, own, options)
        contenders[role].hear()
    draw = random.Random(0)  # noqa: S311 - an order of turns
    for number in range(options.rounds + 1):  # the first is a warm-up
        for role in draw.sample(options.contenders, len(options.contenders)):
            contenders[role].take_turn(seed=number)
    for each in contenders.values():
        each.leave()
        del each.turns[0]
    return told.get("refused", ""), contenders


def ratios(contenders: dict[str, Contender], role: str, *, of: str = "rate") -> list[float]:
    """How fast a contender was against images in memory, round by round."""
    pairs = zip(contenders[role].turns, contenders["memory"].turns, strict=True)
    return [turn[of] / memory[of] for turn, memory in pairs]


def _spread(values: list[float], digits: int = 0) -> str:
    low, high = (f"{bound:,.{digits}f}" for bound in (min(values), max(values)))
    return f"{statistics.median(values):,.{digits}f} ({low} to {high})"


def page(refused: str, contenders: dict[str, Contender], *, count: int, options: argparse.Namespace) -> Iterator[str]:
    """The figures as Markdown, line by line."""
    from engine.environment import describe

    found = describe(threads=options.threads)
    given = " ".join(
        f"--{name.replace('_', '-')} {getattr(options, name)}"
        for name in ("gib", "limit_gib", "side", "network", "batch_size", "steps", "rounds", "threads")
    )
    yield "# Training from a file that is larger than memory, as measured"
    yield ""
    yield (
        f"Written by `python -m benchmarks.larger_than_memory {given}`. Machine: {found['cpu']}, "
        f"{found['cpu_cores']} cores, {found['system']}; load at the end {os.getloadavg()[0]:.1f}. Python "
        f"{found['python']}, torch {found['versions'].get('torch', '')}. {date.today():%Y-%m-%d}."  # noqa: DTZ011
    )
    yield ""
    yield (
        f"{count:,} images of {options.side}x{options.side} pixels, {options.gib:g} GiB packed. A process that may "
        f"allocate {options.limit_gib:g} GiB besides its libraries (RLIMIT_DATA) and loads them all says: "
        f"{f'*{refused}*' if refused else '**nothing: they fitted, so that nothing is shown here**'}"
    )
    yield ""
    yield (
        f"Median (smallest to largest) of {options.rounds} rounds, {options.network} at batch {options.batch_size} "
        f"with crop and flip, {options.threads} thread(s), {options.steps - _WARM_UP} steps a turn after "
        f"{_WARM_UP}."
    )
    yield ""
    yield f"| | {' | '.join(TITLES[role] for role in contenders)} |"
    yield f"|---|{'---|' * len(contenders)}"
    rows = (
        ("training, images/s", "rate", 0), ("training, images per CPU second", "cpu_rate", 0),
        ("batches alone, images/s", "batches_alone", 0),
        ("read from the disk while training, MiB", "read_mib", 1), ("memory of its own, MiB", "RssAnon", 0),
        ("mapped pages of files, MiB", "RssFile", 0),
    )  # fmt: skip
    for title, key, digits in rows:
        cells = (_spread([turn[key] for turn in each.turns], digits) for each in contenders.values())
        yield f"| {title} | {' | '.join(cells)} |"
    for title, of in (
        (f"training against memory, round by round; goal {GOAL:.2f}", "rate"),
        ("… per CPU second", "cpu_rate"),
    ):
        told = [f"**{_spread(ratios(contenders, role, of=of), 3)}**" for role in contenders if role != "memory"]
        yield f"| {title} | 1 | {' | '.join(told)} |"


def main() -> None:
    """Read the options, measure, print."""
    options = _options()
    if options.role:
        contend(options)
        return
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="larger-than-memory-") as folder:
        file = Path(folder) / "noise.dstl"
        count = write_images(file, gib=options.gib, side=options.side)
        refused, contenders = measure(file, options)
    text = "\n".join(page(refused, contenders, count=count, options=options)) + "\n"
    print(text)
    if options.markdown:
        options.markdown.write_text(text + _below(options.markdown), encoding="utf-8")


def _below(path: Path) -> str:
    """What was written by hand below the figures of an earlier run."""
    _, line, rest = (path.read_text(encoding="utf-8") if path.exists() else "").partition("\n## ")
    return line + rest


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=1.5, help="size of the data set")
    parser.add_argument(
        "--limit-gib", type=float, default=0.5, help="what a process may allocate besides the libraries"
    )
    parser.add_argument("--side", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--network", default="resnet8")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=45, help="of a turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the file is made; the temporary folder when left out")
    parser.add_argument("--markdown", type=Path, help="a file to write the figures to")
    parser.add_argument("--without-cold", action="store_const", dest="contenders", const=("memory", "mapped"))
    parser.add_argument("--role", choices=(*TITLES, "refused"), help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    parser.set_defaults(contenders=tuple(TITLES))
    return parser.parse_args()


if __name__ == "__main__":
    main()
