"""Contrastive representation distillation: the teacher's view of an image is told from its views of other classes.

Tian, Krishnan and Isola, "Contrastive Representation Distillation", ICLR 2020, section 3.1: the bound on the mutual
information and its critic, with the memory banks and the fixed normalisation Z of the authors' experiments, which come
from Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, section 3.2.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from distillery.errors import InvalidRequest
from distillery.spec.objectives import CrdTerm
from engine.data.views import Batch
from engine.fitting import Fitting
from engine.outputs import Outputs
from engine.precision import for_loss

_EPSILON = 1e-7
_MOST_PRODUCTS = 2**25
"""Held at once: 128 MB in float32."""
_MANY = 2**62


def noise_contrastive(log_scores: Tensor, *, images: int) -> Tensor:
    """-(1/B)(Σ log(P₀/(P₀ + K/n + ε)) + ΣΣ log((K/n)/(P_k + K/n + ε))), ε = 1e-7, n = `images`. Scalar, in float32.

    `log_scores` [B, 1 + K] holds log P, that of the positive first. It stays in logarithms, since P itself, an
    exponential of up to 1/τ, leaves float32 at low temperatures.
    """
    relative = for_loss(log_scores)
    noise = (relative.shape[1] - 1) / images
    relative = relative - math.log(noise + _EPSILON)
    positive = functional.logsigmoid(relative[:, 0])
    negative = functional.logsigmoid(-relative[:, 1:]) + math.log(noise / (noise + _EPSILON))
    return -(positive.sum() + negative.sum()) / len(relative)


def similarities(anchors: Tensor, bank: Tensor, picked: Tensor, *, temperature: float) -> Tensor:
    """⟨anchor, row⟩/τ of each anchor [B, D] with its picked rows of the bank [n, D]: [B, P] for int64 `picked` [B, P].

    All n products of an anchor are made and P kept. Gathering the rows instead would take P·D numbers for each anchor,
    0.5 GB for 64 anchors, 16,384 rows and 128 dimensions, and be slower. Anchors are taken a few at a time.
    """
    few = max(1, _MOST_PRODUCTS // len(bank))
    portions = zip(torch.split(anchors, few), torch.split(picked, few), strict=True)
    return torch.cat([(some @ bank.T).gather(1, rows) for some, rows in portions]) / temperature


def log_partition(similar: Tensor, *, images: int) -> Tensor:
    """log Z, Z = n·mean(exp(similar)) over the [B, P] similarities of a batch, n = `images`. Scalar."""
    return torch.logsumexp(similar.flatten(), dim=0) + math.log(images / similar.numel())


def remembered(bank: Tensor, rows: Tensor, seen: Tensor, *, momentum: float) -> Tensor:
    """A new bank [n, D] in which each of `rows`, int64 [B], has moved towards `seen` [B, D] and has length 1.

    Not in place: the loss of this step still needs the old one to find its gradient.
    """
    moved = momentum * bank.index_select(0, rows) + (1 - momentum) * seen.to(bank.dtype)
    return bank.index_copy(0, rows, functional.normalize(moved, dim=1))


class Roll(nn.Module):
    """Which row of the banks belongs to which training image, and which rows are of other classes.

    Known from the data, so that nothing of it is in the state dict.
    """

    ids: Tensor
    classes: Tensor
    by_class: Tensor
    starts: Tensor
    counts: Tensor

    def __init__(self, ids: Tensor, labels: Tensor) -> None:
        """From int64 [n] each, the ids distinct.

        Raises:
            InvalidRequest: there are no ids, or all images are of one class.
        """
        super().__init__()
        if not len(ids):
            raise InvalidRequest(
                "The term crd remembers single training images, and these carry no ids.",
                hint="Take crd out of the objective; soft_targets and similarity need none.",
                pointer="/method/objective",
            )
        ordered, places = torch.sort(ids)
        _, classes, counts = torch.unique(labels[places], return_inverse=True, return_counts=True)
        if len(counts) < 2:
            raise InvalidRequest(
                "The term crd tells images of different classes apart, and the training images are all of one class.",
                hint="Take crd out of the objective, or add images of another class.",
                pointer="/method/objective",
            )
        self.register_buffer("ids", ordered, persistent=False)
        self.register_buffer("classes", classes, persistent=False)
        self.register_buffer("by_class", torch.argsort(classes, stable=True), persistent=False)
        self.register_buffer("starts", counts.cumsum(0) - counts, persistent=False)
        self.register_buffer("counts", counts, persistent=False)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, ids: Tensor) -> Tensor:
        """The row of each image, int64 [B], by its id."""
        rows = torch.searchsorted(self.ids, ids).clamp_(max=len(self) - 1)
        if not bool((self.ids[rows] == ids).all()):
            raise AssertionError(
                "The batch holds an image that is not among the training images the banks were made for."
            )
        return rows

    def others(self, rows: Tensor, *, count: int) -> Tensor:
        """For each of `rows` [B], `count` rows of other classes, drawn evenly and with replacement: int64 [B, count].

        The draws are from torch's own generator for the device, which is part of the resume state.
        """
        own = self.classes[rows]
        start, size = self.starts[own].unsqueeze(1), self.counts[own].unsqueeze(1)
        # Every row has its own number to draw from; the remainder of so large a number is even to one in 2^40.
        drawn = torch.randint(_MANY, (len(rows), count), device=rows.device) % (len(self) - size)
        drawn += size * (drawn >= start)
        return self.by_class[drawn]


class Crd(nn.Module):
    """Both networks' embeddings of an image against the other's memory of it and of images of other classes.

    The banks are 2·n·dimensions numbers in memory and in each checkpoint: 51 MB for 50,000 images.
    """

    name: ClassVar[str] = "crd"
    needs_teacher: ClassVar[bool] = True
    compares_samples: ClassVar[bool] = True
    student_bank: Tensor
    teacher_bank: Tensor
    log_partitions: Tensor
    partitions_fixed: Tensor

    def __init__(self, spec: CrdTerm, fitting: Fitting) -> None:
        """
        Raises:
            InvalidRequest: there are no sample ids, there is only one class, or the pair names a layer that was not
                looked at.
        """
        super().__init__()
        self.pairs = fitting.pairs(spec.pairs)[-1:]
        self.negatives, self.temperature, self.momentum = spec.negatives, spec.temperature, spec.momentum
        student, teacher = fitting.shapes(self.pairs[0])
        self.roll = Roll(fitting.ids, fitting.labels)
        self.student_embedding = nn.Linear(student.channels, spec.dimensions)
        self.teacher_embedding = nn.Linear(teacher.channels, spec.dimensions)
        edge = 1 / math.sqrt(spec.dimensions / 3)
        for bank in ("student_bank", "teacher_bank"):
            self.register_buffer(bank, torch.empty(len(self.roll), spec.dimensions).uniform_(-edge, edge))
        self.register_buffer("log_partitions", torch.zeros(2))
        self.register_buffer("partitions_fixed", torch.tensor(False))

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        """`{"crd": scalar}`, the sum of both directions. In training the banks take up what was seen."""
        if teacher is None:
            raise AssertionError("CRD needs a teacher; the objective asks this term only when there is one.")
        (pair,) = self.pairs
        rows = self.roll.rows(batch.ids)
        picked = torch.cat((rows.unsqueeze(1), self.roll.others(rows, count=self.negatives)), dim=1)
        ours = _embedded(student.features[pair.student], self.student_embedding)
        theirs = _embedded(teacher.features[pair.teacher], self.teacher_embedding)
        similar = torch.stack(
            [
                similarities(anchors, bank, picked, temperature=self.temperature)
                for anchors, bank in ((ours, self.teacher_bank), (theirs, self.student_bank))
            ]
        )
        log_scores = similar - self._partitions(similar.detach())[:, None, None]
        if self.training:
            self.student_bank = remembered(self.student_bank, rows, ours.detach(), momentum=self.momentum)
            self.teacher_bank = remembered(self.teacher_bank, rows, theirs.detach(), momentum=self.momentum)
        each = [noise_contrastive(direction, images=len(self.roll)) for direction in log_scores]
        return {self.name: torch.stack(each).sum()}

    def _partitions(self, similar: Tensor) -> Tensor:
        """log Z of both directions, [2]: those of the first batch in training, for good."""
        if bool(self.partitions_fixed):
            return self.log_partitions
        found = torch.stack([log_partition(direction, images=len(self.roll)) for direction in similar])
        if self.training:
            self.log_partitions = found.to(self.log_partitions.dtype)
            self.partitions_fixed = torch.ones_like(self.partitions_fixed)
        return found


def _embedded(features: Tensor, embedding: nn.Linear) -> Tensor:
    """Unit vectors [B, D] of maps [B, C, H, W], averaged over their pixels."""
    return functional.normalize(embedding(for_loss(features).mean(dim=(2, 3))), dim=1)
