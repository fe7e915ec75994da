"""Valid model files with a few bytes changed, cut out or doubled, the same ones for the same seed."""

import io
import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.hostile.make_model_corpus import graph, node, tensor

_LARGE = (0, 1, 127, 128, 255)


def originals() -> dict[str, bytes]:
    """A small valid file of each kind."""
    tensors = {"a.weight": tensor([2, 3], 0, 24), "a.bias": tensor([2], 24, 32)}
    header = json.dumps({"__metadata__": {"architecture": "resnet8"}, **tensors}).encode()
    table = io.BytesIO()
    np.savez(table, ids=np.arange(6), logits=np.arange(18, dtype=np.float32).reshape(6, 3))
    nodes = [node("Relu", ["x"], ["a"]), node("Concat", ["a", "x"], ["b"], axis=1), node("Softmax", ["b"], ["y"])]
    return {
        ".safetensors": struct.pack("<Q", len(header)) + header + bytes(32),
        ".onnx": graph(nodes),
        ".npz": table.getvalue(),
    }


def mutations(count: int, *, seed: int) -> Iterator[tuple[str, bytes]]:
    """`count` files: the ending, and the bytes."""
    chance = random.Random(seed)
    kinds = list(originals().items())
    for at in range(count):
        ending, content = kinds[at % len(kinds)]
        yield ending, _mutated(bytearray(content), chance)


def _mutated(content: bytearray, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 4)):
        at, deed = chance.randrange(len(content)), chance.randrange(5)
        if deed == 0:
            content[at] ^= 1 << chance.randrange(8)
        elif deed == 1:
            content[at] = chance.choice(_LARGE)
        elif deed == 2:
            del content[at : at + chance.randint(1, 16)]
        elif deed == 3:
            content[at:at] = content[at : at + chance.randint(1, 16)]
        else:
            content[at:at] = chance.randbytes(chance.randint(1, 8))
        if not content:
            break
    return bytes(content)


def write(folder: Path, count: int, *, seed: int) -> list[Path]:
    """Write them; gives the paths."""
    paths = []
    for at, (ending, content) in enumerate(mutations(count, seed=seed)):
        path = folder / f"{at:03d}{ending}"
        path.write_bytes(content)
        paths.append(path)
    return paths
