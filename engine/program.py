"""The network as a `torch.export` program (.pt2): what PyTorch serves without the code of the network."""

import copy
import io
from pathlib import Path

import torch
from torch import nn

from distillery.errors import InvalidRequest
from engine.checkpoint import written_whole

_MEND = "Leave 'torch-export' out of 'export'."


def export_program(network: nn.Module, path: Path, *, channels: int, image_size: int) -> None:
    """Write `network` to `path` as a program from float32 [batch, C, H, W] to logits [batch, K], any batch size.

    `torch.export.load(path).module()` runs it. The file tells nothing about the machine that wrote it. `network` is
    left as it is.

    Raises:
        InvalidRequest: torch.export cannot trace the network.
        StorageFull: no space is left for the file.
    """
    own = copy.deepcopy(network).to(device="cpu", dtype=torch.float32).to(memory_format=torch.contiguous_format).eval()
    example = torch.zeros(2, channels, image_size, image_size)
    try:
        program = torch.export.export(own, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    except (torch._dynamo.exc.TorchDynamoException, RuntimeError, ValueError) as refused:
        first = next(iter(str(refused).strip().splitlines()), type(refused).__name__)
        raise InvalidRequest(
            f"{type(network).__name__} cannot be exported by torch.export: {first}", hint=_MEND, pointer="/export"
        ) from refused
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # holds the paths of this machine
    content = io.BytesIO()
    torch.export.save(program, content)
    with written_whole(path, expected_bytes=content.tell()) as writer:
        writer.write(content.getvalue())
