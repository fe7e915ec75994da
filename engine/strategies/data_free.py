"""Data-free: the student learns from a teacher on images that are made up from what the teacher knows.

No split of a data set is read: only the form of the images and the normalisation, which come with the teacher, and its
weights. So there is nothing on which the best epoch could be chosen, and the last one is delivered.
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from distillery.errors import MissingDependency
from distillery.spec.methods import DataFreeMethod
from distillery.spec.training import Training
from engine.data.dataset import Dataset
from engine.data.views import Batch
from engine.lesson import Lesson
from engine.objectives import Objective
from engine.outputs import Outputs
from engine.synthesis import build
from engine.synthesis.canvas import Canvas, Lecture
from engine.synthesis.synthesiser import LiveTeacher, Synthesiser
from engine.taps import tapped

NOBODY = -1
"""The label and the id of a made-up image: there is none, and nobody may read it."""
_SHOWN = 8
_TILE_PIXELS = 48
_GAP_PIXELS = 2
_WHITE = 255


class Course(nn.Module):
    """All that is saved besides the student: what its terms train, and what makes the images."""

    def __init__(self, *, objective: Objective, synthesiser: Synthesiser) -> None:
        super().__init__()
        self.objective = objective
        self.synthesiser = synthesiser


class DataFree(Lesson):
    """One student, a frozen teacher, and a synthesiser that is trained along."""

    chooses_best: ClassVar[bool] = False
    objective: Course

    def __init__(
        self,
        network: nn.Module,
        *,
        objective: Objective,
        teacher: LiveTeacher,
        method: DataFreeMethod,
        classes: int,
        channels: int,
        image_size: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        canvas = Canvas(classes=classes, channels=channels, image_size=image_size, mean=mean, std=std)
        super().__init__(
            network, objective=Course(objective=objective, synthesiser=build(method.synthesis, canvas=canvas))
        )
        self._teacher = teacher
        self._steps_per_epoch = method.steps_per_epoch
        self._layers = objective.student_layers

    def prepare(self, device: torch.device) -> torch.memory_format:
        """The teacher comes along."""
        self._teacher.to(device)
        return super().prepare(device)

    def learners(self) -> list[list[nn.Parameter]]:
        """The student and what its terms train. The generator has an optimizer of its own."""
        parts = (self.network, self.objective.objective)
        return [[each for part in parts for each in part.parameters() if each.requires_grad]]

    def batch_count(self, dataset: Dataset, recipe: Training) -> int:
        """What the method says: made-up images have no number by which an epoch could end."""
        return self._steps_per_epoch

    def batches(
        self, dataset: Dataset, recipe: Training, *, epoch: int, start_batch: int, augment: tuple[str, ...], layout: Any
    ) -> Iterator[Batch]:
        """Made-up images, `recipe.batch_size` of them; `dataset` is not looked at."""
        if recipe.seed is None:
            raise AssertionError("The loop refuses a recipe without a seed.")
        plan = Lecture(
            seed=recipe.seed,
            epoch=epoch,
            start_batch=start_batch,
            batch_count=self._steps_per_epoch,
            batch_size=recipe.batch_size,
            augment=augment,
            layout=layout,
            meanwhile=self.meanwhile,
        )
        for images in self.objective.synthesiser.lecture(plan, teacher=self._teacher, student=self.network):
            nobody = torch.full((len(images),), NOBODY, device=images.device)
            yield Batch(images=images, labels=nobody, ids=nobody)

    def forward(self, batch: Batch) -> tuple[Outputs, Outputs]:
        """What the student says, and what the teacher says of the same images."""
        knowledge = self._teacher.knowledge(batch)
        return tapped(self.network, batch.images, self._layers), knowledge

    def terms(self, answers: tuple[Outputs, Outputs], batch: Batch) -> dict[str, Tensor]:
        """The objective's terms."""
        student, teacher = answers
        raw: dict[str, Tensor] = self.objective.objective(student, teacher, batch)
        return raw

    def weights(self, epoch: int) -> Mapping[str, float]:
        """The objective's weights."""
        return self.objective.objective.weights_in(epoch)

    def gallery(self, rows: int, columns: int) -> Tensor:
        """Made-up images to look at after training: uint8 [N, C, S, S], N = rows times columns, or all there are."""
        return self.objective.synthesiser.gallery(rows * columns)

    def keepsakes(self) -> dict[str, Tensor]:
        """`gallery`, for a square sheet of 64 images."""
        return {"gallery": self.gallery(_SHOWN, _SHOWN).cpu()}


def grid_png(images: Tensor, *, columns: int | None = None) -> bytes:
    """A PNG of uint8 [N, C, H, W], N > 0, on one white sheet, row by row; without `columns`, about as wide as high.

    The images stand 2 pixels apart. Each is enlarged by copying pixels until its shorter side has 48 or more. One
    channel is grey and three are colours; of any other number the mean is shown.

    Raises:
        MissingDependency: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MissingDependency(
            "A sheet of images is written with Pillow, which is not installed.",
            hint="Install it with: pip install pillow",
        ) from None
    sheet = _sheet(images.cpu(), columns=columns or math.ceil(math.sqrt(len(images))))
    values = sheet.permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values).save(buffer, format="PNG")
    return buffer.getvalue()


def _sheet(images: Tensor, *, columns: int) -> Tensor:
    """uint8 [C, H, W] with C 1 or 3."""
    if images.shape[1] not in (1, 3):
        images = images.float().mean(dim=1, keepdim=True).round().to(torch.uint8)
    scale = math.ceil(_TILE_PIXELS / min(images.shape[2:]))
    tiles = images.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    count, channels, height, width = tiles.shape
    rows = math.ceil(count / columns)
    across, down = width + _GAP_PIXELS, height + _GAP_PIXELS
    sheet = torch.full((channels, rows * down - _GAP_PIXELS, columns * across - _GAP_PIXELS), _WHITE, dtype=torch.uint8)
    for place, tile in enumerate(tiles):
        top, left = place // columns * down, place % columns * across
        sheet[:, top : top + height, left : left + width] = tile
    return sheet
