"""Weights in and out: safetensors files, and torchvision's own weights where they already lie on disk.

No file is ever unpickled unless its bytes have the hash that its publisher gave it, and even then no code in it runs.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distillery.errors import MissingDependency, UnknownName, UnusableWeights
from engine.checkpoint import sha256_of, written_whole

_SHOWN = 5
_TORCHVISION = "torchvision/"
_OTHER_INPUT = ("googlenet", "inception_v3")
"""Their published weights read pixels scaled to [-1, 1]; torchvision hides that in a first layer of its own."""
_TRAINING_ONLY = ("aux1.", "aux2.", "AuxLogits.")
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


def describe(
    *,
    architecture: str,
    classes: Sequence[str],
    image_size: int,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, str]:
    """The metadata of a weights file: all that is needed to use it. Lists are JSON; `image_size` is in pixels."""
    return {
        "architecture": architecture,
        "classes": json.dumps(list(classes), ensure_ascii=False),
        "image_size": str(image_size),
        "channels": str(channels),
        "mean": json.dumps(list(mean)),
        "std": json.dumps(list(std)),
    }


def save_safetensors(
    weights: nn.Module | Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str]
) -> tuple[str, int]:
    """Write a network or a state dict; gives the file's sha256 and size in bytes. Equal weights give equal bytes.

    Raises:
        StorageFull: there is no room; nothing half-written is left.
    """
    state = weights.state_dict() if isinstance(weights, nn.Module) else weights
    # Cloned, because tensors that share memory (tied weights) are refused.
    packed = {name: each.detach().cpu().contiguous().clone() for name, each in state.items()}
    data = _sorted_header(_safetensors().torch.save(packed, metadata=dict(metadata)))
    with written_whole(path, expected_bytes=len(data)) as writer:
        writer.write(data)
    return writer.sha256, writer.size_bytes


def read_metadata(path: Path) -> dict[str, str]:
    """What the file says about itself, from its header alone.

    Raises:
        UnusableWeights: missing, damaged, or not a safetensors file.
    """
    with _opened(path) as file:
        return dict(file.metadata() or {})


def load_safetensors(network: nn.Module, path: Path) -> None:
    """Fill `network` from a file. Either everything fits and is loaded, or the network is left as it was.

    Raises:
        UnusableWeights: missing, damaged, not a safetensors file, or not the weights of this network.
    """
    with _opened(path) as file:
        # Names and shapes stand in the header: nothing foreign is read into memory.
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  # not a dict
        require_fit(network, shapes, source=path.name)
        state = {name: file.get_tensor(name) for name in shapes}
    load_state(network, state, source=path.name)


def load_state(network: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Fill `network` from a state dict that came from `source`, in the network's own number formats.

    Raises:
        UnusableWeights: tensors are missing, unexpected, of another shape, or not finite.
    """
    require_fit(network, {name: tuple(each.shape) for name, each in state.items()}, source=source)
    spoilt = [name for name, each in state.items() if each.is_floating_point() and not bool(each.isfinite().all())]
    if spoilt:
        raise UnusableWeights(
            f"{source} holds values that are not finite, in {_listed(spoilt)}.",
            hint="The training that made it diverged; use an earlier checkpoint of it.",
            pointer="/teacher",
        )
    network.load_state_dict(state, strict=False)  # only the batch counters that _require_fit forgives may be missing


@dataclass(frozen=True)
class TorchvisionWeights:
    """Published weights, and what they expect of an image."""

    state: dict[str, Tensor]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    """The categories, in the order of the outputs."""
    sha256: str
    """Of the file."""


def torchvision_weights(network_name: str, weights_name: str) -> TorchvisionWeights:
    """Weights by name (`DEFAULT`, `IMAGENET1K_V1`, ...) for `torchvision/<network>`, from torch's hub folder on disk.

    Raises:
        UnknownName: torchvision knows no such network or weights.
        UnusableWeights: the file is not on disk, or its bytes are not those that its name promises.
    """
    entry = _torchvision_entry(network_name, weights_name)
    path = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rpartition("/")[2]
    if not path.is_file():
        raise UnusableWeights(
            f"The weights {weights_name} of {network_name} are not on this machine: there is no {path}.",
            hint=f"Nothing is downloaded in a job. Fetch {entry.url} and put it there under that name.",
            pointer="/teacher/weights",
        )
    expected = entry.transforms()
    own_scale = network_name.removeprefix(_TORCHVISION) in _OTHER_INPUT
    return TorchvisionWeights(
        state=published_state(path),
        mean=(0.5,) * 3 if own_scale else tuple(expected.mean),
        std=(0.5,) * 3 if own_scale else tuple(expected.std),
        classes=tuple(entry.meta["categories"]),
        sha256=sha256_of(path),
    )


def published_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file named `<name>-<first digits of its sha256>.pth`, under today's tensor names.

    Raises:
        UnusableWeights: the bytes do not have that hash, or are no state dict.
    """
    promised = re.search(r"-([a-f0-9]{8,64})\.", path.name)
    if promised is None or not sha256_of(path).startswith(promised[1]):
        raise UnusableWeights(
            f"The bytes of {path} do not have the sha256 that its name promises.",
            hint="The download broke off or was altered: delete the file and fetch it again.",
            pointer="/teacher/weights",
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise UnusableWeights(
            f"{path} holds a {type(state).__name__} and not a state dict.", pointer="/teacher/weights"
        )
    return {
        _OLD_DENSENET.sub(r"\1\2.", name): each for name, each in state.items() if not name.startswith(_TRAINING_ONLY)
    }


def _torchvision_entry(network_name: str, weights_name: str) -> Any:
    if not network_name.startswith(_TORCHVISION):
        raise UnusableWeights(
            f"torchvision publishes no weights for {network_name}.",
            hint="Choose an architecture whose name begins with torchvision/, or train the teacher in the job.",
            pointer="/teacher/weights",
        )
    try:
        from torchvision.models import get_model_weights
    except ImportError:
        raise MissingDependency("torchvision is not installed.", hint="pip install torchvision") from None
    try:
        offered = get_model_weights(network_name.removeprefix(_TORCHVISION))
    except ValueError:
        raise UnknownName(f"torchvision has no network {network_name}.", pointer="/teacher/architecture") from None
    if weights_name not in offered.__members__:
        raise UnknownName(
            f"torchvision publishes no weights {weights_name} for {network_name}.",
            hint=f"Known: {', '.join(offered.__members__)}." if len(offered) else "It publishes none for this network.",
            pointer="/teacher/weights",
        )
    return offered[weights_name]


def require_fit(network: nn.Module, shapes: Mapping[str, tuple[int, ...]], *, source: str) -> None:
    """Hold the names and shapes of a file's tensors against those of a network; nothing is loaded.

    Raises:
        UnusableWeights: tensors are missing, unexpected, or of another shape: the first of each are listed.
    """
    wanted = {name: tuple(each.shape) for name, each in network.state_dict().items()}
    # Older files lack the batch counters of batch normalisation; no prediction depends on them.
    missing = [name for name in wanted if name not in shapes and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in shapes if name not in wanted]
    other = [
        f"{name} {list(shapes[name])} instead of {list(wanted[name])}"
        for name in wanted
        if name in shapes and shapes[name] != wanted[name]
    ]
    found = (("missing", missing), ("unexpected", unexpected), ("of another shape", other))
    complaints = [f"{what}: {_listed(names)}" for what, names in found if names]
    if complaints:
        raise UnusableWeights(
            f"{source} does not fit the network. Tensors {'; '.join(complaints)}.",
            hint="Name the architecture, the classes and the channels that these weights were trained with.",
            pointer="/teacher",
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    if not path.is_file():
        raise UnusableWeights(f"There is no weights file {path}.", hint="Check the path.", pointer="/teacher/weights")
    library = _safetensors()
    try:
        with library.safe_open(path, framework="pt") as file:
            yield file
    except library.SafetensorError as error:
        raise UnusableWeights(
            f"{path} is damaged or not a safetensors file: {error}.",
            hint="Save the weights with safetensors; pickled files are refused whatever their name.",
            pointer="/teacher/weights",
        ) from error


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError:
        raise MissingDependency("safetensors is not installed.", hint="pip install safetensors") from None
    return safetensors


def _sorted_header(data: bytes) -> bytes:
    """The same file with its metadata in alphabetical order; the library writes it in another order each time."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text + data[8 + size :]
