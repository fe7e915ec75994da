"""Where knowledge comes from: anything that answers a batch."""

import hashlib
from typing import Protocol

import torch
from torch import Tensor, nn

from engine.data.views import Batch
from engine.outputs import Outputs
from engine.precision import memory_format


class Teacher(Protocol):
    """Answers the very view of the samples that the student sees."""

    def knowledge(self, batch: Batch) -> Outputs:
        """What the teacher says about `batch`; nothing in it asks for a gradient."""
        ...


class FrozenTeacher(nn.Module):
    """A live network that nothing can train: evaluation mode, no gradient, batch-norm statistics untouched.

    It takes `network` over: its parameters stop asking for gradients and take the layout that runs fastest. It stays
    in evaluation mode even when a parent, or the network itself, is told to train.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).to(memory_format=memory_format(network))
        self.eval()

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)

    def knowledge(self, batch: Batch) -> Outputs:
        """Logits [B, K] for `batch`, in the precision of the caller's autocast."""
        if self.network.training:  # someone holds the network itself and told it to train
            self.network.eval()
        # Not inference mode: its tensors may not be saved for the student's backward pass.
        with torch.no_grad():
            return Outputs(logits=self.network(batch.images))

    def state_sha256(self) -> str:
        """Hash of every parameter and buffer; equal before and after a run."""
        return state_sha256(self.network)


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
