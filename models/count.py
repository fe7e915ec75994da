"""Parameters and multiply-adds of a network."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(network: nn.Module) -> int:
    """Trainable and frozen parameters together; buffers such as batch-norm statistics are not counted."""
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds(network: nn.Module, *, channels: int, image_size: int) -> int:
    """Multiply-adds of one image [1, channels, image_size, image_size] in evaluation mode.

    Counted are convolutions and matrix products, those inside attention too; biases, normalisation, activations and
    pooling are not, as is usual. Nothing is computed: the count runs on PyTorch's meta device.
    """
    shapes = copy.deepcopy(network).to("meta").eval()
    image = torch.empty(1, channels, image_size, image_size, device="meta")
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused operation hides the products inside
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            shapes(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
    return int(counter.get_total_flops()) // 2
