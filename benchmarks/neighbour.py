"""A trainer beside a busy core: what threads and their way of waiting make of it, and what the API feels of a trainer.

    python -m benchmarks.neighbour [--rounds 5] [--seconds 3] [--short] [--out FILE]

Anyone can run it: real training loops (resnet8 taught by resnet14, digits at 32 pixels), each in a process of its own,
in interleaved rounds of rotated order; the busy core is a process that only counts, at the usual priority. Then GET
/v1/jobs on a SQLite file, with and without a real trainer, in turn first.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.api import Block, block
from benchmarks.api_load import training
from benchmarks.api_load_client import percentile
from benchmarks.api_load_queue import sqlite
from benchmarks.api_peers import Running, distillery
from benchmarks.surroundings import heading, others_busy
from worker.waiting import WAITING

POLICIES: dict[str, Mapping[str, str]] = {
    "ours": WAITING,
    "PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "not set": {},
    "ACTIVE": {"OMP_WAIT_POLICY": "ACTIVE"},
}
WAYS = (("PASSIVE", 1), *((policy, 2) for policy in POLICIES))
"""One thread waits for nobody: how does not matter."""
ROWS, CLIENTS = 200, 2
LOOP = """
import os
import sys
import time
import torch
from distillery.spec.dataset import DigitsData
from engine.data.readers import load
from models import build
from worker.run import NICENESS
os.nice(NICENESS)
torch.set_num_threads(int(sys.argv[1]))
data = load(DigitsData(kind="digits", image_size=32))
shape = {"classes": len(data.classes), "image_size": 32, "channels": data.channels}
teacher, student = build("resnet14", **shape).eval(), build("resnet8", **shape)
optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
images = data.train.images[:64].float() / 255
def step():
    with torch.inference_mode():
        taught = teacher(images)
    loss = torch.nn.functional.kl_div(student(images).log_softmax(1), taught.clone().softmax(1), reduction="batchmean")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
for _ in range(5):
    step()
print("ready", flush=True)
sys.stdin.readline()
began, done = time.perf_counter(), 0
while time.perf_counter() < began + float(sys.argv[2]):
    step()
    done += 1
print(done * 64 / (time.perf_counter() - began), flush=True)
"""


@dataclass
class Found:
    """Everything measured, a value a round."""

    loops: dict[tuple[str, int, bool], list[float]] = field(default_factory=dict)
    """Images a second, by wait policy, threads, and whether a core was busy."""
    api: dict[bool, list[Block]] = field(default_factory=dict)
    """By whether a trainer ran beside."""
    foreign: list[float] = field(default_factory=list)


def _burn(parent: int) -> None:
    while os.getppid() == parent:
        sum(range(100_000))


@contextlib.contextmanager
def busy_core() -> Iterator[None]:
    """A process that keeps one core busy."""
    process = multiprocessing.get_context("spawn").Process(target=_burn, args=(os.getpid(),), daemon=True)
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()


def images_per_second(policy: str, threads: int, *, seconds: float, beside: bool) -> float:
    """Of a fresh trainer, which is ready before its neighbour begins."""
    kept = {name: value for name, value in os.environ.items() if name not in WAITING}
    environment = {**kept, **POLICIES[policy], "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", LOOP, str(threads), str(seconds)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        with busy_core() if beside else contextlib.nullcontext():
            process.stdin.write("go\n")
            process.stdin.flush()
            return float(process.stdout.readline())


def measure(options: argparse.Namespace) -> Found:
    """All rounds."""
    found = Found()
    cells = [(policy, threads, beside) for beside in (False, True) for policy, threads in WAYS]
    for number in range(options.rounds):
        found.foreign.append(others_busy(1.0))
        place = number * 3 % len(cells)
        for policy, threads, beside in [*cells[place:], *cells[:place]]:
            speed = images_per_second(policy, threads, seconds=options.seconds, beside=beside)
            found.loops.setdefault((policy, threads, beside), []).append(speed)
            told = f"{policy}, {threads} thread(s){', beside a busy core' if beside else ''}: {speed:.0f} images/s"
            print(told, flush=True)
    with tempfile.TemporaryDirectory(prefix="distillery-neighbour-") as text, sqlite() as url:
        folder = Path(text)
        with distillery(url, folder=folder, rows=ROWS) as running:
            for number in range(options.rounds):
                for beside in (number % 2 == 1, number % 2 == 0):
                    with training(folder) if beside else contextlib.nullcontext():
                        one = _listed(running, options.requests, number)
                    found.api.setdefault(beside, []).append(one)
    return found


def _listed(running: Running, count: int, number: int) -> Block:
    return asyncio.run(block(running, "list", count=count, clients=CLIENTS, offset=number * count))


def report(found: Found, options: argparse.Namespace, *, command: str, load_before: float) -> str:
    """The page."""
    lines = [
        *heading("Beside other work, as measured", command=command, load_before=load_before),
        f"- {options.rounds} round(s) of {options.seconds:g} s: median (smallest to largest). A second before each, "
        f"others kept {max(found.foreign):.2f} cores busy at the most.",
        "",
        "| wait policy | threads | images/s, quiet | images/s, beside a busy core | kept |",
        "|---|---|---|---|---|",
    ]
    for policy, threads in WAYS:
        quiet, beside = (found.loops[policy, threads, busy] for busy in (False, True))
        kept = _spread([one / other for one, other in zip(beside, quiet, strict=True)], digits=2)
        lines.append(f"| {policy} | {threads} | {_spread(quiet)} | {_spread(beside)} | {kept} |")
    lines += ["", "| `GET /v1/jobs` | p50, ms | p99, ms |", "|---|---|---|"]
    for beside, name in ((False, "alone"), (True, "beside a trainer of one thread")):
        tails = (_spread([percentile(each.seconds, at) for each in found.api[beside]], digits=1) for at in (0.5, 0.99))
        lines.append(f"| {name} | {' | '.join(tails)} |")
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float], *, digits: int = 0) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each loop")
    parser.add_argument("--requests", type=int, default=400, help="to the API in each block")
    parser.add_argument("--short", action="store_true", help="two rounds of a second")
    parser.add_argument("--out", type=Path, help="file for the page")
    options = parser.parse_args(arguments)
    if options.short:
        options.rounds, options.seconds, options.requests = 2, 1.0, 100
    load_before = os.getloadavg()[0]
    found = measure(options)
    given = " ".join(sys.argv[1:] if arguments is None else arguments)
    page = report(found, options, command=f"python -m benchmarks.neighbour {given}".strip(), load_before=load_before)
    print(page)
    if options.out:
        options.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
