"""Eight distillations of one teacher that differ in temperature and weight: our shared answers against a peer's jobs.

    make peers
    python -m benchmarks.sweep --data ../shared/data/cifar10 [--pair resnet56:resnet20] [--images 512] [--epochs 30]

Ours runs all jobs to their end, one after another: the first asks the teacher about each view that it shows, the others
read the answers. A peer has nothing to share, so one of its jobs is run to the end and counted eight times. They take
turns, and a job's cost is that of its turns: set-up, validation and filling of the cache included, imports left out.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

from benchmarks.contest import images
from benchmarks.contest.ours import variant
from benchmarks.contest.tables import PEERS, Cost, command_of, costs_table
from benchmarks.contest.task import Task
from benchmarks.contest.turns import contenders, to_the_end
from engine import environment
from engine.precision import resolve_device, resolve_precision

JOBS = tuple(product((1.0, 2.0, 4.0, 8.0), (0.5, 0.9)))
"""Temperature and weight of the teacher's term."""
OURS = "ours: cached"


def costs(options: argparse.Namespace, folder: Path) -> dict[str, Cost]:
    """What all jobs cost each contender."""
    arrays = images.gather(options.data, count=options.images, tests=4)
    archive = images.write(arrays, folder / "images.npz")
    scratch = folder / "answers"
    scratch.mkdir()
    teacher, student = options.pair.split(":")
    task = Task(
        OURS, str(archive), teacher, student, batch_size=options.batch_size, epochs=options.epochs,
        threads=options.threads, jobs=JOBS, scratch=str(scratch),
    )  # fmt: skip
    one = [replace(task, contender=peer, jobs=JOBS[:1], scratch="") for peer in options.peers]
    with contenders([*one, task]) as running:
        turns = to_the_end(running, seconds=options.seconds)
    return {name: Cost.of(taken, times=1 if name == OURS else len(JOBS)) for name, taken in turns.items()}


def page(options: argparse.Namespace, found: dict[str, Cost], *, command: str, load_before: float | None) -> str:
    """What it cost, and what it is."""
    facts, chosen = environment.describe(threads=options.threads), variant(OURS)
    precision = resolve_precision(chosen.precision, resolve_device("cpu"))
    best = min((name for name in found if name in PEERS), key=lambda name: found[name].seconds)
    ratio = found[best].seconds / found[OURS].seconds
    jobs = ", ".join(f"T = {temperature:g} and {soft:g}" for temperature, soft in JOBS)
    lines = [
        "# A sweep, as measured", "", f"Written by `{command}`, {time.strftime('%Y-%m-%d')}.", "",
        f"- {facts['cpu']}, {facts['cpu_cores']} cores, {options.threads} thread(s) each, ours in {precision}; torch "
        f"{facts['versions']['torch']}. Load before the run {load_before}, at the end {environment.load_average()}.",
        f"- {options.pair.replace(':', ' to ')}, {options.images:,} images, {options.epochs} epochs at batch "
        f"{options.batch_size}, crop and flip; temperature and weight of the teacher: {jobs}.",
        f"- Ours runs {len(JOBS)} jobs with one teacher's answers to "
        f"{chosen.views(Task(OURS, '', '', '', epochs=options.epochs))} views of each image. Of a peer one job is run "
        f"and counted {len(JOBS)} times.",
        "", *costs_table(found), "", f"**The sweep takes {best}, the best peer, {ratio:.2f} times as long as us.**",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    root = os.environ.get("DISTILLERY_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        default=f"{root}/cifar10" if root else None,
        required=root is None,
        help="folder of CIFAR-10, else $DISTILLERY_DATA/cifar10 if that is set; or 'digits'",
    )
    parser.add_argument("--pair", default="resnet56:resnet20", help="<teacher>:<student>")
    parser.add_argument("--peers", default=",".join(PEERS), help="with commas")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn, at least")
    parser.add_argument("--out", type=Path, help="file for the page")
    options = parser.parse_args(arguments)
    options.peers = [name for name in options.peers.split(",") if name]
    if not options.peers or any(name not in PEERS for name in options.peers):
        raise SystemExit(f"--peers {','.join(options.peers)}: give one or more of {', '.join(PEERS)}.")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the page."""
    options, load_before = options_of(arguments), environment.load_average()
    command = command_of("sweep", sys.argv[1:] if arguments is None else arguments)
    with tempfile.TemporaryDirectory(prefix="distillery-sweep-") as folder:
        found = costs(options, Path(folder))
    text = page(options, found, command=command, load_before=load_before)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
