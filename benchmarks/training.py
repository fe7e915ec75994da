"""Knowledge distillation by our loop, by torchdistill and by the textbook's loop, in turns: who trains how fast.

    make peers
    python -m benchmarks.training --data ../shared/data/cifar10 [--pair resnet56:resnet20] [--rounds 5] [--seconds 8]
        [--whole-job 512] [--out docs/measured/training.md]

Every contender is a process of its own that distils the same teacher into the same student on the same real images,
with random crop and flip, by SGD. Turns of some seconds go around in rotation, and between turns a contender waits
inside its own loop, so that all of them see the same machine. A ratio is taken within a round, against whichever peer
was the fastest in it. In each round convolutions are timed too: they are the floor. A round in which other processes
took a share of the machine is flagged and left out where there are others. `--whole-job 512` also runs 30 epochs on so
many images to the end, everything included that ours does at the start, between epochs and to fill its cache.

    python -m benchmarks.training --data ../shared/data/cifar10 --accuracy --teacher-weights resnet20=FILE

trains every option with several seeds instead, and shows the accuracy of each beside its pace.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.contest import accuracy, images, networks, taught
from benchmarks.contest.ours import VARIANTS
from benchmarks.contest.tables import (
    FLOOR,
    PEERS,
    Cost,
    Measured,
    command_of,
    costs_table,
    forms_told,
    rates_table,
    rounds_table,
)
from benchmarks.contest.task import HARD_WEIGHT, SOFT_WEIGHT, TEMPERATURE, Task
from benchmarks.contest.turns import contenders, interleaved, to_the_end, warmed_up
from engine import environment
from engine.precision import computes_bf16, resolve_device
from models.count import multiply_adds

JOB_EPOCHS = 30
PAIRS = ("resnet56:resnet20", "wrn40-2:wrn16-2")
_TEST_IMAGES = 2_000


def contestants(options: argparse.Namespace) -> list[str]:
    """Peers and variants that were asked for. A variant that is another one on this machine is left out."""
    bf16 = computes_bf16(resolve_device(options.device))
    chosen = [each for each in VARIANTS if not options.only or each.name in options.only]
    wanted = [f"ours: {each.name}" for each in chosen if bf16 or each.twin not in [other.name for other in chosen]]
    return [*options.peers, *wanted]


def measured(options: argparse.Namespace, pair: str, arrays: images.Arrays, folder: Path) -> Measured:
    """One pair of networks: steady state, then whole jobs."""
    teacher, student = pair.split(":")
    task = Task(
        "textbook", str(folder / "images.npz"), teacher, student, batch_size=options.batch_size,
        threads=options.threads, device=options.device,
    )  # fmt: skip
    given = taught.weights(task, arrays, given=options.teacher_weights, epochs=options.teacher_epochs, folder=folder)
    say(f"{teacher}: {given.told}")
    task = replace(task, teacher_weights=given.file)
    names = contestants(options)
    floors = [f"{FLOOR}{each}" for each in ("fp32", "bf16")[: 1 + computes_bf16(resolve_device(options.device))]]
    asked = [replace(task, contender=name, scratch=_scratch(folder, f"{pair} {name}")) for name in [*names, *floors]]
    rounds = []
    with contenders(asked) as running:
        warmed_up(running, seconds=options.seconds / 4)
        for number, turns in enumerate(interleaved(running, rounds=options.rounds, seconds=options.seconds), 1):
            rounds.append(turns)
            rates = ", ".join(f"{name} {turns[name].per_second:,.0f}" for name in names)
            say(f"{pair}, round {number} of {options.rounds}: {rates}")
        facts = {name: contender.facts for name, contender in running.items()}
    jobs = {}
    if options.whole_job:
        small = images.write(arrays.first(options.whole_job), folder / "job.npz")
        asked = [
            replace(task, contender=name, images=str(small), epochs=options.job_epochs,
                    scratch=_scratch(folder, f"{pair} {name} job"))
            for name in names
        ]  # fmt: skip
        with contenders(asked) as running:
            jobs = to_the_end(running, seconds=options.seconds)
        say(
            f"{pair}, whole jobs: "
            + ", ".join(f"{name} {Cost.of(turns).seconds:.0f} s" for name, turns in jobs.items())
        )
    return Measured(teacher, student, rounds, facts, operations(pair, names, arrays), given.told, jobs)


def operations(pair: str, names: Sequence[str], arrays: images.Arrays) -> dict[str, float]:
    """Floating-point operations of each contender an image: two a multiply-add; backward costs twice the forward."""
    shape = {"channels": arrays.channels, "image_size": arrays.size}
    of_teacher, of_student = (multiply_adds(networks.drawn(name, arrays, seed=0), **shape) for name in pair.split(":"))
    free = {f"ours: {each.name}" for each in VARIANTS if each.cached}
    return {name: 2 * (3 * of_student + (0 if name in free else of_teacher)) for name in names}


def _scratch(folder: Path, name: str) -> str:
    """An empty folder of its own."""
    made = folder / name.replace(":", "").replace(" ", "-")
    made.mkdir()
    return str(made)


def page(options: argparse.Namespace, found: Sequence[Measured], *, command: str, load_before: float | None) -> str:
    """Everything measured."""
    lines = [
        "# Training, as measured", "", f"Written by `{command}`, {time.strftime('%Y-%m-%d')}.", "",
        *machine(options, found, load_before=load_before),
        f"- Batch {options.batch_size}, KD at T = {TEMPERATURE:g} (labels {HARD_WEIGHT:g}, teacher {SOFT_WEIGHT:g}), "
        f"random crop and flip, SGD. {options.rounds} rounds of turns of {options.seconds:g} s; median (smallest to "
        "largest). Nothing here says anything about accuracy.",
        *missing(options),
    ]  # fmt: skip
    for each in found:
        lines += ["", f"## {each.teacher} to {each.student}", "", f"- {each.teacher}: {each.taught}."]
        lines += [*forms_told(each), "", *rates_table(each), "", *rounds_table(each)]
        if each.jobs:
            told = (
                f"A whole job of {options.job_epochs} epochs on {options.whole_job:,} images, imports left out; ours "
                "with its set-up, its validation (on two images) and the filling of its caches:"
            )
            lines += ["", told, "", *costs_table({name: Cost.of(turns) for name, turns in each.jobs.items()})]
    return "\n".join(lines) + "\n"


def machine(options: argparse.Namespace, found: Sequence[Measured], *, load_before: float | None) -> list[str]:
    """Where the figures come from."""
    facts = environment.describe(threads=options.threads)
    where = facts.get("gpu", facts["cpu"]) if options.device == "cuda" else facts["cpu"]
    theirs = {str(each.facts[name].get("torch")) for each in found for name in each.contestants}
    bf16 = "computes bf16" if computes_bf16(resolve_device(options.device)) else "has no bf16 arithmetic"
    return [
        f"- {where}, {facts['cpu_cores']} cores, {options.threads} thread(s) each; it {bf16}. {facts['system']}, "
        f"Python {facts['python']}, torch {' and '.join(sorted(theirs))}, OMP_WAIT_POLICY "
        f"{facts['omp_wait_policy']}. Load before the run {load_before}, at the end {environment.load_average()}."
    ]


def missing(options: argparse.Namespace) -> list[str]:
    """What the page does not show, and why."""
    absent = [peer for peer in PEERS if peer not in options.peers]
    lines = [f"- **Not measured against {', '.join(absent)}**, which was left out by `--peers`."] if absent else []
    asked = [each.name for each in VARIANTS if not options.only or each.name in options.only]
    here = [name.removeprefix("ours: ") for name in contestants(options)]
    twins = [f"`{each.name}` is `{each.twin}`" for each in VARIANTS if each.name in asked and each.name not in here]
    return lines + ([f"- On this machine {', '.join(twins)}, because `auto` takes fp32."] if twins else [])


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
    parser.add_argument("--pair", action="append", help=f"<teacher>:<student>; may be given again; else {PAIRS}")
    parser.add_argument("--peers", default=",".join(PEERS), help="with commas")
    parser.add_argument("--only", default="", help="variants of ours, with commas; else all")
    parser.add_argument("--images", type=int, default=6_400, help="training images; an epoch of ours has overheads")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each turn, at least; at least one step")
    parser.add_argument("--whole-job", type=int, default=0, metavar="IMAGES", help=f"{JOB_EPOCHS} epochs on so many")
    parser.add_argument("--job-epochs", type=int, default=JOB_EPOCHS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--teacher-weights",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="state dict of a teacher; repeatable",
    )
    parser.add_argument("--teacher-epochs", type=int, default=3, help="of a teacher without a file, trained first")
    parser.add_argument("--accuracy", action="store_true", help="train to the end and score instead")
    parser.add_argument("--out", type=Path, help="file for the page")
    accuracy.add_options(parser)
    options = parser.parse_args(arguments)
    options.pair, options.teacher_weights = options.pair or list(PAIRS), taught.named(options.teacher_weights)
    options.peers, options.only = (
        [name for name in given.split(",") if name] for given in (options.peers, options.only)
    )
    _refuse_unknown(options)
    return options


def _refuse_unknown(options: argparse.Namespace) -> None:
    for given, known in ((options.peers, PEERS), (options.only, [each.name for each in VARIANTS])):
        if strange := [name for name in given if name not in known]:
            raise SystemExit(f"Unknown: {', '.join(strange)}. There are {', '.join(known)}.")
    if not options.peers:
        raise SystemExit("A ratio needs a peer: give --peers textbook, or torchdistill, or both.")


def say(line: str) -> None:
    """To whoever waits."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the page."""
    options, load_before = options_of(arguments), environment.load_average()
    torch.set_num_threads(options.threads)
    command = command_of("training", sys.argv[1:] if arguments is None else arguments)
    with tempfile.TemporaryDirectory(prefix="distillery-training-") as name:
        folder = Path(name)
        arrays = images.gather(options.data, count=options.images, tests=_TEST_IMAGES)
        images.write(arrays, folder / "images.npz")
        if options.accuracy:
            text = accuracy.page(options, arrays, folder, command=command)
        else:
            found = [measured(options, pair, arrays, folder) for pair in options.pair]
            text = page(options, found, command=command, load_before=load_before)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
