"""Reading named layers of any network while it answers, as maps of one form whatever the kind of network.

Hooks stay on a network only as long as it is asked, so that nothing of a tap is ever copied, exported or saved.
"""

import difflib
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from distillery.errors import InvalidRequest
from engine.outputs import Outputs

EMBEDDING = "embedding"
"""The name of the vector that a network's last linear layer reads."""
_SHOWN = 12


def tapped(network: nn.Module, images: Tensor, layers: Sequence[str]) -> Outputs:
    """The network's answers to `images` [B, C, H, W], with the output of each of `layers` as a map [B, C, H, W].

    Raises:
        InvalidRequest: there is no such layer, or it gives nothing that can be read as a map.
    """
    return heard(network, layers, ask=lambda: network(images))


def heard(network: nn.Module, layers: Sequence[str], *, ask: Callable[[], Tensor]) -> Outputs:
    """The same, while `ask` asks the network and gives its logits [B, K].

    Raises:
        InvalidRequest: there is no such layer, or it gives nothing that can be read as a map.
    """
    found: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for layer in layers:
            _listen(network, layer, found, hooks)
        logits = ask()
    silent = [layer for layer in layers if layer not in found]
    if silent:
        raise InvalidRequest(f"The layer '{silent[0]}' is never used when the network answers.", hint="Name another.")
    return Outputs(logits=logits, features={layer: as_map(found[layer], layer=layer) for layer in layers})


def _listen(network: nn.Module, layer: str, found: dict[str, Tensor], hooks: ExitStack) -> None:
    def before(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        found[layer] = inputs[0]

    def after(_module: nn.Module, _inputs: Any, result: Any) -> None:
        found[layer] = result

    if layer == EMBEDDING:
        handle = classifier(network).register_forward_pre_hook(before)
    else:
        handle = _layer(network, layer).register_forward_hook(after)
    hooks.callback(handle.remove)


def classifier(network: nn.Module) -> nn.Module:
    """The last linear layer of a network, or its last convolution where it has none.

    Raises:
        InvalidRequest: it has neither.
    """
    for kind in (nn.Linear, nn.Conv2d):
        if found := [module for module in network.modules() if isinstance(module, kind)]:
            return found[-1]
    raise InvalidRequest("The network has no classifier whose input could be read.", hint="Name a layer instead.")


def _layer(network: nn.Module, layer: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(network.named_modules())
    if layer in modules and layer:
        return modules[layer]
    names = [name for name in modules if name]
    close = difflib.get_close_matches(layer, names, n=3, cutoff=0.5)
    top = [EMBEDDING, *(name for name in names if name.count(".") <= 1)][:_SHOWN]
    more = len(names) + 1 - len(top)
    hint = f"Did you mean {' or '.join(close)}? " if close else ""
    shown = ", ".join(top) + (f" and {more} more" if more else "")
    raise InvalidRequest(f"There is no layer '{layer}'.", hint=f"{hint}There are {shown}.")


def as_map(value: Any, *, layer: str) -> Tensor:
    """What a layer gave, as a map [B, C, H, W].

    Vectors [B, C] become maps of one pixel. Of tokens [B, L, D] a class token in front is left out and the rest is laid
    on its square. Maps with the channels last, as a Swin transformer's, are turned; images are square, which tells.

    Raises:
        InvalidRequest: it is none of these.
    """
    if isinstance(value, Tensor):
        if value.ndim == 2:
            return value[:, :, None, None]
        if value.ndim == 4:
            turned = value.shape[1] == value.shape[2] != value.shape[3]
            return value.permute(0, 3, 1, 2) if turned else value
        if value.ndim == 3 and (side := _side(value.shape[1])):
            grid = value[:, value.shape[1] - side**2 :]
            return grid.transpose(1, 2).reshape(value.shape[0], value.shape[2], side, side)
    what = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise InvalidRequest(f"The layer '{layer}' gives {what}, which is no map.", hint="Name another layer.")


def _side(tokens: int) -> int:
    """Side of the square that the tokens fill, with or without one class token; 0 when there is none."""
    for count in (tokens, tokens - 1):
        side = math.isqrt(count)
        if side and side**2 == count:
            return side
    return 0
