"""What made-up images should be like, each as a pure function of what networks say about them: less is better."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from engine.precision import for_loss


def one_hot(logits: Tensor, targets: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of logits [B, K] with `targets`, int64 [B], or with the likeliest class: be sure of something.

    The one-hot loss of Chen et al., ICCV 2019; with targets drawn beforehand, that of Fang et al., AAAI 2022.
    """
    return functional.cross_entropy(for_loss(logits), logits.argmax(dim=1) if targets is None else targets)


def information_entropy(logits: Tensor) -> Tensor:
    """Σ_k p̄_k ln p̄_k in nats, p̄ the mean answer softmax(z) over the batch; from -ln K, all classes equally often, to 0.

    The information entropy loss of Chen et al., ICCV 2019. Its published code takes the decadic logarithm,
    which is 2.3 times smaller.
    """
    logs = functional.log_softmax(for_loss(logits), dim=1)
    # The logarithm of the mean without ever forming a mean of 0, whose logarithm has no gradient.
    mean = torch.logsumexp(logs, dim=0) - math.log(len(logits))
    return (mean.exp() * mean).sum()


def activation(embeddings: Sequence[Tensor]) -> Tensor:
    """-mean |embedding|, over all elements of each and then over networks: images that mean something excite.

    The activation loss of Chen et al., ICCV 2019, divided by the number of elements as in its code.
    """
    return -torch.stack([for_loss(each).abs().mean() for each in embeddings]).mean()


def disagreement(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """-(1/B) Σ KL(teacher‖student) over the images for which both name the same class; scalar, never above 0.

    Where they name different ones already, the student has something to learn and the image should stay what it is.
    The adversarial loss of Fang et al., AAAI 2022, with the KL of its code.
    """
    student = functional.log_softmax(for_loss(student_logits), dim=1)
    teacher = functional.log_softmax(for_loss(teacher_logits), dim=1)
    divergence = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    agree = student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)
    return -(divergence * agree).mean()
