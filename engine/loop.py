"""The one training loop, told once. It names no method, no queue and no table: a `Lesson` says who learns from what.

What is learned depends on the recipe, the data and the seed alone; real time decides only when to tell and when to
save. So a run that was stopped and resumed equals an uninterrupted one, bit for bit on the CPU.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, nn

from distillery.errors import InvalidRequest
from distillery.spec.training import Training
from engine import micro_batches as micro
from engine import optim
from engine.data.dataset import Dataset, Split
from engine.data.views import Batch
from engine.evaluate import accuracy, predict
from engine.guard import Guard, spoilt
from engine.lesson import Lesson
from engine.loop_state import History, LoopState
from engine.pace import Clock
from engine.precision import Precision, autocast, resolve_device, resolve_precision
from engine.shares import dead_terms, gradient_shares, last_look

LOGS_PER_EPOCH = 10
"""At most; at fixed steps, so that a resumed run logs the very same values."""
SHARES_PER_EPOCH = 2
"""At most; looks at how the terms share the gradient. Each costs a backward pass for each term."""
SHARES_APART = 25
"""Steps between two such looks, at least, so that they cost little where an epoch has few steps."""
VALIDATION_IMAGES = 256
"""Images validated between two looks at `stop_requested`."""


class Stopped(Exception):
    """The observer asked the loop to stop; its last checkpoint holds everything learned so far."""


class Observer(Protocol):
    """What the loop tells while it runs, and the one question it asks."""

    def progress(
        self, *, step: int, total_steps: int, epoch: int, epochs: int, images_per_second: float | None
    ) -> None:
        """About once a second. `epoch` counts from 1."""
        ...

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Values of the curves after `step` optimizer steps."""
        ...

    def warning(self, message: str) -> None:
        """Something the user should know, that does not stop the run."""
        ...

    def checkpoint(self, state: dict[str, Any]) -> None:
        """Keep this state. Its tensors are the live ones: write or copy them before returning."""
        ...

    def stop_requested(self) -> bool:
        """Whether to save and leave; asked at every step."""
        ...


@dataclass(frozen=True)
class Trained:
    """What a run leaves behind. Weights are state dicts of contiguous tensors on the CPU."""

    best: dict[str, Tensor]
    """The weights of the best epoch by validation accuracy; of equals, the first. Of a lesson that chooses none, the
    last."""
    best_epoch: int
    """From 1."""
    best_validation: float | None
    """None where nothing was validated."""
    last: dict[str, Tensor]
    last_validation: float | None
    steps: int
    seconds: float
    """Wall time of all attempts, validation and saving included."""
    images_per_second: float
    """Training images per second of training, validation and saving not included."""
    history: History
    keepsakes: dict[str, Tensor] = field(default_factory=dict)
    """What the lesson wants to be shown in the end."""


@dataclass
class _Run:
    """What stays the same from the first step to the last."""

    lesson: Lesson
    state: LoopState
    dataset: Dataset
    recipe: Training
    augment: tuple[str, ...]
    observer: Observer
    micro_batches: int
    precision: Precision = field(init=False)
    steps_per_epoch: int = field(init=False)
    rate: optim.Rate = field(init=False)
    guard: Guard = field(init=False)

    def __post_init__(self) -> None:
        recipe, warn = self.recipe, self.observer.warning
        self.precision = resolve_precision(recipe.precision, self.state.device)
        self.steps_per_epoch = steps = self.lesson.batch_count(self.dataset, recipe)
        self.rate = optim.schedule(recipe.schedule, steps_per_epoch=steps, epochs=recipe.epochs)
        self.guard = Guard(self.state, recipe=recipe, rate=self.rate, steps_per_epoch=steps, warn=warn)


def train(
    lesson: Lesson,
    *,
    dataset: Dataset,
    recipe: Training,
    augment: tuple[str, ...],
    observer: Observer,
    resume: dict[str, Any] | None = None,
    micro_batches: int = 1,
) -> Trained:
    """Train the lesson's network in place on the training split and choose the best epoch on the validation split.

    `resume` is a state that an observer was handed by a run with the same arguments; save that its learning rate may
    have been another, and the number of `micro_batches`, the parts in which a batch goes through the networks.

    Raises:
        distillery.errors.TrainingDiverged: the weights stopped being finite, or the loss or gradient of more steps
            than `engine.guard` leaves out; no such state is ever handed out.
        Stopped: the observer asked for it and has been handed the state.
    """
    state = _fresh_state(lesson, recipe=recipe)
    if resume is not None:
        state.load_state_dict(resume)
    data = dataset.to(state.device)
    run = _Run(lesson, state, data, recipe=recipe, augment=augment, observer=observer, micro_batches=micro_batches)
    run.guard.resumed()
    clock = Clock(state, save_seconds=recipe.checkpoint_every.seconds, tell=partial(_progress, run))
    lesson.meanwhile = partial(clock.count, 0)
    clock.tell()
    if micro_batches > 1:
        observer.warning(micro.notice(lesson, parts=micro_batches))
    while state.epoch < recipe.epochs:
        _learn_epoch(run, clock=clock)
        _examine(run, clock=clock)
        if state.epoch % recipe.checkpoint_every.epochs == 0 or state.epoch == recipe.epochs or clock.save_due():
            _save(run, clock=clock)
    clock.tell()
    return _trained(state, keepsakes=lesson.keepsakes())


def _fresh_state(lesson: Lesson, *, recipe: Training) -> LoopState:
    """Bring everything to its device and layout, and seed what dropout draws from."""
    device = resolve_device(recipe.device)
    layout = lesson.prepare(device)
    torch.manual_seed(_seed(recipe))
    learners = lesson.learners()
    return LoopState(
        network=lesson.network,
        objective=lesson.objective,
        optimizer=optim.optimizer(recipe.optimizer, [each for group in learners for each in group]),
        learners=learners,
        device=device,
        layout=layout,
    )


def _seed(recipe: Training) -> int:
    if recipe.seed is None:
        raise InvalidRequest(
            "The recipe has no seed: nobody could repeat the run.",
            hint="Resolve the spec first (distillery.spec.resolve draws one), or set training.seed.",
            pointer="/training/seed",
        )
    return recipe.seed


def _learn_epoch(run: _Run, *, clock: Clock) -> None:
    """The rest of the current epoch, from the batch that the state stands at."""
    state = run.state
    state.network.train()
    clock.start_epoch()
    for batch in _views(run):
        ends_epoch = state.batch + 1 == run.steps_per_epoch
        logged = ends_epoch or (state.batch + 1) % math.ceil(run.steps_per_epoch / LOGS_PER_EPOCH) == 0
        shared = _wants_shares(run, ends_epoch=ends_epoch)
        step = _learn(run, batch, wants_norm=logged, wants_shares=shared)
        if shared and step.shares:
            _log(run, step.shares)
        if logged:
            _log(run, {**_window_means(run), "lr": step.rate, "grad_norm": float(step.norm)})
        if clock.count(len(batch.labels)):
            run.guard.check_budget()
        if run.observer.stop_requested():
            _stop(run, clock=clock)
        if clock.save_due() and not ends_epoch:
            _save(run, clock=clock)


def _wants_shares(run: _Run, *, ends_epoch: bool) -> bool:
    """Whether the coming step looks at how the terms share the gradient; the very last one does."""
    state = run.state
    if ends_epoch and state.epoch + 1 == run.recipe.epochs:
        return True
    due = ends_epoch or (state.batch + 1) % math.ceil(run.steps_per_epoch / SHARES_PER_EPOCH) == 0
    last = last_look(state.history)
    return due and (last is None or state.step + 1 - last >= SHARES_APART)


@dataclass(frozen=True)
class _Step:
    """What is told of one step of the optimizer."""

    rate: float
    norm: Tensor | float
    """Of the gradient before clipping; NaN where it was not asked for."""
    shares: Mapping[str, float]


def _learn(run: _Run, batch: Batch, *, wants_norm: bool, wants_shares: bool) -> _Step:
    """One step of the optimizer, which leaves everything as it is where the loss or the gradient is not finite."""
    state, optimizer = run.state, run.state.optimizer
    rate = run.recipe.optimizer.lr * run.rate(state.step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    parts = micro.parted(batch, parts=run.micro_batches)
    first, *rest = parts
    row, shares = _gathered(run, first, share=len(first.labels) / len(batch.labels), wants_shares=wants_shares)
    for part in rest:
        row += _gathered(run, part, share=len(part.labels) / len(batch.labels), wants_shares=False)[0]
    skip = spoilt(state, row)
    norm = _clip(state.learners, largest=run.recipe.clip_grad_norm, wants_norm=wants_norm)
    optim.step(optimizer, skip=skip)
    state.step += 1
    state.batch += 1
    # Kept on the device: reading a value here would make the device wait for the host at every step.
    state.window.append(row)
    return _Step(rate, norm, shares)


def _gathered(run: _Run, part: Batch, *, share: float, wants_shares: bool) -> tuple[Tensor, Mapping[str, float]]:
    """Add the gradient of a part of the batch, which counts `share`; gives its loss and terms, weighed by that, and
    how its terms share the gradient. Nothing else of it is held when the next part comes.
    """
    lesson, weights = run.lesson, run.lesson.weights(run.state.epoch)
    with autocast(run.state.device, precision=run.precision):
        answers = lesson.forward(part)
    terms = lesson.terms(answers, part)
    weighted = {name: weights[name] * value for name, value in terms.items()}
    loss = torch.stack(list(weighted.values())).sum()
    counting = {name: value for name, value in weighted.items() if weights[name] > 0}
    shares = gradient_shares(counting, lesson=lesson) if wants_shares else {}
    torch.autograd.backward(loss if share == 1 else share * loss)
    run.state.columns = ("loss", *terms)
    row = torch.stack([loss.detach(), *(value.detach() for value in terms.values())])
    return row if share == 1 else share * row, shares


def _views(run: _Run) -> Iterator[Batch]:
    return run.lesson.batches(
        run.dataset,
        run.recipe,
        epoch=run.state.epoch,
        start_batch=run.state.batch,
        augment=run.augment,
        layout=run.state.layout,
    )


def _clip(learners: list[list[nn.Parameter]], *, largest: float | None, wants_norm: bool) -> Tensor | float:
    """The gradient's norm; learners that do not depend on each other are each clipped by their own."""
    if largest is not None:
        norms = [torch.nn.utils.clip_grad_norm_(group, largest) for group in learners]
        return norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    if wants_norm:
        gradients = [each.grad for group in learners for each in group if each.grad is not None]
        return nn.utils.get_total_norm(gradients)
    return math.nan


def _window_means(run: _Run) -> dict[str, float]:
    """Mean loss and terms, raw and weighted, over the steps since the last logged one; the window starts anew.

    Steps that were left out do not count; where there were any, their number in the whole run is told.
    """
    state, weights, known = run.state, run.lesson.weights(run.state.epoch), run.state.skipped
    rows = run.guard.take_window()
    values = {} if state.skipped == known else {"skipped_steps": float(len(state.skipped))}
    if rows is None:
        return values
    means = dict(zip(state.columns, rows.mean(dim=0).tolist(), strict=True))
    values["loss"] = means.pop("loss")
    for name, mean in means.items():
        values[f"loss/{name}"] = mean
        values[f"weighted/{name}"] = weights[name] * mean
    return values


def _log(run: _Run, values: Mapping[str, float]) -> None:
    """Tell and remember what is finite: the gradient of a step that was left out has no norm."""
    finite = {name: value for name, value in values.items() if math.isfinite(value)}
    for name, value in finite.items():
        run.state.history.setdefault(name, []).append((run.state.step, value))
    run.observer.metrics(run.state.step, finite)


def _progress(run: _Run, images_per_second: float | None) -> None:
    run.observer.progress(
        step=run.state.step,
        total_steps=run.steps_per_epoch * run.recipe.epochs,
        epoch=min(run.state.epoch + 1, run.recipe.epochs),
        epochs=run.recipe.epochs,
        images_per_second=images_per_second,
    )


def _examine(run: _Run, *, clock: Clock) -> None:
    """The end of an epoch: validation, the best weights so far, and a word about terms that taught nothing."""
    state, lesson = run.state, run.lesson
    run.guard.check_weights()
    values = {}
    if lesson.chooses_best:
        state.last_validation = values["validation/accuracy"] = _validate(run, lesson.network, clock=clock)
        for name, network in lesson.companions().items():
            values[f"validation/accuracy/{name}"] = _validate(run, network, clock=clock)
    state.epoch, state.batch = state.epoch + 1, 0
    _log(run, {**values, **clock.epoch_pace()})
    if state.last_validation is None or state.best_validation is None or state.last_validation > state.best_validation:
        state.best, state.best_epoch = _copied(lesson.network.state_dict()), state.epoch
        state.best_validation = state.last_validation
    for name in dead_terms(state.history, since=state.step - max(run.steps_per_epoch, SHARES_APART)):
        if name not in state.warned:
            state.warned = (*state.warned, name)
            run.observer.warning(
                f"The term {name} teaches nothing: for a whole epoch its share of the gradient stayed below 0.1 %. "
                f"Raise its weight, give it other layers, or leave it out."
            )


def _validate(run: _Run, network: nn.Module, *, clock: Clock) -> float:
    """Accuracy on the validation split, in float32; between portions the observer may stop the run."""
    split, answers = run.dataset.validation, []
    portion = max(1, VALIDATION_IMAGES // run.micro_batches)
    for start in range(0, len(split), portion):
        clock.pause()
        if run.observer.stop_requested():
            _stop(run, clock=clock)
        rows = slice(start, start + portion)
        logits = predict(
            network,
            Split(split.images[rows], split.labels[rows], split.ids[rows]),
            mean=run.dataset.mean,
            std=run.dataset.std,
            device=run.state.device,
            channels_last=run.state.layout == torch.channels_last,
        )
        answers.append(logits)
    return accuracy(torch.cat(answers), split.labels.cpu())


def _stop(run: _Run, *, clock: Clock) -> NoReturn:
    _save(run, clock=clock)
    raise Stopped(f"Stopped after step {run.state.step}.")


def _save(run: _Run, *, clock: Clock) -> None:
    """Hand the state to the observer, unless it is spoilt."""
    run.guard.check_budget()
    run.guard.check_weights()
    clock.lap()
    run.observer.checkpoint(run.state.state_dict())
    clock.saved()


def _copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: each.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
        for name, each in weights.items()
    }


def _trained(state: LoopState, *, keepsakes: dict[str, Tensor]) -> Trained:
    return Trained(
        best=state.best,
        best_epoch=state.best_epoch,
        best_validation=state.best_validation,
        last=_copied(state.network.state_dict()),
        last_validation=state.last_validation,
        steps=state.step,
        seconds=state.seconds,
        images_per_second=state.images / state.training_seconds if state.training_seconds else 0.0,
        history=state.history,
        keepsakes=keepsakes,
    )
