"""The one training loop, told once. It names no method, no queue and no table.

What is learned depends on the recipe, the data and the seed alone; real time decides only when to tell and when to
save. So a run that was stopped and resumed equals an uninterrupted one, bit for bit on the CPU.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, Protocol

import torch
from torch import Tensor, nn

from distillery.errors import InvalidRequest, TrainingDiverged
from distillery.spec.training import Training
from engine import optim
from engine.data.dataset import Dataset, Split
from engine.data.views import Batch, batch_count, batches
from engine.evaluate import accuracy, predict
from engine.loop_state import History, LoopState
from engine.objectives import Objective
from engine.outputs import Outputs
from engine.pace import Clock
from engine.precision import Precision, autocast, memory_format, resolve_device, resolve_precision
from engine.teachers import Teacher

LOGS_PER_EPOCH = 10
"""At most; at fixed steps, so that a resumed run logs the very same values."""
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
    """The weights of the best epoch by validation accuracy; of equals, the first."""
    best_epoch: int
    """From 1."""
    best_validation: float
    last: dict[str, Tensor]
    last_validation: float
    steps: int
    seconds: float
    """Wall time of all attempts, validation and saving included."""
    images_per_second: float
    """Training images per second of training, validation and saving not included."""
    history: History


@dataclass(frozen=True)
class _Run:
    """What stays the same from the first step to the last."""

    state: LoopState
    teacher: Teacher | None
    dataset: Dataset
    recipe: Training
    augment: tuple[str, ...]
    observer: Observer
    precision: Precision
    steps_per_epoch: int
    rate: optim.Rate


def train(
    network: nn.Module,
    *,
    objective: Objective,
    teacher: Teacher | None,
    dataset: Dataset,
    recipe: Training,
    augment: tuple[str, ...],
    observer: Observer,
    resume: dict[str, Any] | None = None,
) -> Trained:
    """Train `network` in place on the training split and choose the best epoch on the validation split.

    Without a teacher, only the objective's terms that need none are learned from. `resume` is a state that an observer
    was handed by a run with the same arguments.

    Raises:
        TrainingDiverged: the loss or the weights stopped being finite; such a state is never handed out.
        Stopped: the observer asked for it and has been handed the state.
    """
    state = _fresh_state(network, objective=objective, recipe=recipe)
    if resume is not None:
        state.load_state_dict(resume)
    steps_per_epoch = batch_count(len(dataset.train), batch_size=recipe.batch_size)
    run = _Run(
        state=state,
        teacher=teacher,
        dataset=dataset.to(state.device),
        recipe=recipe,
        augment=augment,
        observer=observer,
        precision=resolve_precision(recipe.precision, state.device),
        steps_per_epoch=steps_per_epoch,
        rate=optim.schedule(recipe.schedule, steps_per_epoch=steps_per_epoch, epochs=recipe.epochs),
    )
    clock = Clock(state, save_seconds=recipe.checkpoint_every.seconds, tell=partial(_progress, run))
    clock.tell()
    while state.epoch < recipe.epochs:
        _learn_epoch(run, clock=clock)
        state.last_validation = _validate(run, clock=clock)
        state.epoch, state.batch = state.epoch + 1, 0
        _log(run, {"validation/accuracy": state.last_validation, **clock.epoch_pace()})
        if state.last_validation > state.best_validation:
            state.best, state.best_epoch = _copied(network.state_dict()), state.epoch
            state.best_validation = state.last_validation
        if state.epoch % recipe.checkpoint_every.epochs == 0 or state.epoch == recipe.epochs or clock.save_due():
            _save(run, clock=clock)
    clock.tell()
    return _trained(state)


def _fresh_state(network: nn.Module, *, objective: Objective, recipe: Training) -> LoopState:
    """Bring everything to its device and layout, and seed what dropout draws from."""
    device, layout = resolve_device(recipe.device), memory_format(network)
    network.to(device).to(memory_format=layout)
    objective.to(device)
    torch.manual_seed(_seed(recipe))
    parameters = [each for part in (network, objective) for each in part.parameters() if each.requires_grad]
    return LoopState(
        network=network,
        objective=objective,
        optimizer=optim.optimizer(recipe.optimizer, parameters),
        parameters=parameters,
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
    log_every = math.ceil(run.steps_per_epoch / LOGS_PER_EPOCH)
    state.network.train()
    clock.start_epoch()
    for batch in _views(run):
        ends_epoch = state.batch + 1 == run.steps_per_epoch
        logged = ends_epoch or (state.batch + 1) % log_every == 0
        rate, norm = _learn(run, batch, wants_norm=logged)
        if logged:
            _log(run, {**_window_means(run), "lr": rate, "grad_norm": float(norm)})
        clock.count(len(batch.labels))
        if run.observer.stop_requested():
            _stop(run, clock=clock)
        if clock.save_due() and not ends_epoch:
            _save(run, clock=clock)


def _learn(run: _Run, batch: Batch, *, wants_norm: bool) -> tuple[float, Tensor | float]:
    """One step of the optimizer. Gives its learning rate and, where wanted, the gradient's norm before clipping."""
    state, objective, optimizer = run.state, run.state.objective, run.state.optimizer
    rate = run.recipe.optimizer.lr * run.rate(state.step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    with autocast(state.device, precision=run.precision):
        knowledge = None if run.teacher is None else run.teacher.knowledge(batch)
        answers = Outputs(logits=state.network(batch.images))
    terms = objective(answers, knowledge, batch)
    loss = torch.stack([objective.weights[name] * value for name, value in terms.items()]).sum()
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    norm = _clip(state.parameters, largest=run.recipe.clip_grad_norm, wants_norm=wants_norm)
    optimizer.step()
    state.step += 1
    state.batch += 1
    # Kept on the device: reading a value here would make the device wait for the host at every step.
    state.columns = ("loss", *terms)
    state.window.append(torch.stack([loss.detach(), *(value.detach() for value in terms.values())]))
    return rate, norm


def _views(run: _Run) -> Iterator[Batch]:
    return batches(
        run.dataset.train,
        batch_size=run.recipe.batch_size,
        seed=_seed(run.recipe),
        epoch=run.state.epoch,
        augment=run.augment,
        mean=run.dataset.mean,
        std=run.dataset.std,
        start_batch=run.state.batch,
        channels_last=run.state.layout == torch.channels_last,
    )


def _clip(parameters: list[nn.Parameter], *, largest: float | None, wants_norm: bool) -> Tensor | float:
    if largest is not None:
        return nn.utils.clip_grad_norm_(parameters, largest)
    if wants_norm:
        return nn.utils.get_total_norm([each.grad for each in parameters if each.grad is not None])
    return math.nan


def _window_means(run: _Run) -> dict[str, float]:
    """Mean loss and terms, raw and weighted, over the steps since the last logged one; the window starts anew."""
    state, weights = run.state, run.state.objective.weights
    _require_finite_losses(run)
    means = dict(zip(state.columns, torch.stack(state.window).double().mean(dim=0).tolist(), strict=True))
    state.window = []
    values = {"loss": means.pop("loss")}
    for name, mean in means.items():
        values[f"loss/{name}"] = mean
        values[f"weighted/{name}"] = weights[name] * mean
    return values


def _log(run: _Run, values: dict[str, float]) -> None:
    for name, value in values.items():
        run.state.history.setdefault(name, []).append((run.state.step, value))
    run.observer.metrics(run.state.step, values)


def _progress(run: _Run, images_per_second: float | None) -> None:
    run.observer.progress(
        step=run.state.step,
        total_steps=run.steps_per_epoch * run.recipe.epochs,
        epoch=min(run.state.epoch + 1, run.recipe.epochs),
        epochs=run.recipe.epochs,
        images_per_second=images_per_second,
    )


def _validate(run: _Run, *, clock: Clock) -> float:
    """Accuracy on the validation split, in float32; between portions the observer may stop the run."""
    _require_finite_weights(run)
    split, answers = run.dataset.validation, []
    for start in range(0, len(split), VALIDATION_IMAGES):
        if run.observer.stop_requested():
            _stop(run, clock=clock)
        rows = slice(start, start + VALIDATION_IMAGES)
        logits = predict(
            run.state.network,
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
    _require_finite_losses(run)
    _require_finite_weights(run)
    clock.lap()
    run.observer.checkpoint(run.state.state_dict())
    clock.saved()


def _require_finite_losses(run: _Run) -> None:
    state = run.state
    if not state.window:
        return
    finite = torch.stack(state.window).isfinite().all(dim=1).tolist()
    if not all(finite):
        raise _diverged(run, step=state.step - len(finite) + 1 + finite.index(False), what="the loss")


def _require_finite_weights(run: _Run) -> None:
    state_dicts = [run.state.network.state_dict(), run.state.objective.state_dict()]
    flags = [each.isfinite().all() for part in state_dicts for each in part.values() if each.is_floating_point()]
    if not bool(torch.stack(flags).all()):
        raise _diverged(run, step=run.state.step, what="a weight")


def _diverged(run: _Run, *, step: int, what: str) -> TrainingDiverged:
    epoch = (step - 1) // run.steps_per_epoch + 1
    return TrainingDiverged(
        f"Training diverged: {what} was not finite at step {step} (epoch {epoch} of {run.recipe.epochs}), "
        f"at a learning rate of {run.recipe.optimizer.lr * run.rate(step - 1):.3g}.",
        hint="Lower training.optimizer.lr, add training.schedule.warmup_epochs, or set training.clip_grad_norm.",
        pointer="/training/optimizer/lr",
    )


def _copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: each.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
        for name, each in weights.items()
    }


def _trained(state: LoopState) -> Trained:
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
    )
