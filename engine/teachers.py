"""Where knowledge comes from: anything that answers a batch."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.data.views import Batch
from engine.evaluate import BatchNetwork, answer
from engine.outputs import Merge, Outputs
from engine.precision import Precision, for_loss, memory_format
from engine.taps import heard


class Teacher(Protocol):
    """Answers the very view of the samples that the student sees."""

    def knowledge(self, batch: Batch) -> Outputs:
        """What the teacher says about `batch`; nothing in it asks for a gradient."""
        ...


@dataclass(frozen=True, eq=False)
class Form:
    """A frozen network's weights made ready to answer faster than the network itself: see `engine.teacher_forms`."""

    name: str
    precision: str
    """`fp32`, `bf16` or `int8`; empty where it follows the caller's autocast."""
    logits: Callable[[Tensor], Tensor]
    """Answers [B, K] to images float32 [B, C, H, W] in any layout."""


class FrozenTeacher(nn.Module):
    """A live network that nothing can train: evaluation mode, no gradient, batch-norm statistics untouched.

    It takes `network` over: its parameters stop asking for gradients and take the layout that runs fastest. It stays
    in evaluation mode even when a parent, or the network itself, is told to train. `layers` are read along.
    """

    def __init__(self, network: nn.Module, *, layers: Sequence[str] = ()) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).to(memory_format=memory_format(network))
        self._layers = tuple(layers)
        self._form: Form | None = None
        self.eval()

    @property
    def layers(self) -> tuple[str, ...]:
        """What is read besides the logits."""
        return self._layers

    @property
    def frozen(self) -> "FrozenTeacher":
        """Itself: whoever wraps it tells it by this name."""
        return self

    @property
    def form(self) -> str:
        """How it answers under the caller's autocast: `eager-fp32`, `eager-bf16`, or such as `onnxruntime-fp32`."""
        device = next(self.network.parameters(), torch.empty(0)).device.type
        return self.form_in("bf16" if torch.is_autocast_enabled(device) else "fp32")

    def form_in(self, precision: Precision) -> str:
        """The same in a run of that precision."""
        if self._form is None:
            return f"eager-{precision}"
        return f"{self._form.name}-{self._form.precision or precision}"

    def answer_in(self, form: Form | None) -> None:
        """From now on answer in that form; None is the network itself. The network, and its hash, stay as they are.

        Raises:
            ValueError: layers are read of this teacher, which only the network itself can show.
        """
        if form is not None and self._layers:
            raise ValueError(f"The layers {', '.join(self._layers)} are read of the network itself.")
        self._form = form

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)

    def knowledge(self, batch: Batch) -> Outputs:
        """Logits [B, K] and maps of the layers for `batch`, in the precision of its form or the caller's autocast."""
        if self._form is not None:
            return Outputs(logits=self._form.logits(batch.images))
        if self.network.training:  # someone holds the network itself and told it to train
            self.network.eval()
        # Not inference mode: its tensors may not be saved for the student's backward pass.
        with torch.no_grad():
            return heard(self.network, self.layers, ask=lambda: answer(self.network, batch))

    def state_sha256(self) -> str:
        """Hash of every parameter and buffer; equal before and after a run."""
        return state_sha256(self.network)


def members_of(teacher: object) -> tuple[Any, ...]:
    """The members of an ensemble; any other teacher alone; none where there is no teacher."""
    if isinstance(teacher, EnsembleTeacher):
        return tuple(teacher.members)
    return () if teacher is None else (teacher,)


def frozen_members(teacher: object) -> tuple[FrozenTeacher, ...]:
    """The frozen networks that answer as `teacher`, also behind a memory; none of anything else."""
    found = (getattr(each, "frozen", None) for each in members_of(teacher))
    return tuple(each for each in found if isinstance(each, FrozenTeacher))


class EnsembleTeacher(nn.Module):
    """Several frozen teachers that answer together; each is a module with `knowledge`."""

    def __init__(self, members: Sequence[nn.Module], *, merge: Merge) -> None:
        super().__init__()
        self.members: Any = nn.ModuleList(members)
        self._merge = merge

    def knowledge(self, batch: Batch) -> Outputs:
        """What each member says, and the merged logits [B, K] in float32."""
        members = tuple(member.knowledge(batch) for member in self.members)
        each = torch.stack([for_loss(member.logits) for member in members])
        if self._merge == "mean_logits":
            return Outputs(logits=each.mean(dim=0), members=members)
        shares = each.new_full(each.shape[:2], 1 / len(members))
        if self._merge == "confidence":
            shares = confidence(each, batch.labels)
        return Outputs(logits=mixed_logits(each, shares), members=members, merge=self._merge, shares=shares)


class Ensemble(BatchNetwork):
    """Several networks as one: images [B, C, H, W], or the ids of tables, to merged logits [B, K].

    Without labels there is no confidence, so that all merges but `mean_logits` give the logarithm of the mean
    probabilities.
    """

    def __init__(self, members: Sequence[nn.Module], *, merge: Merge) -> None:
        super().__init__()
        self.members: Any = nn.ModuleList(members)
        self._merge = merge

    def forward(self, images: Tensor) -> Tensor:
        """Merged logits [B, K]. A table has nothing to say of images alone."""
        return self._merged(torch.stack([member(images) for member in self.members]))

    def answer(self, batch: Batch) -> Tensor:
        """Merged logits [B, K]."""
        return self._merged(torch.stack([answer(member, batch) for member in self.members]))

    def _merged(self, each: Tensor) -> Tensor:
        if self._merge == "mean_logits":
            return each.mean(dim=0)
        return mixed_logits(each, each.new_full(each.shape[:2], 1 / len(self.members)))


def mixed_logits(each: Tensor, shares: Tensor) -> Tensor:
    """log Σ_m s_m softmax(z_m): [B, K] from logits [M, B, K] and shares [M, B] that add up to 1 over M."""
    return torch.logsumexp(functional.log_softmax(each, dim=2) + shares.log().unsqueeze(2), dim=0)


def confidence(each: Tensor, labels: Tensor) -> Tensor:
    """What each of M teachers counts for each sample: (1 - softmax_m(CE_m)) / (M - 1), [M, B]; adds up to 1 over M.

    Zhang et al., Confidence-Aware Multi-Teacher Knowledge Distillation, ICASSP 2022, equation 3. `each` [M, B, K].
    """
    count, batch = each.shape[:2]
    losses = functional.cross_entropy(each.flatten(0, 1), labels.repeat(count), reduction="none").view(count, batch)
    return (1 - losses.softmax(dim=0)) / (count - 1)


def state_sha256(network: nn.Module) -> str:
    """Hash of the names, types, shapes and bytes of every parameter and buffer, whatever their layout and device."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
