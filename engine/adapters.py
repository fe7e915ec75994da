"""Trained layers that bring a student's map to the shape of the teacher's.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015, section 2.2: the convolutional regressor, here for any
two sizes. It learns with the student and is no part of what is delivered.
"""

from torch import Tensor, nn

from distillery.errors import InvalidRequest
from engine.fitting import Feature


class Norm(nn.BatchNorm2d):
    """Batch normalisation of maps [B, C, H, W] that says what to change where a batch has nothing to normalise by."""

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of the same shape.

        Raises:
            InvalidRequest: in training, one image with maps of one pixel: one value has no variance.
        """
        if self.training and maps.numel() == maps.shape[1]:
            raise InvalidRequest(
                "A batch of a single image cannot train an adapter on maps of one pixel: it normalises by the batch.",
                hint="Use a batch of at least two images, or pair layers with larger maps.",
                pointer="/training/batch_size",
            )
        return super().forward(maps)


def adapter(student: Feature, teacher: Feature) -> nn.Module:
    """From the student's maps [B, C_s, H_s, W_s] to the teacher's shape [B, C_t, H_t, W_t].

    The maps are convolved, batch-normalised, and rectified where the teacher's are, behind a ReLU: a rectified
    regressor could never reach values below zero, as in a vision transformer or a pre-activation network.
    """
    layers = [*_resizing(student, teacher), Norm(teacher.channels)]
    return nn.Sequential(*layers if teacher.signed else (*layers, nn.ReLU()))


def _resizing(student: Feature, teacher: Feature) -> tuple[nn.Module, ...]:
    """Without biases, which the batch normalisation behind would take out again."""
    channels = student.channels, teacher.channels
    if student.size == 2 * teacher.size:
        return (nn.Conv2d(*channels, 3, stride=2, padding=1, bias=False),)
    if teacher.size == 2 * student.size:
        return (nn.ConvTranspose2d(*channels, 4, stride=2, padding=1, bias=False),)
    mixing = nn.Conv2d(*channels, 1, bias=False)
    if student.size > teacher.size:
        return nn.AdaptiveAvgPool2d(teacher.size), mixing
    if student.size < teacher.size:
        return nn.Upsample(size=(teacher.size, teacher.size), mode="bilinear"), mixing
    return (mixing,)
