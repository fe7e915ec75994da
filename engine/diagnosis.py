"""Why a given teacher answers this data worse than it should: what is usually wrong is tried, and what helps is named.

Every figure is of the same few validation images, drawn alike each time.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from distillery.errors import UnfitTeacher
from distillery.report import Estimated
from distillery.spec.preprocessing import Preprocessing
from engine import preflight
from engine.data.dataset import Dataset, Split
from engine.data.views import Batch
from engine.evaluate import answer, evaluating, paired_gain, wilson

SAMPLE_IMAGES = 512
_FEWEST_IMAGES = 64
_PASS_SECONDS = 3.0
"""Of one look at the sample; a network that would take longer is asked about fewer images."""
_TIMED_IMAGES = 8
_PORTION = 64
FAR_BELOW = 0.02
"""Below the recorded accuracy, beyond what the choice of images explains."""
_IMAGES_OF_A_CLASS = 4
"""On average, in each half of the sample, for an order of the classes to be looked for."""
_NAMED_CLASSES = 20
_COLOURS = 3
_ONE_SIDED = 1.645 / 1.960
"""Of the half width of a 95 % interval, that which 5 % lie beyond on one side."""
_GUESSED = 0.5
"""A teacher without a record is suspected when it gets not even this far from the floor to 1."""

Cause = Literal["CLASSES_DIFFER", "CLASS_ORDER", "TEACHER_TOO_WEAK", "NORMALISATION", "IMAGE_SIZE"]
Ask = Callable[[Tensor], Tensor]

NORMALISATIONS: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...] = (
    ("with ImageNet's mean and deviation", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("with CIFAR-10's mean and deviation", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    ("with mean 0.5 and deviation 0.5", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ("as values from 0 to 1", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ("as bytes from 0 to 255", (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
)
"""What is usual, the most usual first: how it is told, mean and deviation of pixels from 0 to 1."""


@dataclass(frozen=True, eq=False)
class Suspect:
    """A given teacher, and how it is held to read images."""

    network: nn.Module
    """Asked with images that are normalised as the job's are, on the device of the data."""
    mean: tuple[float, ...]
    """By which the job's images are normalised."""
    std: tuple[float, ...]
    recorded: float | None = None
    """The accuracy that it once had."""
    expects: Preprocessing | None = None
    """Of a black box: it turns the job's images into these by itself."""
    reads_images: bool = True
    """False of a table of answers."""
    native_size: int | None = None
    """Side in pixels of the images that it was made for, where known."""


@dataclass(frozen=True)
class Finding:
    """One thing that may be wrong: the accuracy once it is put right, and how to do so."""

    cause: Cause
    accuracy: float
    gain: Estimated
    """In accuracy on the same images, with its interval."""
    told: str
    mend: str


@dataclass(frozen=True)
class Diagnosis:
    """How good a teacher is on validation images, and what may be wrong with it."""

    top1: Estimated
    images: int
    warning: str = ""


def examine(
    suspect: Suspect,
    *,
    dataset: Dataset,
    measured: tuple[tuple[float, ...], tuple[float, ...]],
    minimum: float | None,
    pointer: str,
) -> Diagnosis:
    """Ask a teacher about at most 512 validation images, and look for the reason where it answers badly.

    `measured` are mean and deviation of the data itself. `minimum` is the accuracy that is asked for; None asks for
    `preflight.floor`.

    Raises:
        UnfitTeacher: its accuracy is below that; `code` is the likely cause.
    """
    needed = preflight.floor(classes=len(dataset.classes), minimum=minimum)
    split = _sample(suspect, dataset.validation)
    logits = _asked(suspect, split)
    if not _decided(logits, split, needed=needed) and len(split) < len(dataset.validation):
        split = dataset.validation
        logits = _asked(suspect, split)
    top1 = _wilson(logits, split)
    weak = not top1.value >= needed  # so that NaN is refused too
    if not weak and not _suspicious(top1, recorded=suspect.recorded, needed=needed):
        return Diagnosis(top1, len(split), _known_by_heart(top1, recorded=suspect.recorded, images=len(split)))
    likely = _likely(suspect, split, logits, dataset=dataset, measured=measured)
    if weak:
        raise _unfit(top1, likely, images=len(split), needed=needed, classes=len(dataset.classes), pointer=pointer)
    return Diagnosis(top1, len(split), _warning(top1, likely, images=len(split), recorded=suspect.recorded))


def _known_by_heart(top1: Estimated, *, recorded: float | None, images: int) -> str:
    """What to say of a teacher that is far better here than it is on new images; nothing where it is not."""
    if recorded is None or top1.low <= recorded + FAR_BELOW:
        return ""
    return (
        f"The teacher answers {top1.value:.1%} of {images} validation images right; its record is {recorded:.1%}. "
        "It has probably learned from these images. On what it knows by heart it is surer than it should be, so its "
        "answers say little about how classes resemble each other; a higher temperature, or more augmentation, helps."
    )


def _sample(suspect: Suspect, whole: Split) -> Split:
    """Images drawn over the whole split, fewer of them where the network is slow."""
    few = _rows(whole, _TIMED_IMAGES)
    _asked(suspect, few)
    began = time.perf_counter()
    _asked(suspect, few)
    seconds = max((time.perf_counter() - began) / len(few), 1e-9)
    return _rows(whole, min(SAMPLE_IMAGES, max(_FEWEST_IMAGES, int(_PASS_SECONDS / seconds))))


def _rows(whole: Split, count: int) -> Split:
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))[:count].sort().values
    rows = order.to(whole.labels.device)
    return Split(whole.images.index_select(0, rows), whole.labels[rows], whole.ids[rows])


def _asked(suspect: Suspect, split: Split, read: Ask | None = None) -> Tensor:
    """Logits float32 [N, K] on the CPU; `read` turns pixels, uint8 [B, C, H, W], into what the network is handed."""
    read = read or _reading(suspect, mean=suspect.mean, std=suspect.std)
    told = []
    with evaluating(suspect.network), torch.inference_mode():
        for start in range(0, len(split), _PORTION):
            rows = slice(start, start + _PORTION)
            batch = Batch(read(split.images[rows]), split.labels[rows], split.ids[rows])
            told.append(answer(suspect.network, batch).float().cpu())
    return torch.cat(told).clone()


def _reading(suspect: Suspect, *, mean: Sequence[float], std: Sequence[float]) -> Ask:
    """Normalise by these, as the network itself is to see it; a black box is told what it would turn into that."""

    def read(pixels: Tensor) -> Tensor:
        values = (pixels.float() / 255 - _column(mean, pixels)) / _column(std, pixels)
        own = suspect.expects
        if own is None or (tuple(mean), tuple(std)) == (suspect.mean, suspect.std):
            return values
        own_mean, own_std = (_column(_spread(each, pixels.shape[1]), pixels) for each in (own.mean, own.std))
        shown = (values * own_std + own_mean) / own.scale
        return (shown - _column(suspect.mean, pixels)) / _column(suspect.std, pixels)

    return read


def _turned(read: Ask) -> Ask:
    return lambda pixels: read(pixels.flip(1))


def _column(numbers: Sequence[float], pixels: Tensor) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float32, device=pixels.device).view(1, -1, 1, 1)


def _wilson(logits: Tensor, split: Split) -> Estimated:
    return wilson(int((logits.argmax(1) == split.labels.cpu()).sum()), total=len(split))


def _decided(logits: Tensor, split: Split, *, needed: float) -> bool:
    top1 = _wilson(logits, split)
    return not top1.low < needed <= top1.high


def _suspicious(top1: Estimated, *, recorded: float | None, needed: float) -> bool:
    if recorded is not None:
        return recorded > top1.high + FAR_BELOW
    return top1.value < needed + _GUESSED * (1 - needed)


def _likely(
    suspect: Suspect,
    split: Split,
    logits: Tensor,
    *,
    dataset: Dataset,
    measured: tuple[tuple[float, ...], tuple[float, ...]],
) -> Finding | None:
    """What brings the accuracy clearly back; of several that do so equally well, the most usual."""
    trial = _Trial(suspect, split, logits.argmax(1) == split.labels.cpu())
    order = _class_order(logits, split, classes=dataset.classes)
    found = [order] if order else []
    if suspect.reads_images:
        found += _readings(trial, measured=measured)
        found += _sizes(trial, image_size=dataset.image_size)
    if not (clear := [each for each in found if _clear(each.gain)]) and _coloured(trial):
        clear = [each for each in _readings(trial, measured=measured, bgr=True) if _clear(each.gain)]
    best = max((each.accuracy for each in clear), default=0.0)
    enough = wilson(round(best * len(split)), total=len(split)).low
    return next((each for each in clear if each.accuracy >= enough), None)


@dataclass(frozen=True, eq=False)
class _Trial:
    """A teacher, the images it is asked about, and which of them it gets right as it is, bool [N]."""

    suspect: Suspect
    split: Split
    before: Tensor

    def finding(self, cause: Cause, read: Ask, *, how: str, mend: str) -> Finding:
        """What comes of reading the images otherwise."""
        correct = _asked(self.suspect, self.split, read).argmax(1) == self.split.labels.cpu()
        return _finding(cause, correct, before=self.before, how=how, mend=mend)


def _finding(cause: Cause, correct: Tensor, *, before: Tensor, how: str, mend: str) -> Finding:
    right = float(correct.double().mean())
    return Finding(cause, right, paired_gain(correct, before), f"{how} it answers {right:.0%} right.", mend)


def _clear(gain: Estimated) -> bool:
    """Whether chance alone would give such a gain in less than 5 % of all cases."""
    return gain.value > _ONE_SIDED * (gain.value - gain.low)


def _coloured(trial: _Trial) -> bool:
    return trial.suspect.reads_images and trial.split.images.shape[1] == _COLOURS


def _readings(
    trial: _Trial, *, measured: tuple[tuple[float, ...], tuple[float, ...]], bgr: bool = False
) -> Iterator[Finding]:
    """Every usual normalisation other than the one in use, and blue before red; with `bgr` both at once."""
    suspect, channels = trial.suspect, trial.split.images.shape[1]
    tried = [(told, _spread(mean, channels), _spread(std, channels)) for told, mean, std in NORMALISATIONS]
    tried.append(("with the data's own mean and deviation", *measured))
    in_use = _in_use(suspect)
    for told, mean, std in tried:
        if (mean, std) == in_use:
            continue
        read = _reading(suspect, mean=mean, std=std)
        read, how = (_turned(read), f"Read as BGR {told}") if bgr else (read, f"Read {told}")
        yield trial.finding("NORMALISATION", read, how=how, mend=_mend(mean, std, bgr=bgr))
    if not bgr and _coloured(trial):
        read = _turned(_reading(suspect, mean=suspect.mean, std=suspect.std))
        yield trial.finding("NORMALISATION", read, how="Read as BGR", mend=_mend(*in_use, bgr=True))


def _in_use(suspect: Suspect) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of pixels from 0 to 1, as the network sees them now."""
    own = suspect.expects
    if own is None:
        return suspect.mean, suspect.std
    channels = len(suspect.mean)
    mean, std = (tuple(each / own.scale for each in _spread(numbers, channels)) for numbers in (own.mean, own.std))
    return mean, std


def _spread(numbers: Sequence[float], channels: int) -> tuple[float, ...]:
    """One for each channel; of grey images the mean of three."""
    if len(numbers) == channels:
        return tuple(numbers)
    return (numbers[0],) * channels if len(numbers) == 1 else (sum(numbers) / len(numbers),)


def _mend(mean: Sequence[float], std: Sequence[float], *, bgr: bool) -> str:
    numbers = "mean {} and std {}".format(*(_listed([f"{each:.4g}" for each in of]) for of in (mean, std)))
    if not bgr:
        return (
            f"Tell the teacher's own normalisation, which seems to be {numbers}: in the preprocessing of the model, or "
            "as JSON lists 'mean' and 'std' in the metadata of its safetensors file."
        )
    return (
        f"It was trained on images whose first channel is blue (OpenCV reads them so), with {numbers}. Set "
        "'channel_order: bgr' in its preprocessing, or turn round the input channels of its first convolution."
    )


def _sizes(trial: _Trial, *, image_size: int) -> Iterator[Finding]:
    """The size that it was made for; a black box brings its images to that by itself."""
    suspect, size = trial.suspect, trial.suspect.native_size
    if suspect.expects is not None or size is None or size == image_size:
        return
    read = _reading(suspect, mean=suspect.mean, std=suspect.std)
    with contextlib.suppress(RuntimeError, ValueError, AssertionError):  # it may be built for one size alone
        yield trial.finding(
            "IMAGE_SIZE",
            lambda pixels: _resized(read(pixels), size=size),
            how=f"With images of {size}x{size} pixels in place of {image_size}x{image_size}",
            mend=f"Set 'image_size' of the dataset to {size}, or use a teacher for images of {image_size} pixels.",
        )


def _resized(values: Tensor, *, size: int) -> Tensor:
    return functional.interpolate(values, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def _class_order(logits: Tensor, split: Split, *, classes: Sequence[str]) -> Finding | None:
    """What the outputs stand for, matched on one half of the images and tried on the other."""
    count = len(classes)
    if len(split) < 2 * _IMAGES_OF_A_CLASS * count:
        return None
    labels, answers = split.labels.cpu(), logits.argmax(1)
    half = torch.zeros(len(split), dtype=torch.bool)
    half[::2] = True
    order = matched(answers[half], labels[half], classes=count)
    if order == tuple(range(count)):
        return None
    named = _listed([classes[label] for label in order])
    return _finding(
        "CLASS_ORDER",
        torch.tensor(order)[answers[~half]] == labels[~half],
        before=answers[~half] == labels[~half],
        how="With its classes in another order",
        mend=f"Its outputs seem to stand for {named}, in this order. Name its classes so, or reorder its last layer.",
    )


def matched(answers: Tensor, labels: Tensor, *, classes: int) -> tuple[int, ...]:
    """For each output the label that it most likely stands for, each label once: the pairs that meet most often first.

    `answers` and `labels` are int64 [N]. Outputs that were never given get the labels that are left, in order.
    """
    met = torch.zeros(classes, classes, dtype=torch.int64)
    met.index_put_((answers, labels), torch.ones(len(labels), dtype=torch.int64), accumulate=True)
    order: dict[int, int] = {}
    for place in met.flatten().argsort(descending=True, stable=True).tolist():
        output, label = divmod(place, classes)
        if met[output, label] and output not in order and label not in order.values():
            order[output] = label
    left = iter(label for label in range(classes) if label not in order.values())
    return tuple(order[output] if output in order else next(left) for output in range(classes))


def _listed(names: Sequence[str]) -> str:
    more = f", … ({len(names)})" if len(names) > _NAMED_CLASSES else ""
    return ", ".join(names[:_NAMED_CLASSES]) + more


_NOTHING_HELPS = (
    "None of the usual mistakes explains it: other normalisations, BGR, the size it was made for and another order of "
    "the classes were tried where they could be."
)


def _unfit(
    top1: Estimated, likely: Finding | None, *, images: int, needed: float, classes: int, pointer: str
) -> UnfitTeacher:
    return UnfitTeacher(
        f"The teacher answers {top1.value:.1%} of {images} validation images right; at least {needed:.1%} is asked for "
        f"({classes} classes). {likely.told if likely else _NOTHING_HELPS}",
        cause=likely.cause if likely else "TEACHER_TOO_WEAK",
        hint=likely.mend if likely else preflight.WEAK_TEACHER_HINT,
        pointer=pointer,
    )


def _warning(top1: Estimated, likely: Finding | None, *, images: int, recorded: float | None) -> str:
    """Empty where a teacher without a record is weak, and nothing says why."""
    if recorded is None and likely is None:
        return ""
    was = f"; when it was measured before, {recorded:.1%}" if recorded is not None else ""
    why = f"{likely.told} {likely.mend}" if likely else _NOTHING_HELPS
    return f"The given teacher answers {top1.value:.1%} of {images} validation images right{was}. {why}"
