"""The student's step by torch.compile, where a run is long enough to pay for compiling.

What is compiled is a function beside the network, never the network itself: its weights keep their names, and whatever
else asks it (validation, export, hooks) asks it eagerly. Only training batches of one size take the compiled way; the
smaller last one of an epoch does not, so that nothing is ever compiled twice.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from distillery.errors import InvalidRequest, MissingDependency
from distillery.forms import FormChoice, TriedForm
from engine.black_box import OnnxNetwork
from engine.lesson import Lesson
from engine.precision import Precision, autocast, for_loss
from engine.runtimes.compiled import Compiled, function_of_its_own
from engine.teacher_forms import measured

Wanted = Literal["auto", "on", "off"]
EAGER, COMPILED = "eager", "compiled"
COMPILE_SECONDS = 60.0
"""Of forward and backward pass, cold: 22 to 63 s for CIFAR networks on two cores."""
EXPECTED_GAIN = 0.05
"""Of the student's step: 5 % in bf16, up to 15 % in float32 on the CPU."""
PAYS_TIMES = 2.0
"""What compiling promises to save, over what it costs: with the figures above, 40 minutes of the student's steps."""
MARGIN = 0.05
ROUNDS = 7
FEWEST_STEPS = 200
"""A run of fewer is not timed: the two steps that takes would be felt."""
GRADIENT_TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "bf16": 1e-1}
"""Largest distance of the compiled gradient from the eager one, as a share of its norm, on a batch of training."""
LOSS_TOLERANCE = 1e-4
"""Largest difference of the loss of compiled from eager training in float32 over the first 50 steps, as a share of it:
sums are taken in another order, and the difference grows with the steps as any rounding does."""
_HINT = "Set training.compile to 'auto' or 'off'."


class CompiledStudent:
    """`network` by torch.compile for training batches of `size` images; whatever else comes is answered eagerly."""

    def __init__(self, network: nn.Module, *, size: int) -> None:
        from torch._functorch import config as functorch  # loads what only compiling needs

        self._network, self._size = network, size
        # The backward pass runs once for each term where shares of the gradient are looked at, on the same graph; a
        # compiled one would give its buffers away in the first. It is asked when compiling and in each backward pass,
        # so that it is set for the process and not for a call.
        functorch.donated_buffer = False
        # Dropout draws what it would draw eagerly, so that the loss curves can be compared.
        # Code kept on disk is not told apart by `donated_buffer`: taken from there, it gave wrong gradients.
        options: dict[str, str | int | bool | Callable[..., object]] = {
            "fallback_random": True,
            "force_disable_caches": True,
        }
        own = function_of_its_own(network)
        self._compiled = torch.compile(own, fullgraph=True, dynamic=False, options=options)

    def __call__(self, images: Tensor) -> Tensor:
        """Logits [B, K]."""
        if len(images) != self._size or not self._network.training or not torch.is_grad_enabled():
            logits: Tensor = self._network(images)
            return logits
        return self._compiled(images)


def why_not(lesson: Lesson, device: torch.device) -> str:
    """Why the student of `lesson` cannot be compiled here; empty when it can."""
    if reason := lesson.never_compiled():
        return reason
    if any(isinstance(module, OnnxNetwork) for module in lesson.network.modules()):
        return "an ONNX graph is not compiled by PyTorch."
    absent = Compiled().absent_on(device)
    return f"{absent}." if absent else ""


def demand(lesson: Lesson, device: torch.device) -> None:
    """Refuse `training.compile: on` where it cannot be.

    Raises:
        InvalidRequest: the method asks the student for more than logits.
        MissingDependency: there is nothing to compile with.
    """
    if reason := lesson.never_compiled():
        raise InvalidRequest(f"The student cannot be compiled: {reason}", hint=_HINT, pointer="/training/compile")
    if reason := why_not(lesson, device):
        raise MissingDependency(
            f"The student cannot be compiled: {reason}",
            hint=f"Install what is missing on the worker, or: {_HINT}",
            pointer="/training/compile",
        )


def choose_student(
    lesson: Lesson, batch: Tensor, *, steps: int, precision: Precision, wanted: Wanted
) -> tuple[str, FormChoice]:
    """Have `lesson` ask its student compiled or eagerly from now on; gives the name to ask for that again, and why.

    `batch` is one of training, [B, C, H, W], on the device, and `steps` those of the run. The lesson is prepared. With
    `auto`, steps of both are timed side by side; the network is left as it was, its gradients, statistics and torch's
    random generators included. `on` compiles in any case that allows it.
    """
    began = time.monotonic()
    lesson.ask_student_by(None)
    eager = FormChoice(role="student", form=f"{EAGER}-{precision}", reason="", batch_size=len(batch))
    reason = "the recipe asks for it (training.compile)." if wanted == "off" else why_not(lesson, batch.device)
    if wanted == "auto" and not reason:
        reason = _not_worth_it(lesson.network, batch, steps=steps, precision=precision)
    if reason:
        return EAGER, eager.model_copy(update={"reason": reason})
    compiled = CompiledStudent(lesson.network, size=len(batch))
    if refused := _refused(lesson.network, compiled, batch, precision=precision):
        tried = (TriedForm(form=COMPILED, refused=refused),)
        return EAGER, eager.model_copy(update={"reason": f"it does not compile: {refused}", "tried": tried})
    if wanted == "on":
        lesson.ask_student_by(compiled)
        update = {"form": f"{COMPILED}-{precision}", "reason": "as asked for (training.compile)."}
        return COMPILED, eager.model_copy(update=update)
    with _untouched(lesson.network):
        choice = _compared(lesson.network, compiled, batch, precision=precision, eager=eager)
    if choice.form != eager.form:
        lesson.ask_student_by(compiled)
    name = EAGER if choice.form == eager.form else COMPILED
    return name, choice.model_copy(update={"trial_seconds": time.monotonic() - began})


def _not_worth_it(network: nn.Module, batch: Tensor, *, steps: int, precision: Precision) -> str:
    """Why a trial does not pay; empty when it does."""
    if batch.device.type != "cpu":
        return "on a GPU the student is compiled where the recipe asks for it (training.compile: on)."
    if steps < FEWEST_STEPS:
        return f"its run of {steps} steps is too short for compiling to pay."
    least = PAYS_TIMES * COMPILE_SECONDS / EXPECTED_GAIN
    with _untouched(network):
        _seconds(network, batch, network=network, precision=precision)
        run = steps * _seconds(network, batch, network=network, precision=precision)
    if run >= least:
        return ""
    return f"its steps take about {run:.0f} s of this run, and compiling pays from {least:.0f} s on."


def _refused(network: nn.Module, compiled: CompiledStudent, batch: Tensor, *, precision: Precision) -> str:
    """Why compiled code is not to be trusted with this network: it fails, or its gradient is another one."""
    try:
        expected, found = (_gradient(ask, batch, network=network, precision=precision) for ask in (network, compiled))
    except Exception as failed:  # a compiler that fails is told, and training goes on without it
        first = next(iter(str(failed).strip().splitlines()), "")
        return f"{type(failed).__name__}: {first}"[:300]
    distance = float((found - expected).norm() / expected.norm().clamp_min(torch.finfo(torch.float32).tiny))
    allowed = GRADIENT_TOLERANCE[precision]
    if distance <= allowed:
        return ""
    return f"its gradient is {distance:.1e} of its norm away from the eager one, and {allowed:g} is allowed."


def _gradient(ask: Callable[[Tensor], Tensor], batch: Tensor, *, network: nn.Module, precision: Precision) -> Tensor:
    """The whole gradient of two backward passes over one graph, as where the terms' shares of it are looked at."""
    with _untouched(network):
        torch.manual_seed(0)
        network.train()
        network.zero_grad(set_to_none=True)
        with autocast(batch.device, precision=precision):
            logits = ask(batch)
        loss = for_loss(logits).square().mean()
        torch.autograd.backward(loss, retain_graph=True)
        torch.autograd.backward(loss)
        return torch.cat([each.grad.flatten() for each in network.parameters() if each.grad is not None]).clone()


def _compared(
    network: nn.Module, compiled: CompiledStudent, batch: Tensor, *, precision: Precision, eager: FormChoice
) -> FormChoice:
    """What steps of both, side by side, say of compiling."""
    tried = TriedForm(form=COMPILED)
    rounds = []
    for number in range(ROUNDS + 1):
        pair = (network, compiled) if number % 2 else (compiled, network)
        seconds = [_seconds(ask, batch, network=network, precision=precision) for ask in pair]
        rounds.append(seconds if number % 2 else seconds[::-1])
    slow, fast = zip(*rounds[1:], strict=True)
    speedup = measured([each / own for each, own in zip(slow, fast, strict=True)])
    rate = measured([len(batch) / each for each in fast])
    tried = tried.model_copy(update={"speedup": speedup, "images_per_second": rate})
    update = {"tried": (tried,), "eager_images_per_second": measured([len(batch) / each for each in slow])}
    told = f"{speedup.median:.2f} times as fast as eager ({speedup.low:.2f} to {speedup.high:.2f})"
    if speedup.median < 1 + MARGIN:
        return eager.model_copy(update={**update, "reason": f"compiled it is only {told}."})
    form = eager.form.replace(EAGER, COMPILED)
    return eager.model_copy(update={**update, "form": form, "reason": f"{told}."})


def _seconds(ask: Callable[[Tensor], Tensor], batch: Tensor, *, network: nn.Module, precision: Precision) -> float:
    """Of a forward and a backward pass in training mode."""
    network.train()
    network.zero_grad(set_to_none=True)
    began = time.perf_counter()
    with autocast(batch.device, precision=precision):
        logits = ask(batch)
    torch.autograd.backward(for_loss(logits).square().mean())
    return time.perf_counter() - began


@contextmanager
def _untouched(network: nn.Module) -> Iterator[None]:
    """Statistics, gradients, mode and random generators are afterwards what they were before."""
    training, buffers = network.training, [(each, each.detach().clone()) for each in network.buffers()]
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            network.zero_grad(set_to_none=True)
            network.train(training)
            with torch.no_grad():
                for each, before in buffers:
                    each.copy_(before)
