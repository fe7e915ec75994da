"""From PyTorch's pickled state dicts to safetensors, on the machine of whoever trusts the file.

    python -m engine.convert IN OUT

Nothing in the file runs: torch unpickles tensors and plain containers alone (`weights_only`) and refuses the rest.
Prints one line of JSON: the names of what was left out and the notes, or the error.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distillery.errors import DistilleryError, UnusableWeights
from engine.recognise import renamed
from engine.weights import save_safetensors

NESTED = ("state_dict", "model_state_dict", "model", "net", "ema", "model_ema", "weights")
"""Where training scripts keep the weights within a checkpoint."""
_DEPTH = 4
_SHOWN = 12


def convert(source: Path, target: Path) -> dict[str, Any]:
    """Write the weights of `source` to `target` as safetensors; gives `tensors`, `left_out`, `notes` and `sha256`.

    Raises:
        UnusableWeights: it is missing, holds more than tensors and plain values, or holds no state dict.
    """
    state, where = _state_of(_loaded(source))
    tensors = {str(name): each for name, each in state.items() if isinstance(each, Tensor)}
    left_out = sorted(str(name) for name, each in state.items() if not isinstance(each, Tensor))
    if not tensors:
        raise UnusableWeights(f"{source.name} holds no tensors.", hint=f"It holds {_keys(state)}.")
    names, notes = renamed({name: tuple(each.shape) for name, each in tensors.items()})
    plain = {
        short: tensors[name].to_dense() if tensors[name].is_sparse else tensors[name] for name, short in names.items()
    }
    sha256, size = save_safetensors(plain, target, metadata={"converted_from": source.name[:255]})
    if where:
        notes = (f"The weights were found below '{where}'.", *notes)
    return {
        "tensors": len(plain), "left_out": left_out, "notes": list(notes), "sha256": sha256, "size_bytes": size,
    }  # fmt: skip


def _loaded(source: Path) -> Any:
    if not source.is_file():
        raise UnusableWeights(f"There is no file {source}.", hint="Check the path.")
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # unpicklers raise what they will
        raise UnusableWeights(
            f"{source.name} was not read: {_reason(error)}",
            hint="Save the weights alone where the network was trained: torch.save(network.state_dict(), FILE). "
            "Nothing in this file was run.",
        ) from None


def _reason(error: Exception) -> str:
    """What the file holds that is no tensor, as torch tells it, without its advice to trust the file."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = next((line for line in lines if "GLOBAL" in line or "Unsupported" in line), lines[0] if lines else "")
    return (telling.partition(" was not an allowed global")[0] or type(error).__name__)[:300]


def _state_of(content: Any) -> tuple[Mapping[Any, Any], str]:
    """The first mapping with tensors in it, and the path of keys to it."""
    path: list[str] = []
    for _ in range(_DEPTH):
        if not isinstance(content, Mapping):
            break
        if any(isinstance(each, Tensor) for each in content.values()):
            return content, ".".join(path)
        below = next((name for name in NESTED if isinstance(content.get(name), Mapping)), None)
        if below is None:
            break
        path.append(below)
        content = content[below]
    what = f"a mapping with {_keys(content)}" if isinstance(content, Mapping) else f"a {type(content).__name__}"
    raise UnusableWeights(
        f"No state dict was found: the file holds {what}.",
        hint=f"The weights are looked for at the top, and below {', '.join(NESTED)}.",
    )


def _keys(content: Mapping[Any, Any]) -> str:
    names = [repr(str(name)[:60]) for name in content][:_SHOWN]
    return ", ".join(names) + (", …" if len(content) > _SHOWN else "") or "nothing"


def main(arguments: list[str] | None = None) -> int:
    """Convert one file; 0 when written, 1 with the error."""
    source, target = arguments if arguments is not None else sys.argv[1:3]
    try:
        told = convert(Path(source), Path(target))
    except DistilleryError as error:
        told = {"error": error.code, "detail": error.detail, "hint": error.hint}
    sys.stdout.write(json.dumps(told) + "\n")
    return 1 if "error" in told else 0


if __name__ == "__main__":
    sys.exit(main())
