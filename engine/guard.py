"""What is not a finite number is kept out of the weights, the curves and the checkpoints.

A step whose loss or gradient is not finite is left out, and a few of those are forgiven. What a forward pass leaves
behind of itself, running statistics and memory banks, cannot be taken back: where that is spoilt, the run ends.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from distillery.errors import TrainingDiverged
from distillery.spec.training import Training
from engine.loop_state import LoopState
from engine.optim import Rate

SKIPPED_STEPS = 10
"""Steps of a run that may be left out, though never more than half of its steps; one more ends it."""


def spoilt(state: LoopState, row: Tensor) -> Tensor:
    """1.0 if a gradient or a value of `row` is not finite, else 0.0; float32 scalar. Such a row becomes NaN throughout.

    Nothing is read here: that would make the device wait for the host at every step.
    """
    gradients = [each.grad for group in state.learners for each in group if each.grad is not None]
    found, one = torch.zeros((), device=row.device), torch.ones((), device=row.device)
    # One pass for all of them, several times faster than their norms. It multiplies with one.
    torch._amp_foreach_non_finite_check_and_unscale_([*gradients, row], found, one)
    row.masked_fill_(found.bool(), math.nan)
    return found


@dataclass(frozen=True)
class Guard:
    """Looks at what a run has gathered, and ends the run when too much of it is not finite."""

    state: LoopState
    recipe: Training
    rate: Rate
    steps_per_epoch: int
    warn: Callable[[str], None]

    @property
    def budget(self) -> int:
        """How many steps may be left out."""
        return min(SKIPPED_STEPS, self.steps_per_epoch * self.recipe.epochs // 2)

    def resumed(self) -> None:
        """With another learning rate than before, no step counts that was left out until now."""
        state = self.state
        if state.learning_rate is not None and state.learning_rate != self.recipe.optimizer.lr:
            state.pardoned = state.step
        state.learning_rate = self.recipe.optimizer.lr

    def take_window(self) -> Tensor | None:
        """The rows of the steps since the last time that were not left out, float64; None when all were.

        Of those left out the user is told. The window starts anew.

        Raises:
            TrainingDiverged: there were too many of them, or the weights are spoilt too.
        """
        state = self.state
        left_out = self._left_out_in_window()
        rows = torch.stack(state.window).double()
        if left_out:
            self.check_budget()
            self.check_weights()
            state.skipped = (*state.skipped, *left_out)
            self.warn(self._told(left_out))
            rows = rows[rows.isfinite().all(dim=1)]
        state.window = []
        return rows if len(rows) else None

    def check_budget(self) -> None:
        """
        Raises:
            TrainingDiverged: more steps were left out than may be.
        """
        left_out = [step for step in (*self.state.skipped, *self._left_out_in_window()) if step > self.state.pardoned]
        if len(left_out) > self.budget:
            more = f" and at {len(left_out) - 1} more up to step {left_out[-1]}" if len(left_out) > 1 else ""
            rule = f"At most {self.budget} such steps of this run are left out."
            raise self._diverged(left_out[0], "the loss or its gradient", more=more, rule=rule)

    def check_weights(self) -> None:
        """
        Raises:
            TrainingDiverged: a weight, a running statistic or anything else that is saved is not finite.
        """
        state_dicts = [self.state.network.state_dict(), self.state.objective.state_dict()]
        tensors = [each for part in state_dicts for each in part.values() if isinstance(each, Tensor)]
        flags = [each.isfinite().all() for each in tensors if each.is_floating_point()]
        if not bool(torch.stack(flags).all()):
            raise self._diverged(self.state.step, "a weight")

    def _left_out_in_window(self) -> list[int]:
        """The steps, counted from 1, whose rows are not finite."""
        state = self.state
        if not state.window:
            return []
        finite = torch.stack(state.window).isfinite().all(dim=1).tolist()
        first = state.step - len(finite) + 1
        return [first + place for place, good in enumerate(finite) if not good]

    def _told(self, left_out: list[int]) -> str:
        steps = f"step {left_out[0]}" if len(left_out) == 1 else f"steps {', '.join(map(str, left_out))}"
        far = sum(step > self.state.pardoned for step in self.state.skipped)
        return (
            f"The loss or its gradient was not finite at {steps}: nothing was learned from "
            f"{'it' if len(left_out) == 1 else 'them'}. Steps left out so far: {far}; with more than {self.budget} the "
            f"run has diverged. Lower training.optimizer.lr or set training.clip_grad_norm if that happens again."
        )

    def _diverged(self, step: int, what: str, *, more: str = "", rule: str = "") -> TrainingDiverged:
        epoch = (step - 1) // self.steps_per_epoch + 1
        detail = (
            f"Training diverged: {what} was not finite at step {step} (epoch {epoch} of {self.recipe.epochs}){more}, "
            f"at a learning rate of {self.recipe.optimizer.lr * self.rate(step - 1):.3g}. {rule}"
        )
        return TrainingDiverged(
            detail.rstrip(),
            hint="Lower training.optimizer.lr, add training.schedule.warmup_epochs, or set training.clip_grad_norm.",
            pointer="/training/optimizer/lr",
        )
