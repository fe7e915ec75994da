"""A small run that saves at every step and kills its own process at a given look: for `test_resume.py`.

python tests/engine/mortal_run.py FOLDER LOOK
"""

import os
import signal
import sys
from pathlib import Path

import torch
from torch import nn

from distillery.spec.presets import PRESETS
from distillery.spec.training import CheckpointEvery, Training
from engine import checkpoint
from engine.data.dataset import Dataset, Split
from engine.loop import train
from engine.objectives import build
from engine.strategies.offline import Offline
from engine.teachers import FrozenTeacher, state_sha256

RECIPE = Training(
    epochs=3,
    batch_size=8,
    seed=3,
    device="cpu",
    precision="fp32",
    checkpoint_every=CheckpointEvery(seconds=1e-9),
)


def split(count):
    """Noise with labels."""
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Split(pixels, torch.arange(count) % 3, torch.arange(count))


def network(seed):
    """With batch normalisation and dropout, so that its past matters."""
    torch.manual_seed(seed)
    layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 3)
    return nn.Sequential(*layers)


class Mortal:
    """Saves all that it is handed, and ends the process without a word at the `die_at`-th look."""

    def __init__(self, folder, die_at):
        self.folder, self.die_at, self.looks = folder, die_at, 0

    def progress(self, **values):
        """Not needed here."""

    def metrics(self, step, values):
        """Not needed here."""

    def warning(self, message):
        """Not needed here."""

    def checkpoint(self, state):
        checkpoint.save(state, self.folder / f"{state['step']:03}-{state['epoch']}.ckpt")

    def stop_requested(self):
        self.looks += 1
        if self.looks == self.die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return False


def run(folder, die_at=0):
    """Train from the last checkpoint in `folder`, if there is one; gives the hash of the final weights."""
    student = network(1)
    files = sorted(folder.glob("*.ckpt"))
    train(
        Offline(student, objective=build(PRESETS["kd"]), teacher=FrozenTeacher(network(2))),
        dataset=Dataset("noise", ("a", "b", "c"), 1, 8, (0.5,), (0.3,), split(50), split(20), split(10), "0" * 64, ()),
        recipe=RECIPE,
        augment=("crop", "flip"),
        observer=Mortal(folder, die_at),
        resume=checkpoint.load(files[-1], sha256=None) if files else None,
    )
    return state_sha256(student)


if __name__ == "__main__":
    run(Path(sys.argv[1]), die_at=int(sys.argv[2]))
