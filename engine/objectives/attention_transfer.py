"""Attention transfer: the student is active where the teacher is.

Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, section 3.1 and equation 2.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from distillery.errors import InvalidRequest
from distillery.spec.objectives import AttentionTransferTerm
from engine.data.views import Batch
from engine.fitting import Fitting
from engine.outputs import Outputs
from engine.precision import for_loss


def attention(features: Tensor) -> Tensor:
    """mean_c f², laid out and divided by its norm: where a layer is active, [B, H·W] for maps [B, C, H, W], in float32.

    A map of zeros has attention 0.
    """
    return functional.normalize(for_loss(features).square().mean(dim=1).flatten(1), dim=1)


def attention_transfer(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """The mean of (a_s - a_t)² over samples and pixels (equation 2, as its authors compute it). Scalar, in float32.

    Maps [B, C, H, W], whose C and sizes may differ: the larger is averaged down to the size of the smaller.
    """
    height, width = map(min, student_features.shape[2:], teacher_features.shape[2:])
    student, teacher = (attention(_pooled(each, height, width)) for each in (student_features, teacher_features))
    return (student - teacher).square().mean()


def _pooled(features: Tensor, height: int, width: int) -> Tensor:
    maps = for_loss(features)
    return maps if maps.shape[2:] == (height, width) else functional.adaptive_avg_pool2d(maps, (height, width))


class AttentionTransfer(nn.Module):
    """Where the student is active against where the teacher is, added up over pairs of layers."""

    name: ClassVar[str] = "attention_transfer"
    needs_teacher: ClassVar[bool] = True

    def __init__(self, spec: AttentionTransferTerm, fitting: Fitting) -> None:
        """Find the pairs of layers.

        Raises:
            InvalidRequest: no pair has more than one pixel: such attention is always 1.
        """
        super().__init__()
        self.pairs = fitting.pairs(spec.pairs)
        if all(min(feature.size for feature in fitting.shapes(pair)) == 1 for pair in self.pairs):
            raise InvalidRequest(
                f"The maps of {', '.join(f'{pair.student} and {pair.teacher}' for pair in self.pairs)} meet in a "
                "single pixel: there is no place to attend to.",
                hint="Name layers whose maps are larger in both networks.",
            )

    def forward(self, student: Outputs, teacher: Outputs | None, batch: Batch) -> dict[str, Tensor]:
        """`{"attention_transfer": scalar}`."""
        if teacher is None:
            raise AssertionError("Attention transfer needs a teacher; it is asked only when there is one.")
        each = [attention_transfer(student.features[p.student], teacher.features[p.teacher]) for p in self.pairs]
        return {self.name: torch.stack(each).sum()}
