"""What a finite set of views costs in accuracy: student after student on V views of each image, and on all of them.

    python benchmarks/views.py --data ../shared/data/cifar10 --out docs/measured/views.md \\
        --teacher-weights ../shared/data/cifar10-resnet-weights/resnet20-12fca82f.th

Each student is taught by the same frozen teacher with random crop and flip, by `engine.loop.train` itself. `live` draws
every view anew and asks the teacher each time; `every view` draws the very same ones and keeps the answers. The fewer
images, the more a student depends on seeing them in many ways: a small number of them shows the cost at its largest.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean

import torch

from benchmarks.contest import images, networks, ours
from benchmarks.contest.accuracy import scored
from benchmarks.contest.task import SOFT_WEIGHT, TEMPERATURE, Task
from distillery.spec.training import CosineSchedule
from engine import environment
from engine.data.views import viewed
from engine.loop import train
from engine.remembered.shelf import Shelf
from engine.remembered.teacher import RememberingTeacher
from engine.strategies.offline import Offline
from engine.teachers import FrozenTeacher, state_sha256

LIVE = "live"
_VALIDATION = 200


@dataclass(frozen=True)
class Result:
    """One student."""

    seed: int
    accuracy: float
    """On the test images, 0 to 1."""
    asked: int
    """Answers that the teacher computed."""


def learned(task: Task, views: int | None, *, keeps: bool) -> Result:
    """Train one student and score it."""
    torch.set_num_threads(task.threads)
    arrays = images.read(task.images)
    dataset = ours.as_dataset(arrays, name="views", validation=_VALIDATION)
    network = networks.teacher(task, arrays)
    asked: list[int] = []
    network.register_forward_hook(lambda _module, given, _answer: asked.append(len(given[0])))
    frozen = FrozenTeacher(network)
    shown = viewed(dataset.train, views=views, augment=ours.AUGMENT)
    shelf, key = Shelf(Path(task.scratch)), {"teacher": state_sha256(network), "views": shown.facts}
    remembering = RememberingTeacher(frozen, entry=lambda number: shelf.open({**key, "precision": number}), views=shown)
    student = networks.student(task, arrays)
    objective = ours.objective(temperature=TEMPERATURE, soft=SOFT_WEIGHT)
    lesson = Offline(student, objective=objective, teacher=remembering if keeps else frozen)
    lesson.views = views
    recipe = ours.recipe(task, ours.VARIANTS[0]).model_copy(update={"schedule": CosineSchedule()})
    train(lesson, dataset=dataset, recipe=recipe, augment=ours.AUGMENT, observer=ours.Silent())
    return Result(task.seed, scored(student, dataset, device=task.device), sum(asked))


def page(options: argparse.Namespace, results: dict[str, Sequence[Result]], *, minutes: float) -> str:
    """The table, with how it was made."""
    facts = environment.describe(threads=1)
    live = [each.accuracy for each in results[LIVE]]
    lines = [
        "# What a finite set of views costs in accuracy", "",
        f"Written by `python benchmarks/views.py`, {time.strftime('%Y-%m-%d')}, in {minutes:.0f} minutes.", "",
        f"- {facts['cpu']}, {options.processes} process(es) of one thread, torch {facts['versions']['torch']}.",
        f"- {options.teacher} to {options.student}, {options.images:,} training images of {Path(options.data).name}, "
        f"{options.epochs} epochs at batch 64, SGD with a cosine, KD at T = 4; scored on the test images after "
        f"the last. {options.seeds} seed(s): mean (smallest to largest).", "",
        "| views of an image | test accuracy, % | against live | answers computed, share of live |",
        "|---|---|---|---|",
    ]  # fmt: skip
    all_live = mean(each.asked for each in results[LIVE])
    for name, runs in results.items():
        scores = [100 * each.accuracy for each in runs]
        lines.append(
            f"| {name} | {mean(scores):.2f} ({min(scores):.2f} to {max(scores):.2f}) | "
            f"{round(mean(scores) - 100 * mean(live), 2) + 0.0:+.2f} | first seed {runs[0].asked / all_live:.2f}, "
            f"all {sum(each.asked for each in runs) / all_live / len(runs):.2f} |"
        )
    return "\n".join(lines) + "\n"


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Sequence[Result]]:
    """Seed after seed, so that the later ones find the answers of the first; side by side within a seed."""
    arrays = images.gather(options.data, count=options.images, tests=options.tests)
    file = str(images.write(arrays, folder / "images.npz"))
    ways: dict[str, tuple[int | None, bool]] = {str(views): (views, True) for views in options.views}
    ways |= {"every view, kept": (None, True), LIVE: (None, False)}
    results: dict[str, list[Result]] = {name: [] for name in ways}
    with ProcessPoolExecutor(options.processes, mp_context=get_context("spawn")) as pool:
        for seed in range(options.seeds):
            task = Task(
                "views", file, options.teacher, options.student, epochs=options.epochs, seed=seed,
                teacher_weights=options.teacher_weights, scratch=str(folder / "answers"),
            )  # fmt: skip
            running = {name: pool.submit(learned, task, views, keeps=keeps) for name, (views, keeps) in ways.items()}
            for name, each in running.items():
                results[name].append(each.result())
                print(f"seed {seed}, {name}: {results[name][-1].accuracy:.2%}", file=sys.stderr, flush=True)
    return {name: tuple(each) for name, each in results.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR's folder of two zips, 'digits', or any data set")
    parser.add_argument("--teacher", default="resnet20")
    parser.add_argument("--teacher-weights", default="")
    parser.add_argument("--student", default="resnet8")
    parser.add_argument("--images", type=int, default=1_000)
    parser.add_argument("--tests", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--views", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="distillery-views-") as folder:
        text = page(options, measure(options, Path(folder)), minutes=(time.monotonic() - began) / 60)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
