"""How good a network is on images it was not trained on: accuracy, calibration, fidelity to its teacher.

Every figure is computed in float64 from float32 logits. Shapes: logits [N, K], labels int64 [N].
"""

import base64
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distillery.errors import MissingDependency, TrainingDiverged
from distillery.report import Disagreement, Estimated
from engine.data.dataset import Split
from engine.data.views import Batch, ordered

ECE_BINS = 15
TOP5_FROM_CLASSES = 6
"""With five classes or fewer, the top five are all of them."""
_Z95 = 1.959963984540054
_THUMBNAIL_PIXELS = 96


@dataclass(frozen=True)
class Scores:
    """What one network gets right on one split."""

    images: int
    top1: Estimated
    """Share answered right, with a Wilson 95 % interval."""
    top5: float | None
    """Share whose label is among the five likeliest classes; None below six classes."""
    ece: float
    """Expected calibration error."""
    loss: float
    """Cross-entropy with the labels, nats per image."""
    per_class: dict[str, float]
    """Share of each class's images answered right, by class name; classes without images are left out."""


class BatchNetwork(nn.Module):
    """A network that reads more of a batch than its images. Ask it through `answer`."""

    def answer(self, batch: Batch) -> Tensor:
        """Logits [B, K]."""
        raise NotImplementedError


def answer(network: nn.Module, batch: Batch) -> Tensor:
    """Logits [B, K] of any network for a batch: what its images say, or its ids."""
    logits: Tensor = network.answer(batch) if isinstance(network, BatchNetwork) else network(batch.images)
    return logits


def predict(
    network: nn.Module,
    split: Split,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str,
    batch_size: int = 256,
    channels_last: bool = False,
) -> Tensor:
    """Logits float32 [N, K] on the CPU, in the order of the split, computed in evaluation mode on `device`.

    The network must be on `device` already. Each of its modules keeps the training flag that it had.
    """
    read = ordered(split, batch_size=batch_size, mean=mean, std=std, channels_last=channels_last)
    with evaluating(network), torch.inference_mode():
        logits = [answer(network, _on(batch, device)).float().cpu() for batch in read]
    # A clone made outside of inference mode may be used anywhere, an inference tensor may not.
    return torch.cat(logits).clone()


def _on(batch: Batch, device: torch.device | str) -> Batch:
    return Batch(batch.images.to(device), batch.labels.to(device), batch.ids.to(device))


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode for as long as the block lasts; each module gets its own flag back."""
    flags = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of images whose likeliest class is the label, 0 to 1."""
    return float((logits.argmax(1) == labels).double().mean())


def score(logits: Tensor, labels: Tensor, *, classes: Sequence[str]) -> Scores:
    """Score answers to N >= 1 images.

    Raises:
        TrainingDiverged: a logit is not finite.
    """
    if not torch.isfinite(logits).all():
        raise TrainingDiverged(
            "The network gives answers that are not finite numbers on the images it is evaluated on.",
            hint="Use a smaller learning rate, a warm-up, gradient clipping, or precision fp32.",
        )
    correct = logits.argmax(1) == labels
    return Scores(
        images=len(labels),
        top1=wilson(int(correct.sum()), total=len(labels)),
        top5=_top5(logits, labels) if len(classes) >= TOP5_FROM_CLASSES else None,
        ece=expected_calibration_error(logits, labels),
        loss=float(nn.functional.cross_entropy(logits.double(), labels)),
        per_class={
            name: float(correct[labels == label].double().mean())
            for label, name in enumerate(classes)
            if bool((labels == label).any())
        },
    )


def _top5(logits: Tensor, labels: Tensor) -> float:
    return float((logits.topk(5).indices == labels.unsqueeze(1)).any(1).double().mean())


def wilson(successes: int, *, total: int) -> Estimated:
    """A share with its 95 % score interval (Wilson, 1927), which is sound near 0 and 1 where the usual one is not."""
    share, z2 = successes / total, _Z95**2
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    # At 0 and 1 the bound is the share itself; rounding may put it just beyond.
    return Estimated(value=share, low=min(max(0.0, centre - half), share), high=max(min(1.0, centre + half), share))


def expected_calibration_error(logits: Tensor, labels: Tensor) -> float:
    """Mean distance between confidence and accuracy, weighted by images (Guo et al., 2017, equation 3).

    The confidence is the probability of the answer; 15 bins of equal width over (0, 1], closed above.
    """
    confidence, answers = logits.double().softmax(1).max(1)
    bins = (confidence * ECE_BINS).ceil().long().clamp(1, ECE_BINS) - 1
    gap = (answers == labels).double() - confidence
    return float(torch.zeros(ECE_BINS, dtype=torch.float64).index_add_(0, bins, gap).abs().sum() / len(labels))


def fidelity(student_logits: Tensor, teacher_logits: Tensor) -> tuple[float, float]:
    """Share of images on which both give the same answer, and mean KL(teacher‖student) at T = 1 in nats per image.

    The two measures of fidelity of Stanton et al., 2021.
    """
    agreement = float((student_logits.argmax(1) == teacher_logits.argmax(1)).double().mean())
    return agreement, float(_kl(student_logits, teacher_logits).mean())


def _kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(teacher‖student) of each image, float64 [N]; never below 0, where only rounding could put it."""
    teacher = teacher_logits.double().log_softmax(1)
    student = student_logits.double().log_softmax(1)
    return (teacher.exp() * (teacher - student)).sum(1).clamp_min(0)


def paired_gain(student_correct: Tensor, baseline_correct: Tensor) -> Estimated:
    """Student's accuracy minus the baseline's on the same images (bool [N]), with a 95 % interval.

    Both answered the same images, so only those count on which one was right and the other wrong. The interval is the
    normal one for a paired difference after half an image has been added to each of the four outcomes (Agresti and
    Min, 2005, section 3): it does not shrink to nothing when the two never differ.
    """
    n = len(student_correct)
    gained = int((student_correct & ~baseline_correct).sum())
    lost = int((baseline_correct & ~student_correct).sum())
    value = (gained - lost) / n
    difference = (gained - lost) / (n + 2)
    half = _Z95 * math.sqrt((gained + lost + 1) - (gained - lost) ** 2 / (n + 2)) / (n + 2)
    return Estimated(value=value, low=max(-1.0, difference - half), high=min(1.0, difference + half))


def disagreements(
    split: Split, *, student_logits: Tensor, teacher_logits: Tensor, classes: Sequence[str], count: int = 12
) -> tuple[Disagreement, ...]:
    """The images on which student and teacher answer differently, largest KL(teacher‖student) first, at most `count`.

    Raises:
        MissingDependency: Pillow, which writes the thumbnails, is not installed.
    """
    kl = _kl(student_logits, teacher_logits)
    teacher, student = teacher_logits.argmax(1), student_logits.argmax(1)
    differ = torch.nonzero(teacher != student).flatten()
    worst = differ[torch.argsort(kl[differ], descending=True, stable=True)[:count]]
    return tuple(
        Disagreement(
            image_id=int(split.ids[row]),
            label=classes[int(split.labels[row])],
            teacher=classes[int(teacher[row])],
            student=classes[int(student[row])],
            kl=float(kl[row]),
            thumbnail=thumbnail(split.images[row]),
        )
        for row in worst.tolist()
    )


def thumbnail(image: Tensor) -> str:
    """A PNG of uint8 [1 or 3, H, W] as a data URL, scaled down to at most 96 pixels a side.

    Raises:
        MissingDependency: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise MissingDependency(
            "The report's thumbnails are written with Pillow, which is not installed.",
            hint="Install it with: pip install pillow",
        ) from None
    pixels = image.cpu().permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    picture.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
