"""Images per second of our training loop against a plainly written one, in the same process, round by round.

    python benchmarks/loop_throughput.py --threads 1 --rounds 5 --steps 20

Both distil the same teacher into the same student at batch 64 on CIFAR-shaped images with random crop and flip, SGD
and KD at T = 4, and both start every round from the same weights. The textbook loop is what tutorials teach: PIL
images, torchvision transforms, a DataLoader in the main process, NCHW, float32, a loss read at every step. Ours is
`engine.loop.train` itself. Rounds are interleaved and their order alternates, so that a busy machine hurts both alike.
Wall time is what a user waits; CPU time is steadier on a shared machine. Nothing here says anything about accuracy.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from distillery.spec.presets import PRESETS
from distillery.spec.training import ConstantSchedule, Sgd, Training
from engine.data.dataset import Dataset, Split
from engine.loop import train
from engine.objectives import build as build_objective
from engine.precision import resolve_precision
from engine.strategies.offline import Offline
from engine.teachers import FrozenTeacher
from models import build
from models.count import multiply_adds

CLASSES, SIZE, CHANNELS = 100, 32, 3
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 5e-4
TEMPERATURE, HARD_WEIGHT, SOFT_WEIGHT = 4.0, 0.1, 0.9


@dataclass(frozen=True)
class Round:
    """One contestant's turn: images/s by the wall clock, and images per second of CPU time."""

    wall: float
    cpu: float


class Pictures(TorchDataset[tuple[Any, int]]):
    """PIL images behind torchvision transforms, one at a time."""

    def __init__(self, split: Split) -> None:
        pixels = split.images[:].permute(0, 2, 3, 1).numpy()
        self.pictures = [Image.fromarray(np.ascontiguousarray(one)) for one in pixels]
        self.labels = split.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(SIZE, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.pictures[index]), self.labels[index]


def textbook(teacher: nn.Module, student: nn.Module, *, pictures: Pictures, batch_size: int) -> None:
    """One epoch as a tutorial would write it."""
    loader = DataLoader(pictures, batch_size=batch_size, shuffle=True, num_workers=0)
    optimizer = torch.optim.SGD(student.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    teacher.eval()
    student.train()
    total = 0.0
    for images, labels in loader:
        with torch.no_grad():
            teacher_logits = teacher(images)
        logits = student(images)
        hard = functional.cross_entropy(logits, labels)
        soft = functional.kl_div(
            functional.log_softmax(logits / TEMPERATURE, dim=1),
            functional.softmax(teacher_logits / TEMPERATURE, dim=1),
            reduction="batchmean",
        )
        loss = HARD_WEIGHT * hard + SOFT_WEIGHT * TEMPERATURE**2 * soft
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        total += loss.item()


class Silent:
    """Listens to nothing and never asks to stop."""

    def progress(self, **values: Any) -> None:
        """Ignored."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Ignored."""

    def warning(self, message: str) -> None:
        """Ignored."""

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Ignored."""

    def stop_requested(self) -> bool:
        """Never."""
        return False


def ours(teacher: FrozenTeacher, student: nn.Module, *, dataset: Dataset, recipe: Training) -> None:
    """One epoch of the real loop, its set-up and a token validation included."""
    objective = build_objective(PRESETS["kd"])
    train(
        Offline(student, objective=objective, teacher=teacher),
        dataset=dataset,
        recipe=recipe,
        augment=("crop", "flip"),
        observer=Silent(),
    )


def noise(*, images: int) -> Dataset:
    """Random pixels in the shape of CIFAR; two images are held back, because the loop validates."""
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        shape = (count, CHANNELS, SIZE, SIZE)
        pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return Split(pixels, torch.randint(0, CLASSES, (count,), generator=generator), torch.arange(count))

    names = tuple(str(number) for number in range(CLASSES))
    return Dataset("noise", names, CHANNELS, SIZE, MEAN, STD, split(images), split(2), split(2), "0" * 64, ())


def timed(run: Callable[[], None], *, images: int) -> Round:
    """Images per second of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Round(images / (time.perf_counter() - wall), images / (time.process_time() - cpu))


def network(name: str, *, seed: int) -> nn.Module:
    """The same weights at every call."""
    torch.manual_seed(seed)
    return build(name, classes=CLASSES, image_size=SIZE, channels=CHANNELS)


def contestants(options: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """Both loops, each starting anew at every call."""
    dataset = noise(images=options.steps * options.batch_size)
    pictures = Pictures(dataset.train)
    plain_teacher = network(options.teacher, seed=1)
    frozen = FrozenTeacher(network(options.teacher, seed=1))
    recipe = Training(
        epochs=1,
        batch_size=options.batch_size,
        optimizer=Sgd(lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY),
        schedule=ConstantSchedule(),
        precision=options.precision,
        device="cpu",
        seed=0,
    )

    def run_textbook() -> None:
        student = network(options.student, seed=2)
        textbook(plain_teacher, student, pictures=pictures, batch_size=options.batch_size)

    def run_ours() -> None:
        ours(frozen, network(options.student, seed=2), dataset=dataset, recipe=recipe)

    return {"textbook": run_textbook, "ours": run_ours}


def measure(options: argparse.Namespace) -> dict[str, list[Round]]:
    """A warm-up of each, then the rounds."""
    runs = contestants(options)
    images = options.steps * options.batch_size
    for run in runs.values():
        run()
    rounds: dict[str, list[Round]] = {name: [] for name in runs}
    for number in range(options.rounds):
        for name in sorted(runs, reverse=number % 2 == 0):
            rounds[name].append(timed(runs[name], images=images))
    return rounds


def spread(values: list[float]) -> str:
    """Median, with the smallest and the largest."""
    return f"{statistics.median(values):8.1f}  ({min(values):.1f} to {max(values):.1f})"


def report(rounds: dict[str, list[Round]], *, options: argparse.Namespace, precision: str) -> None:
    """Print medians, spread, ratios of adjacent rounds, and the arithmetic that they stand for."""
    count = {
        name: multiply_adds(network(name, seed=0), channels=CHANNELS, image_size=SIZE)
        for name in (options.teacher, options.student)
    }
    # A multiply-add is two operations; the backward pass costs twice the forward one.
    operations = 2 * (count[options.teacher] + 3 * count[options.student])
    print(
        f"{options.teacher} to {options.student}, batch {options.batch_size}, {options.threads} thread(s), ours in "
        f"{precision}; {options.rounds} rounds of {options.steps} steps; load at the end {os.getloadavg()[0]:.1f}"
    )
    print(f"about {operations / 1e6:.0f} million operations per image")
    for kind, title in (("wall", "images/s"), ("cpu", "images/CPU s")):
        values = {name: [getattr(each, kind) for each in turns] for name, turns in rounds.items()}
        for name, numbers in values.items():
            achieved = statistics.median(numbers) * operations / 1e9
            print(f"{name:9} {title:13} {spread(numbers)}   {achieved:6.1f} Gop/s")
        ratios = [mine / other for mine, other in zip(values["ours"], values["textbook"], strict=True)]
        print(f"ratio     {title:13} {statistics.median(ratios):8.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")


def main() -> None:
    """Read the options, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="resnet56")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rounds = measure(options)
    report(rounds, options=options, precision=resolve_precision(options.precision, torch.device("cpu")))


if __name__ == "__main__":
    main()
