"""Optimizers and learning-rate schedules, from a recipe."""

import inspect
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from distillery.spec.training import AdamW, CosineSchedule, Schedule, Sgd, StepSchedule

Rate = Callable[[int], float]
"""From the number of optimizer steps done to the factor on the learning rate of the next one."""


class _Eager:
    """Puts methods of torch's optimizers into the place of their guarded forms. The guards are for torch.compile, and
    load all of it at the first call: two seconds before the first step of a run that compiles nothing.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)


# The guard of a step also turns gradients off.
class _Sgd(_Eager, torch.optim.SGD):
    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))


class _AdamW(_Eager, torch.optim.AdamW):
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def optimizer(spec: Sgd | AdamW, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer of `spec` over one group: weight decay on every parameter, as in the published recipes.

    The fused kernels make one pass over the weights where the plain ones make five.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if isinstance(spec, AdamW):
        return _AdamW(trained, lr=spec.lr, betas=spec.betas, weight_decay=spec.weight_decay, fused=True)
    return _Sgd(
        trained,
        lr=spec.lr,
        momentum=spec.momentum,
        weight_decay=spec.weight_decay,
        nesterov=spec.nesterov,
        fused=True,
    )


def step(optimizer: torch.optim.Optimizer, *, skip: Tensor) -> None:
    """One step along the gradients, or none if `skip`, a float32 scalar, is 1.0: no weight, momentum or count changes.

    The fused kernels decide that on the device, as for mixed precision, so that the host need not wait for it.
    """
    first = not optimizer.state
    optimizer.found_inf = skip  # type: ignore[attr-defined]  # torch reads it, and declares it nowhere
    optimizer.step()
    if first:
        # SGD writes the first gradient into fresh memory. Left out, the step leaves there what the memory held before.
        for state in optimizer.state.values():
            if (momentum := state.get("momentum_buffer")) is not None:
                momentum.masked_fill_(skip.bool(), 0.0)


def schedule(spec: Schedule, *, steps_per_epoch: int, epochs: int) -> Rate:
    """The learning rate's factor as a pure function of the steps done: there is no state to save.

    A warm-up of w steps multiplies with (step+1)/w. The cosine falls from 1 after the warm-up to 0 at the end of the
    run, so that even the last step learns something.
    """
    total = steps_per_epoch * epochs
    warmup = min(round(spec.warmup_epochs * steps_per_epoch), total)
    after_warmup = _shape(spec, total=total, warmup=warmup)

    def factor(step: int) -> float:
        rise = (step + 1) / warmup if step < warmup else 1.0
        return rise * after_warmup(step)

    return factor


def _shape(spec: Schedule, *, total: int, warmup: int) -> Rate:
    if isinstance(spec, CosineSchedule):
        span = max(total - warmup, 1)
        return lambda step: 0.5 * (1 + math.cos(math.pi * max(step - warmup, 0) / span))
    if isinstance(spec, StepSchedule):
        drops = sorted(round(share * total) for share in spec.milestones)
        return lambda step: spec.gamma ** sum(step >= drop for drop in drops)
    return lambda step: 1.0
