"""What each way of training is worth: every option with several seeds, its test accuracy beside its pace.

An option passes when its mean differs from that of live fp32 by no more than the seeds of live fp32 differ among
themselves. Seeds go around in the outer loop, so that what else the machine does comes to every option.
"""

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, median

from benchmarks.contest import images, networks, ours, taught
from benchmarks.contest.images import Arrays
from benchmarks.contest.task import Task
from distillery.spec.training import CosineSchedule
from engine import environment
from engine.loop import train
from engine.precision import computes_bf16, resolve_device

REFERENCE = "live fp32"
_VALIDATION = 200
_PAIR = "resnet20:resnet8"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those of `--accuracy` alone."""
    group = parser.add_argument_group("with --accuracy")
    group.add_argument("--seeds", type=int, default=3)
    group.add_argument("--epochs", type=int, default=12)
    group.add_argument("--labelled", type=int, default=2_500, help="training images")


@dataclass(frozen=True)
class Run:
    """One training, scored on the test images once."""

    accuracy: float
    images_per_second: float
    seconds: float
    """Of the training, filling of caches and validation included."""


def page(options: argparse.Namespace, arrays: Arrays, folder: Path, *, command: str) -> str:
    """Train and score; `--pair` counts when it is given once."""
    few = arrays.first(options.labelled)
    teacher, student = (options.pair[0] if len(options.pair) == 1 else _PAIR).split(":")
    task = Task(
        "ours", str(images.write(few, folder / "few.npz")), teacher, student, batch_size=options.batch_size,
        epochs=options.epochs, threads=options.threads, device=options.device,
    )  # fmt: skip
    given = taught.weights(task, arrays, given=options.teacher_weights, epochs=options.teacher_epochs, folder=folder)
    task = replace(task, teacher_weights=given.file)
    chosen = [each for each in ours.VARIANTS if not options.only or each.name in {*options.only, REFERENCE}]
    if not computes_bf16(resolve_device(options.device)):
        chosen = [each for each in chosen if each.twin not in {other.name for other in chosen}]
    runs: dict[str, list[Run]] = {each.name: [] for each in chosen}
    for seed in range(options.seeds):
        for number, each in enumerate(chosen):
            scratch = folder / f"{seed}-{number}"
            scratch.mkdir()
            done = trained(replace(task, contender=f"ours: {each.name}", seed=seed, scratch=str(scratch)), each, few)
            print(f"{each.name}, seed {seed}: {done.accuracy:.2%} in {done.seconds:.0f} s", flush=True)
            runs[each.name].append(done)
    return "\n".join([*_head(options, task, few, teacher=given.told, command=command), *table(runs)]) + "\n"


def trained(task: Task, chosen: ours.Variant, arrays: Arrays) -> Run:
    """By the real loop, with a cosine schedule; the weights of the last epoch are scored."""
    dataset = ours.as_dataset(arrays, name="few", validation=_VALIDATION)
    recipe = ours.recipe(task, chosen).model_copy(update={"schedule": CosineSchedule()})
    with chosen.teacher(task, arrays, dataset, told={}) as teacher:
        temperature, soft = task.jobs[0]
        lesson = ours.lesson(task, chosen, arrays, teacher, temperature=temperature, soft=soft)
        began = time.perf_counter()
        result = train(lesson, dataset=dataset, recipe=recipe, augment=ours.AUGMENT, observer=ours.Silent())
        seconds = time.perf_counter() - began
    network = networks.student(task, arrays)
    network.load_state_dict(result.last)
    return Run(taught.scored(network, dataset, device=task.device), result.images_per_second, seconds)


def _head(options: argparse.Namespace, task: Task, few: Arrays, *, teacher: str, command: str) -> list[str]:
    facts = environment.describe(threads=task.threads)
    return [
        "# What each way of training is worth, as measured", "",
        f"Written by `{command}`, {time.strftime('%Y-%m-%d')}.", "",
        f"- {facts['cpu']}, {facts['cpu_cores']} cores, {task.threads} thread(s), torch {facts['versions']['torch']}.",
        f"- {task.teacher} ({teacher}) to {task.student}: {len(few.y_train):,} training images, {task.epochs} "
        f"epochs at batch {task.batch_size}, cosine; scored on {len(few.y_test) - _VALIDATION:,} test images after the "
        f"last epoch. {options.seeds} seed(s): mean (smallest to largest).", "",
    ]  # fmt: skip


def table(runs: Mapping[str, Sequence[Run]]) -> list[str]:
    """Accuracy and pace of each option, and whether it is another than the reference."""
    scores = {name: [100 * each.accuracy for each in done] for name, done in runs.items()}
    reference = scores[REFERENCE]
    allowed = max(reference) - min(reference)
    lines = [
        f"| option | test accuracy, % | against {REFERENCE} | within its seeds' {allowed:.2f} | images/s | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, each in scores.items():
        gap = mean(each) - mean(reference)
        cells = [
            f"{mean(each):.2f} ({min(each):.2f} to {max(each):.2f})", f"{gap:+.2f}",
            "yes" if abs(gap) <= allowed else "**no**",
            f"{median(one.images_per_second for one in runs[name]):,.0f}",
            f"{median(one.seconds for one in runs[name]):,.1f}",
        ]  # fmt: skip
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines
