"""DAFL: a generator that learns at every step what excites the teacher, while the student learns from its images.

Chen et al., "Data-Free Learning of Student Networks", ICCV 2019, algorithm 1.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from distillery.spec.methods import Dafl
from engine.data.draws import draws_of
from engine.synthesis.batch_norm import distance
from engine.synthesis.canvas import Canvas, Lecture, pixels
from engine.synthesis.losses import activation, information_entropy, one_hot
from engine.synthesis.synthesiser import LiveTeacher, Synthesiser, Verdict, descend, verdict

_BETAS = (0.9, 0.999)
_GALLERY_DRAWN = 64
"""Images that are drawn at least: batch normalisation makes each of them depend on the others."""


class DaflSynthesiser(Synthesiser):
    """Trains its generator once for each batch. The student sees the very images that the generator was trained on."""

    def __init__(self, spec: Dafl, *, canvas: Canvas) -> None:
        super().__init__(spec, canvas=canvas, lr=spec.generator_lr, betas=_BETAS)
        self._spec = spec

    def lecture(self, plan: Lecture, *, teacher: LiveTeacher, student: nn.Module) -> Iterator[Tensor]:
        """A new batch at every step, as the generator makes it: neither rounded to pixels nor augmented."""
        for index in range(plan.start_batch, plan.batch_count):
            latents = self.latents(plan.batch_size, draws=draws_of("dafl", plan.seed, plan.epoch, index))
            yield self._learned_from(latents, teacher=teacher).contiguous(memory_format=plan.layout)

    def gallery(self, count: int) -> Tensor:
        """What the generator makes now of latents that never change."""
        latents = self.latents(max(count, _GALLERY_DRAWN), draws=draws_of("gallery"))
        with torch.no_grad():
            return pixels(self.generator(latents))[:count]

    def _learned_from(self, latents: Tensor, *, teacher: LiveTeacher) -> Tensor:
        """One step of the generator; gives the images of before that step, without a way back."""
        with torch.enable_grad():
            images = self.canvas.normalised(self.generator(latents))
            answer = verdict(
                teacher,
                images,
                embeddings=self._spec.activation_weight > 0,
                moments=self._spec.batch_norm_weight > 0,
            )
            descend(self.optimizer, self._loss(answer))
        return images.detach()

    def _loss(self, answer: Verdict) -> Tensor:
        spec = self._spec
        loss = spec.one_hot_weight * one_hot(answer.logits)
        loss = loss + spec.information_entropy_weight * information_entropy(answer.logits)
        if answer.embeddings:
            loss = loss + spec.activation_weight * activation(answer.embeddings)
        return loss + spec.batch_norm_weight * distance(answer.moments)
