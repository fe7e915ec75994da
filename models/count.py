"""How large a network is and how much it computes: the figures of the catalogue and of every report."""

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

_NORMS = (torch.ops.aten.native_batch_norm, torch.ops.aten.native_layer_norm)


def parameters(network: nn.Module) -> int:
    """Number of parameters, frozen ones included, shared ones once. Batch-norm statistics are not parameters."""
    return sum(each.numel() for each in network.parameters())


def multiply_adds(network: nn.Module, *, channels: int, image_size: int) -> int:
    """Multiply-adds of one image [1, channels, image_size, image_size] in evaluation mode.

    Counted are convolutions, linear layers and every other matrix product, so that attention counts with its QK and AV
    products as well, at the padded size where a network pads. Biases, norms, activations, pooling and the softmax are
    not counted. torchvision's published figures follow the same rule. Nothing is computed: the network runs once with
    empty tensors, on whatever device it is.
    """
    training = [module for module in network.modules() if module.training]
    network.eval()
    products = _Products()
    try:
        # Tensors made in inference mode would hide the products inside a linear layer.
        with torch.inference_mode(False), torch.no_grad():
            held = chain(network.named_parameters(), network.named_buffers())
            shapes = {name: _empty(each) for name, each in held}
            image = torch.empty(1, channels, image_size, image_size, device="meta")
            with products:
                functional_call(network, shapes, (image,))
    finally:
        for module in training:
            module.training = True
    return products.flops // 2  # an addition and a multiplication each


def _empty(tensor: Tensor) -> Tensor:
    """Its shape, without data; in full precision, so that a network in bf16 takes the same image."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return torch.empty(tensor.shape, dtype=dtype, device="meta")


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves its hooks unannotated
    """Adds up the floating-point operations of every matrix product and convolution that runs inside it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        from torch.utils.flop_counter import flop_registry  # it loads all of Triton, and few networks are counted

        self.flops = 0
        self._formulas = flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in _NORMS:
            return _unchanged(args[0])
        result = func(*args, **(kwargs or {}))
        formula = self._formulas.get(func.overloadpacket)
        if formula is not None:
            self.flops += int(formula(*args, **(kwargs or {}), out_val=result))
        return result


def _unchanged(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What a norm would give: the shape it got, and mean and deviation, which nobody reads.

    Without data PyTorch would take it apart in Python, which is most of the time that a count takes.
    """
    nothing = maps.new_empty(0)
    return maps.new_empty(maps.shape), nothing, nothing
