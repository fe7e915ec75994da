"""What a job trains: each training with its networks, its length and its multiply-adds."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from app.known_data import known_side
from distillery.spec import JobSpec
from distillery.spec.methods import Dafl, DataFreeMethod, Fast, OnlineMethod
from distillery.spec.teacher import BLACK_BOXES
from distillery.spec.training import TeacherTraining
from models import catalog

_FORWARD_BACKWARD = 3
"""A backward pass costs two forwards."""
_THROUGH = 2
"""Of a network that only hands the gradient on to its images: a forward and half a backward pass."""
_GENERATOR_CHANNELS = 128
_KERNEL = 9
_COLOURS = 3


@dataclass(frozen=True)
class Run:
    """One training: of a single network, or of several side by side."""

    learners: tuple[str, ...]
    asked: tuple[str, ...]
    """The frozen networks whose answers they learn from."""
    epochs: int
    images: int
    """Of one epoch."""
    batch_size: int
    times: int = 1
    """With so many seeds."""
    making: float = 0.0
    """Multiply-adds of making images up, in one epoch."""

    @property
    def steps(self) -> int:
        """Optimizer steps of all its epochs, over all seeds."""
        return self.times * self.epochs * math.ceil(self.images / self.batch_size)


def runs(spec: JobSpec, *, train_images: int) -> tuple[Run, ...]:
    """Every training of the job, in order."""
    student = spec.student.architecture
    given = {"epochs": spec.training.epochs, "images": train_images, "batch_size": spec.training.batch_size}
    found = [*_teaching(spec, train_images), *_assisting(spec, train_images)]
    found.append(_main(spec, train_images))
    if spec.baseline:
        found.append(Run((student,), (), times=spec.seeds, **given))
    return tuple(found)


def _teaching(spec: JobSpec, images: int) -> Iterator[Run]:
    for teacher in spec.teachers:
        if teacher.train is not None:
            yield _by(teacher.train, spec, learner=teacher.architecture, asked=(), images=images)


def _assisting(spec: JobSpec, images: int) -> Iterator[Run]:
    above = tuple(each.architecture for each in spec.teachers)
    for assistant in spec.assistants:
        recipe = assistant.train or TeacherTraining(epochs=spec.training.epochs)
        yield _by(recipe, spec, learner=assistant.architecture, asked=above, images=images)
        above = (assistant.architecture,)


def _by(recipe: TeacherTraining, spec: JobSpec, *, learner: str, asked: tuple[str, ...], images: int) -> Run:
    batch_size = recipe.batch_size or spec.training.batch_size
    return Run((learner,), asked, epochs=recipe.epochs, images=images, batch_size=batch_size)


def _main(spec: JobSpec, images: int) -> Run:
    """The student's own training."""
    method, batch_size = spec.method, spec.training.batch_size
    learners: tuple[str, ...] = (spec.student.architecture,)
    teachers = tuple(each.architecture for each in spec.teachers)
    asked = tuple(each.architecture for each in spec.assistants[-1:]) or teachers
    making = 0.0
    if isinstance(method, OnlineMethod):
        learners, asked = (*learners, *teachers), ()
    if isinstance(method, DataFreeMethod):
        images = method.steps_per_epoch * batch_size
        making = _making(spec, method)
    return Run(
        learners,
        asked,
        epochs=spec.training.epochs,
        images=images,
        batch_size=batch_size,
        times=spec.seeds,
        making=making,
    )


def multiply_adds(spec: JobSpec, architecture: str) -> float:
    """Of one image, scaled from the network's native input by area; 0 of what the catalogue cannot know."""
    if architecture in ("", *BLACK_BOXES):
        return 0.0
    row = catalog.find(architecture)
    return float(row.macs) * ((known_side(spec) or row.input[1]) / row.input[1]) ** 2


def training_multiply_adds(spec: JobSpec, run: Run) -> float:
    """Of all epochs and seeds, without validation."""
    learning = _FORWARD_BACKWARD * sum(multiply_adds(spec, each) for each in run.learners)
    asking = sum(multiply_adds(spec, each) for each in run.asked)
    return run.times * run.epochs * (run.images * (learning + asking) + run.making)


def side_of(spec: JobSpec) -> int:
    """Side of the images in pixels; the student's native one where the data's is not known."""
    return known_side(spec) or catalog.find(spec.student.architecture).input[1]


def _making(spec: JobSpec, method: DataFreeMethod) -> float:
    """Of one epoch: a generator learns, through the teacher's answers and, in `fast`, also the student's."""
    made = method.synthesis
    through = _THROUGH * sum(multiply_adds(spec, each.architecture) for each in spec.teachers)
    batches = method.steps_per_epoch
    if isinstance(made, Fast):
        batches = made.synthesis_batches * made.synthesis_steps
        if made.adversarial_weight:
            through += _THROUGH * multiply_adds(spec, spec.student.architecture)
    generating = _FORWARD_BACKWARD * _generator(made, side=side_of(spec))
    return batches * spec.training.batch_size * (generating + through)


def _generator(made: Dafl | Fast, *, side: int) -> float:
    """Multiply-adds of one image: a linear layer to a quarter of the side, then a convolution at a half and two at the
    whole of it."""
    wide, half = _GENERATOR_CHANNELS, _GENERATOR_CHANNELS // 2
    first = made.latent * wide * (side / 4) ** 2
    return first + _KERNEL * side**2 * (wide * wide / 4 + wide * half + half * _COLOURS)
