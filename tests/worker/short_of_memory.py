"""The real trainer on a device whose memory ends: a training step with more images than it holds raises torch's error.

python tests/worker/short_of_memory.py IMAGES ARGUMENTS...
"""

import sys
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from worker.run import main

images = int(sys.argv[1])


def refuse(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    if isinstance(module, nn.Conv2d) and torch.is_grad_enabled() and len(inputs[0]) > images:
        raise torch.OutOfMemoryError(f"Tried to allocate room for {len(inputs[0])} images, of which {images} fit.")


if __name__ == "__main__":
    register_module_forward_pre_hook(refuse)
    sys.exit(main(sys.argv[2:]))
