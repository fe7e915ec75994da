"""The fastest faithful form of a frozen teacher, chosen by a short measurement at the start of a run.

A form is the same weights made ready to answer faster: folded, or in ONNX Runtime or OpenVINO. It is taken only where
it gives the answers of the float32 network within a stated bound, and where the run is long enough to pay for looking.
One other form lies in memory at a time, and none when nothing was taken.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from distillery.errors import DistilleryError
from distillery.forms import FormChoice, Measured, TriedForm
from engine.black_box import OnnxNetwork
from engine.evaluate import BatchNetwork
from engine.form_making import NAMES, FormMaker
from engine.precision import Precision, autocast
from engine.teachers import Form, FrozenTeacher

AUTO, EAGER = "auto", "eager"
TEMPERATURE = 4.0
"""At which the answers are compared: the usual one of the terms that read them."""
MOST_MEAN_KL = 1e-4
"""Nats per image, of KL(eager in float32‖form). Autocast to bf16, which costs no accuracy, is at 3e-5 for resnet56 on
CIFAR-10 (5e-5 with all of it cast), float32 in another runtime at 1e-13. Eight bits with one scale per tensor of
activations are at 1e-2 there, a good part of what the student itself is away from its teacher, and are refused."""
MOST_KL = 1e-2
"""Of any image. bf16 is at 1e-3 where it is worst; a form that is right on average and wild on a few images is not."""
MARGIN = 0.10
"""By so much a form is faster than eager, or it is not taken: less is within the noise of a shared machine."""
ROUNDS = 7
"""Each times eager and the form side by side."""
CHECKED_IMAGES = 256
LEAST_CHECKED_IMAGES = 16
SET_UP_SECONDS = 30.0
"""Of a trial, besides asking: 5 to 16 s for the ONNX export, 3 s for eight bits, up to 1 s to load each, twice for the
one that is taken, on two slow cores."""
EXPECTED_SAVING = 0.2
"""Of the teacher's time: ONNX Runtime in float32 is 1.3 to 1.5 times as fast as eager."""
PAYS_TIMES = 2.0
"""What a trial promises to save, over what it costs."""


@dataclass(frozen=True)
class Chosen:
    """The form that a teacher answers in from now on."""

    name: str
    """As it is asked for again: `eager`, or one of `form_making.NAMES`."""
    choice: FormChoice


@dataclass(frozen=True)
class _Trial:
    """What stays the same for all forms of one teacher."""

    teacher: FrozenTeacher
    batch: Tensor
    checked: Tensor
    reference: Tensor
    """Logits float32 [N, K] of the network for `checked`."""
    precision: Precision
    maker: FormMaker
    meanwhile: Callable[[], None]


def choose_form(
    teacher: FrozenTeacher,
    images: Tensor,
    *,
    batch_size: int,
    batches_in_run: int,
    precision: Precision,
    wanted: str = AUTO,
    meanwhile: Callable[[], None] = lambda: None,
) -> Chosen:
    """Let `teacher` answer in its fastest faithful form from now on, and tell why it is that one.

    `images` are views of training images as the run will show them, float32 [N, C, H, W] on the device of training:
    512 are enough, of which one half calibrates eight bits and the other one is compared on; of fewer, all serve for
    both. `wanted` is `auto`, `eager`, or a name of `form_making.NAMES`, which is then taken without being timed where
    it is faithful. `meanwhile` is called between the steps of the trial; what it raises ends it, with eager kept.

    The network itself is never changed. A form that cannot be made is told in `choice.tried`, and never raises.
    """
    began = time.monotonic()
    teacher.answer_in(None)
    if reason := _always_eager(teacher, images, wanted=wanted):
        return _eager(teacher, reason, precision=precision)
    if wanted == AUTO and (reason := _too_short(teacher, images[:batch_size], batches_in_run, precision=precision)):
        return _eager(teacher, reason, precision=precision)
    with _trial(teacher, images, batch_size=batch_size, precision=precision, meanwhile=meanwhile) as trial:
        chosen = _fastest(trial) if wanted == AUTO else _named(trial, wanted)
    choice = chosen.choice.model_copy(
        update={
            "form": teacher.form_in(precision),
            "trial_seconds": time.monotonic() - began,
            "images": len(trial.checked),
            "batch_size": len(trial.batch),
        }
    )
    return replace(chosen, choice=choice)


def _eager(teacher: FrozenTeacher, reason: str, *, precision: Precision, tried: Sequence[TriedForm] = ()) -> Chosen:
    form = teacher.form_in(precision)
    return Chosen(EAGER, FormChoice(role="teacher", form=form, reason=reason, tried=tuple(tried)))


def _always_eager(teacher: FrozenTeacher, images: Tensor, *, wanted: str) -> str:
    """Why nothing else comes into question, however long the run; empty when something does."""
    if wanted == EAGER:
        return "the recipe asks for it (training.teacher_form)."
    if teacher.layers:
        return f"the objective reads its layers {', '.join(teacher.layers)}, which only the network itself shows."
    if any(isinstance(module, (BatchNetwork, OnnxNetwork)) for module in teacher.network.modules()):
        return "it is a black box, which has one form only."
    if len(images) < LEAST_CHECKED_IMAGES:
        return f"on {len(images)} images nobody could say whether another form gives its answers."
    return ""


def _too_short(teacher: FrozenTeacher, batch: Tensor, batches_in_run: int, *, precision: Precision) -> str:
    """Why looking does not pay; empty when it does."""
    if batches_in_run * EXPECTED_SAVING <= PAYS_TIMES * _trial_batches(len(batch)):
        return f"its run of {batches_in_run} batches is too short for a trial of other forms to pay."
    _seconds(_ask_eager(teacher), batch, precision=precision)
    each = _seconds(_ask_eager(teacher), batch, precision=precision)
    run, trial = batches_in_run * each, SET_UP_SECONDS + _trial_batches(len(batch)) * each
    if EXPECTED_SAVING * run >= PAYS_TIMES * trial:
        return ""
    least = PAYS_TIMES * trial / EXPECTED_SAVING
    return f"it answers for about {run:.0f} s in this run, and a trial of other forms pays from {least:.0f} s on."


def _trial_batches(batch_size: int) -> int:
    """How many batches are asked in a whole trial."""
    checks = -(-CHECKED_IMAGES // batch_size)
    return checks + len(NAMES) * (checks + 2 * (ROUNDS + 1))


@contextmanager
def _trial(
    teacher: FrozenTeacher,
    images: Tensor,
    *,
    batch_size: int,
    precision: Precision,
    meanwhile: Callable[[], None],
) -> Iterator[_Trial]:
    """Files lie in a folder for as long as the block lasts; what was loaded from them stays usable."""
    calibrating, checked = images, images
    if len(images) >= 2 * CHECKED_IMAGES:
        calibrating, checked = images[:CHECKED_IMAGES], images[CHECKED_IMAGES : 2 * CHECKED_IMAGES]
    batch = images[:batch_size]
    with tempfile.TemporaryDirectory(prefix="distillery-form-") as folder:
        maker = FormMaker(teacher.network, calibrating=calibrating, batch=batch, folder=Path(folder))
        reference = _answers(_ask_eager(teacher), checked, size=len(batch), precision="fp32")
        yield _Trial(teacher, batch, checked, reference, precision, maker, meanwhile)


def _fastest(trial: _Trial) -> Chosen:
    tried, eager = [], None
    for name in NAMES:
        trial.meanwhile()
        found, timed = _try(trial, name)
        tried.append(found)
        eager = timed or eager
    best = max(tried, key=_gain)
    if best.speedup is not None and _gain(best) >= 1 + MARGIN:
        trial.meanwhile()
        chosen = _taken(trial, best.form, best.speedup, tried=tried)
    else:
        reason = "no other form is as faithful and faster by a tenth."
        chosen = _eager(trial.teacher, reason, precision=trial.precision, tried=tried)
    return replace(chosen, choice=chosen.choice.model_copy(update={"eager_images_per_second": eager}))


def _gain(tried: TriedForm) -> float:
    return tried.speedup.median if tried.speedup and not tried.refused else 0.0


def _taken(trial: _Trial, name: str, speedup: Measured, *, tried: Sequence[TriedForm]) -> Chosen:
    """The form that came out best, made once more: it was let go while others were tried."""
    form, again = _made(trial, name)
    if form is None:
        return _eager(trial.teacher, f"{name} could not be made again: {again.refused}", precision=trial.precision)
    trial.teacher.answer_in(form)
    reason = (
        f"{speedup.median:.2f} times as fast as eager ({speedup.low:.2f} to {speedup.high:.2f}), with a mean KL of "
        f"{again.kl_mean:.1e} and at most {again.kl_max:.1e}."
    )
    return Chosen(name, FormChoice(role="teacher", form="", reason=reason, tried=tuple(tried)))


def _named(trial: _Trial, name: str) -> Chosen:
    """The form of that name, where it can be made and is faithful."""
    form, tried = _made(trial, name)
    if form is None:
        return _eager(trial.teacher, f"{name} is out: {tried.refused}", precision=trial.precision, tried=[tried])
    trial.teacher.answer_in(form)
    reason = f"as asked for, with a mean KL of {tried.kl_mean:.1e} and at most {tried.kl_max:.1e}."
    return Chosen(name, FormChoice(role="teacher", form="", reason=reason, tried=(tried,)))


def _try(trial: _Trial, name: str) -> tuple[TriedForm, Measured | None]:
    """What came of a form, and the images per second of eager beside it; the form itself is let go."""
    form, tried = _made(trial, name)
    if form is None:
        return tried, None
    asks = (_ask_eager(trial.teacher), form.logits)
    try:
        seconds = _side_by_side(asks, trial.batch, precision=trial.precision)
    except Exception as failed:  # a runtime that cannot be asked is left out and told, like one that is not there
        return tried.model_copy(update={"refused": _words(failed)}), None
    eager, own = ([len(trial.batch) / each for each in column] for column in zip(*seconds, strict=True))
    speedup = measured([slow / fast for slow, fast in seconds])
    return tried.model_copy(update={"images_per_second": measured(own), "speedup": speedup}), measured(eager)


def _made(trial: _Trial, name: str) -> tuple[Form | None, TriedForm]:
    """A form that gives the network's answers, or None and why not."""
    try:
        form = trial.maker.make(name)
        answers = _answers(form.logits, trial.checked, size=len(trial.batch), precision=trial.precision)
    except Exception as failed:  # exporters and runtimes raise nearly anything, and the run can do without them
        return None, TriedForm(form=name, refused=_words(failed))
    return judged(form, answers, reference=trial.reference, name=name)


def judged(form: Form, answers: Tensor, *, reference: Tensor, name: str) -> tuple[Form | None, TriedForm]:
    """The form, or None where its `answers` [N, K] are not those of the network, `reference` [N, K]; and the figures.

    Both divergences are computed in float64 from float32 logits. What is not finite is refused.
    """
    if answers.shape != reference.shape:
        refused = f"it answers in the shape {tuple(answers.shape)}, the network in {tuple(reference.shape)}."
        return None, TriedForm(form=name, refused=refused)
    divergence = divergences(reference, answers)
    mean, most = float(divergence.mean()), float(divergence.max())
    refused = ""
    if not mean <= MOST_MEAN_KL:
        refused = f"its mean KL from the float32 network is {mean:.1e}, and at most {MOST_MEAN_KL:g} is allowed."
    elif not most <= MOST_KL:
        refused = f"its KL from the float32 network is {most:.1e} on one image, and at most {MOST_KL:g} is allowed."
    finite = {"kl_mean": mean, "kl_max": most} if mean < float("inf") else {}
    return (None if refused else form), TriedForm(form=name, refused=refused, **finite)


def divergences(reference: Tensor, answers: Tensor) -> Tensor:
    """KL(softmax(reference/T)‖softmax(answers/T)) of each image at T = 4, float64 [N], of logits [N, K]."""
    expected, found = ((each.double() / TEMPERATURE).log_softmax(dim=1) for each in (reference, answers))
    return (expected.exp() * (expected - found)).sum(dim=1)


def _ask_eager(teacher: FrozenTeacher) -> Callable[[Tensor], Tensor]:
    def ask(images: Tensor) -> Tensor:
        logits: Tensor = teacher.network(images)
        return logits

    return ask


def _answers(ask: Callable[[Tensor], Tensor], images: Tensor, *, size: int, precision: Precision) -> Tensor:
    """Logits float32 [N, K] on the CPU, asked in batches of `size`."""
    with torch.no_grad(), autocast(images.device, precision=precision):
        return torch.cat([ask(images[start : start + size]).float().cpu() for start in range(0, len(images), size)])


def _side_by_side(
    asks: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]], batch: Tensor, *, precision: Precision
) -> list[tuple[float, float]]:
    """Seconds of each of two for a batch, in rounds that alternate which goes first; the first round does not count."""
    rounds = []
    for number in range(ROUNDS + 1):
        order = (0, 1) if number % 2 else (1, 0)
        seconds = {which: _seconds(asks[which], batch, precision=precision) for which in order}
        rounds.append((seconds[0], seconds[1]))
    return rounds[1:]


def _seconds(ask: Callable[[Tensor], Tensor], batch: Tensor, *, precision: Precision) -> float:
    on_cuda = batch.device.type == "cuda"
    with torch.no_grad(), autocast(batch.device, precision=precision):
        if on_cuda:
            torch.cuda.synchronize(batch.device)
        began = time.perf_counter()
        ask(batch)
        if on_cuda:
            torch.cuda.synchronize(batch.device)
        return time.perf_counter() - began


def measured(values: Sequence[float]) -> Measured:
    """Median and extremes of one value or more."""
    return Measured(median=median(values), low=min(values), high=max(values))


def _words(error: Exception) -> str:
    if isinstance(error, DistilleryError):
        return error.detail
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}"[:300]
