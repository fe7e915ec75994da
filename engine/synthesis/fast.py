"""Fast-DFKD: a generator from which a few steps lead to any batch of images, and a pool of those batches.

Fang et al., "Up to 100x Faster Data-Free Knowledge Distillation", AAAI 2022, algorithm 1, with the meta update of
Nichol et al., "On First-Order Meta-Learning Algorithms", 2018 (Reptile), one of the two that it offers. What its text
leaves open is done as in its published code: a mean over batches for the batch-norm statistics, a new inner optimizer
for every batch, and the meta step as one of Adam at `synthesis_steps` times the inner rate.
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from distillery.spec.methods import Fast
from engine.data.cuts import augmented
from engine.data.draws import draws_of
from engine.data.views import Normalisation
from engine.evaluate import evaluating
from engine.synthesis.batch_norm import Moments, blended, distance
from engine.synthesis.canvas import Canvas, Lecture, pixels
from engine.synthesis.losses import disagreement, one_hot
from engine.synthesis.synthesiser import LiveTeacher, Synthesiser, descend, step_along, verdict

_BETAS = (0.5, 0.999)


class FastSynthesiser(Synthesiser):
    """Adds batches to a pool before each epoch; the student's batches are drawn from the pool."""

    pool: Tensor
    """uint8 [N, C, S, S], oldest first."""

    def __init__(self, spec: Fast, *, canvas: Canvas) -> None:
        super().__init__(spec, canvas=canvas, lr=spec.generator_lr * spec.synthesis_steps, betas=_BETAS)
        self._spec = spec
        side = canvas.image_size
        # Not persistent: its size grows, and load_state_dict takes no tensor of another size. It is in the extra state.
        self.register_buffer("pool", torch.empty(0, canvas.channels, side, side, dtype=torch.uint8), persistent=False)
        self._past: list[Tensor] = []

    def lecture(self, plan: Lecture, *, teacher: LiveTeacher, student: nn.Module) -> Iterator[Tensor]:
        """Before the first batch new images are made; then each batch is drawn from the pool and augmented."""
        if plan.start_batch == 0:
            for number in range(self._spec.synthesis_batches):
                self._add(plan, number=number, teacher=teacher, student=student)
        normalise = Normalisation(
            mean=self.canvas.mean,
            std=self.canvas.std,
            device=self.pool.device,
            channels_last=plan.layout == torch.channels_last,
        )
        for index in range(plan.start_batch, plan.batch_count):
            drawn = draws_of("pool", plan.seed, plan.epoch, index)
            # A pool that is smaller than a batch gives every image about as often as the others.
            rows = torch.randperm(max(len(self.pool), plan.batch_size), generator=drawn)[: plan.batch_size]
            images = self.pool.index_select(0, (rows % len(self.pool)).to(self.pool.device))
            yield normalise(augmented(images, augment=plan.augment, generator=drawn))

    def gallery(self, count: int) -> Tensor:
        """The newest images of the pool, which the student saw; none before the first epoch."""
        return self.pool[max(0, len(self.pool) - count) :].clone()

    def get_extra_state(self) -> dict[str, Any]:
        """The meta optimizer, the pool and the mean statistics of earlier batches."""
        return {**super().get_extra_state(), "pool": self.pool, "past": self._past}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`, which stays as it is."""
        super().set_extra_state(state)
        device = self.pool.device
        self.pool = state["pool"].to(device)
        self._past = [each.to(device) for each in state["past"]]

    def _add(self, plan: Lecture, *, number: int, teacher: LiveTeacher, student: nn.Module) -> None:
        """Make one batch, keep it in the pool, and move the generator towards what made it."""
        drawn = draws_of("synthesis", plan.seed, plan.epoch, number)
        count = min(plan.batch_size, self._spec.pool)
        targets = balanced(count, classes=self.canvas.classes, draws=drawn)
        against = student if self._spec.adversarial_weight and plan.epoch >= self._spec.pool_warmup_epochs else None
        tuned = copy.deepcopy(self.generator)
        with evaluating(student), torch.enable_grad():
            images = self._fit(
                tuned,
                self.latents(count, draws=drawn).requires_grad_(),
                targets=targets.to(self.pool.device),
                teacher=teacher,
                against=against,
                meanwhile=plan.meanwhile,
            )
        # Cut before they are joined: a view of more images than are kept would be saved with all of them.
        kept = self.pool[max(0, len(self.pool) + count - self._spec.pool) :]
        self.pool = torch.cat((kept, pixels(images)))
        pairs = zip(self.generator.parameters(), tuned.parameters(), strict=True)
        step_along(self.optimizer, ((meta, meta.detach() - end.detach()) for meta, end in pairs))

    def _fit(
        self,
        tuned: nn.Module,
        latents: Tensor,
        *,
        targets: Tensor,
        teacher: LiveTeacher,
        against: nn.Module | None,
        meanwhile: Callable[[], object],
    ) -> Tensor:
        """The inner loop, which trains `tuned` and `latents`; gives the images of its best step, [B, C, S, S]."""
        spec = self._spec
        groups: list[dict[str, Any]] = [
            {"params": list(tuned.parameters())},
            {"params": [latents], "lr": spec.latent_lr},
        ]
        optimizer = torch.optim.Adam(groups, lr=spec.generator_lr, betas=_BETAS)
        best, least = torch.empty(0), math.inf
        heard: list[Moments] = []
        for _ in range(spec.synthesis_steps):
            images = tuned(latents)
            read = self.canvas.normalised(images)
            answer = verdict(teacher, read, moments=spec.batch_norm_weight > 0)
            loss = spec.one_hot_weight * one_hot(answer.logits, targets)
            loss = loss + spec.batch_norm_weight * distance(answer.moments, past=self._past)
            if against is not None:
                loss = loss + spec.adversarial_weight * disagreement(against(read), answer.logits)
            value = float(loss.detach())
            if not len(best) or value < least:
                best, least = images.detach(), value
            heard = list(answer.moments)
            descend(optimizer, loss)
            meanwhile()
        self._past = blended(heard, past=self._past)
        return best


def balanced(count: int, *, classes: int, draws: torch.Generator) -> Tensor:
    """`count` classes, int64, in any order: each as often as the others, save that the last round is cut at random."""
    rounds = math.ceil(count / classes)
    return torch.randperm(rounds * classes, generator=draws)[:count] % classes
