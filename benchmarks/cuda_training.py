"""Training on a GPU, in steps of less than ten minutes each: rates, an epoch, a teacher of 95 %, students of it.

    python -m benchmarks.cuda_training pack --data ../shared/data/cifar10 --parts cifar-parts        (where the data is)
    python -m benchmarks.cuda_training join --part cifar-parts/part-0.zip --images cifar.npz         (where the GPU is)
    python -m benchmarks.cuda_training rates --images cifar.npz --out cuda.md
    python -m benchmarks.cuda_training epoch --images cifar.npz --out cuda.md
    python -m benchmarks.cuda_training teacher --images cifar.npz --weights teacher.pt --out cuda.md
    python -m benchmarks.cuda_training students --images cifar.npz --weights teacher.pt --out cuda.md

`pack` cuts CIFAR-10's two zips into parts that travel in 64 MiB each; `join` decodes one part after another into an
archive. The other steps need that archive and, beside this repository, torch, torchvision, numpy and pydantic. `rates`
measures against torchdistill where it is installed, in an environment of `make peers` or in this one, and says so where
it is not. Each step appends its section to `--out`. With `--device cpu` everything runs, slowly.
"""

import argparse
import io
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from benchmarks import training
from benchmarks.contest import images, networks, ours
from benchmarks.contest.task import SOFT_WEIGHT, TEMPERATURE, Task
from benchmarks.contest.taught import scored
from benchmarks.contest.turns import peers_python
from distillery.spec.objectives import CrossEntropyTerm
from distillery.spec.training import CosineSchedule, Sgd, Training
from engine import environment
from engine.loop import Trained, train
from engine.objectives import build as build_objective
from engine.strategies.offline import Offline

PART_BYTES = 56 << 20
GOAL = 95.0
BATCHES = (64, 128, 1024)


def pack(options: argparse.Namespace) -> list[str]:
    """Cut the members of both zips, as they are, into parts."""
    options.parts.mkdir(parents=True, exist_ok=True)
    part, size, number = None, 0, 0
    for split in ("train", "test"):
        (source,) = Path(options.data).glob(f"*_{split}.zip")
        with zipfile.ZipFile(source) as archive:
            for member in archive.infolist():
                if part is None or size + member.file_size > options.part_bytes:
                    if part is not None:
                        part.close()
                    part, size = zipfile.ZipFile(options.parts / f"part-{number}.zip", "w"), 0
                    number += 1
                part.writestr(member.filename, archive.read(member))
                size += member.file_size
    if part is not None:
        part.close()
    return [f"{number} part(s) in {options.parts}."]


def join(options: argparse.Namespace) -> list[str]:
    """Decode one part and add its images to the archive, which is begun when there is none."""
    found: dict[str, list[Any]] = {name: [] for name in ("x_train", "y_train", "x_test", "y_test")}
    with zipfile.ZipFile(options.part) as part:
        names = [name for name in part.namelist() if not name.endswith("/")]
        for name in names:
            split, label, _ = name.split("/")
            with Image.open(io.BytesIO(part.read(name))) as picture:
                found[f"x_{split}"].append(np.asarray(picture.convert("RGB")))
            found[f"y_{split}"].append(label)
    held: dict[str, Any] = {}
    if options.images.is_file():
        with np.load(options.images) as stored:
            held = dict(stored)
    for name, values in found.items():
        new = np.stack(values) if values and name[0] == "x" else np.array(values, dtype="U32")
        if values:
            held[name] = np.concatenate([held[name], new]) if name in held else new
    np.savez(options.images, **held)  # type: ignore[arg-type]  # numpy's own signature takes a flag among the arrays
    counts = ", ".join(f"{len(held[name])} of {name}" for name in held if name[0] == "y")
    return [f"{counts} in {options.images}."]


def arrays_of(options: argparse.Namespace) -> images.Arrays:
    """All images that were joined, in an order that alternates at random; or a data set that is no archive of ours."""
    if options.images.suffix != ".npz":
        return images.gather(str(options.images), count=options.limit, tests=options.limit)
    with np.load(options.images) as held:
        names = {name: number for number, name in enumerate(sorted(set(held["y_train"].tolist())))}
        pixels = {}
        for split in ("train", "test"):
            order = np.random.default_rng(0).permutation(len(held[f"y_{split}"]))[: options.limit]
            pixels[f"x_{split}"] = held[f"x_{split}"][order]
            pixels[f"y_{split}"] = np.array([names[name] for name in held[f"y_{split}"][order]], dtype=np.int64)
        return images.Arrays(**pixels, classes=len(names))


def rates(options: argparse.Namespace) -> list[str]:
    """Images per second at each batch size, as `benchmarks.training` measures them."""
    peers = ["textbook"] if peers_python() is None else ["torchdistill", "textbook"]
    lines = ["## Images per second", ""]
    if peers == ["textbook"]:
        lines += ["**torchdistill is not installed here, so this is against the textbook's loop alone.**", ""]
    with tempfile.TemporaryDirectory(prefix="distillery-cuda-") as name:
        arrays = arrays_of(options)
        for batch in options.batches:
            asked = [
                "--data=given", f"--device={options.device}", f"--batch-size={batch}", f"--rounds={options.rounds}",
                f"--seconds={options.seconds}", f"--pair={options.teacher_of_rates}:{options.student}",
                f"--peers={','.join(peers)}", f"--only={options.only}", "--teacher-epochs=1",
            ]  # fmt: skip
            folder = Path(name) / str(batch)
            folder.mkdir()
            images.write(arrays, folder / "images.npz")
            given = training.options_of(asked)
            found = training.measured(given, given.pair[0], arrays, folder)
            lines += [f"### Batch {batch}", "", *training.rates_table(found), "", *training.rounds_table(found), ""]
    return lines


def epoch(options: argparse.Namespace) -> list[str]:
    """Seconds of an epoch of plain training, each epoch of a few after the first."""
    arrays = arrays_of(options)
    lines = ["## Seconds of an epoch", "", f"{options.student} on labels, {len(arrays.y_train):,} images.", ""]
    lines += ["| batch | images/s | seconds of an epoch |", "|---|---|---|"]
    for batch in options.batches:
        result, _ = labelled(options, arrays, options.student, batch=batch, epochs=3, seed=0)
        rate = result.history["images_per_second"][-1][1]
        lines.append(f"| {batch} | {rate:,.0f} | {len(arrays.y_train) / rate:.2f} |")
    return [*lines, ""]


def teacher(options: argparse.Namespace) -> list[str]:
    """Train a teacher on the labels, keep its weights, and say whether it reached the goal."""
    arrays = arrays_of(options)
    began = time.perf_counter()
    result, accuracy = labelled(
        options, arrays, options.teacher, batch=options.batch_size, epochs=options.epochs, seed=0
    )
    seconds = time.perf_counter() - began
    torch.save(result.last, options.weights)
    verdict = "reached" if 100 * accuracy >= GOAL else "**not reached**"
    return [
        "## A teacher", "",
        f"{options.teacher}, {options.epochs} epochs at batch {options.batch_size}: {accuracy:.2%} of the test images "
        f"in {seconds:.0f} s ({result.images_per_second:,.0f} images/s); the goal of {GOAL:g} % is {verdict}.", "",
    ]  # fmt: skip


def students(options: argparse.Namespace) -> list[str]:
    """Students from that teacher, and the same students from the labels alone."""
    arrays = arrays_of(options)
    lines = ["## Students", "", f"{options.student} from {options.teacher}, {options.epochs} epochs.", ""]
    lines += ["| taught by | test accuracy, % | seconds each |", "|---|---|---|"]
    for title, trained in (("labels", labelled), ("teacher and labels", distilled)):
        scores, began = [], time.perf_counter()
        for seed in range(options.seeds):
            _, accuracy = trained(
                options, arrays, options.student, batch=options.batch_size, epochs=options.epochs, seed=seed
            )
            scores.append(100 * accuracy)
        seconds = (time.perf_counter() - began) / options.seeds
        lines.append(f"| {title} | {mean(scores):.2f} ({min(scores):.2f} to {max(scores):.2f}) | {seconds:.0f} |")
    return [*lines, ""]


def labelled(
    options: argparse.Namespace, arrays: images.Arrays, name: str, *, batch: int, epochs: int, seed: int
) -> tuple[Trained, float]:
    """A network trained on the labels, and its accuracy on the test images."""
    network = networks.drawn(name, arrays, seed=2 + seed)
    objective = build_objective((CrossEntropyTerm(weight=1.0),))
    return _trained(options, arrays, name, Offline(network, objective=objective, teacher=None), batch, epochs, seed)


def distilled(
    options: argparse.Namespace, arrays: images.Arrays, name: str, *, batch: int, epochs: int, seed: int
) -> tuple[Trained, float]:
    """A student of the teacher whose weights were kept, with its answers cached as a job of so many epochs does it."""
    chosen = ours.variant("ours: cached")
    with tempfile.TemporaryDirectory(prefix="distillery-answers-") as scratch:
        task = Task(
            "ours: cached", "", options.teacher, name, batch_size=batch, epochs=epochs, device=options.device,
            seed=seed, teacher_weights=str(options.weights), scratch=scratch,
        )  # fmt: skip
        with chosen.teacher(task, arrays, ours.as_dataset(arrays, name="cifar"), told={}) as told:
            lesson = ours.lesson(task, chosen, arrays, told, temperature=TEMPERATURE, soft=SOFT_WEIGHT)
            return _trained(options, arrays, name, lesson, batch, epochs, seed)


def _trained(
    options: argparse.Namespace, arrays: images.Arrays, name: str, lesson: Offline, batch: int, epochs: int, seed: int
) -> tuple[Trained, float]:
    dataset = ours.as_dataset(arrays, name="cifar")
    recipe = Training(
        epochs=epochs,
        batch_size=batch,
        optimizer=Sgd(lr=options.lr * batch / 128, momentum=0.9, weight_decay=5e-4, nesterov=True),
        schedule=CosineSchedule(warmup_epochs=min(5, epochs / 10)),
        device=options.device,
        seed=seed,
    )
    result = train(lesson, dataset=dataset, recipe=recipe, augment=ours.AUGMENT, observer=ours.Silent())
    network: nn.Module = networks.drawn(name, arrays, seed=0)
    network.load_state_dict(result.last)
    return result, scored(network, dataset, device=options.device)


STEPS: dict[str, Callable[[argparse.Namespace], list[str]]] = {
    "pack": pack, "join": join, "rates": rates, "epoch": epoch, "teacher": teacher, "students": students,
}  # fmt: skip


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=tuple(STEPS))
    parser.add_argument("--data", help="pack: folder of CIFAR-10's two zips")
    parser.add_argument("--parts", type=Path, help="pack: folder for the parts")
    parser.add_argument("--part-bytes", type=int, default=PART_BYTES)
    parser.add_argument("--part", type=Path, help="join: one of them")
    parser.add_argument("--images", type=Path, help="the archive that join writes; or 'digits'")
    parser.add_argument("--limit", type=int, default=None, help="images of each split, for a trial")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of a turn")
    parser.add_argument("--only", default="", help="rates: variants of ours, with commas; else all")
    parser.add_argument("--teacher", default="resnet32x4", help="of the steps teacher and students")
    parser.add_argument("--teacher-of-rates", default="resnet56")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--weights", type=Path, help="of the teacher")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--lr", type=float, default=0.1, help="at batch 128; proportional to the batch")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="file to which the section is appended")
    options = parser.parse_args(arguments)
    needed = {"pack": ["data", "parts"], "join": ["part", "images"], "teacher": ["images", "weights"],
              "students": ["images", "weights"]}.get(options.step, ["images"])  # fmt: skip
    for name in needed:
        if getattr(options, name) is None:
            parser.error(f"the step '{options.step}' needs --{name}")
    if options.device == "cuda" and options.step not in ("pack", "join") and not torch.cuda.is_available():
        parser.error("torch sees no GPU here: give --device cpu for a trial")
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Take one step, print it and append it."""
    options = options_of(arguments)
    lines = STEPS[options.step](options)
    if options.step not in ("pack", "join"):
        facts = environment.describe()
        where = facts.get("gpu", facts["cpu"]) if options.device == "cuda" else f"{facts['cpu']}, **no GPU**"
        lines += [f"*On {where}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}.*", ""]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if options.out:
        with options.out.open("a", encoding="utf-8") as page:
            page.write(text)


if __name__ == "__main__":
    main()
