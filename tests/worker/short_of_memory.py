"""The real trainer on a device whose memory ends: a training step with more images than it holds raises torch's error.

python tests/worker/short_of_memory.py IMAGES[-once-taught] ARGUMENTS...

With `-once-taught` memory is short from the end of the teacher's training on: something else has taken it meanwhile.
"""

import sys
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

import worker.journal
from worker.journal import Journal
from worker.run import main

number, _, once_taught = sys.argv[1].partition("-")
images = int(number)


class Taught(Journal):
    """Tells when memory begins to be short."""

    def finish(self, run: str, trained: Any) -> None:
        """Remember the network, as the real one does."""
        super().finish(run, trained)
        register_module_forward_pre_hook(refuse)


def refuse(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    if isinstance(module, nn.Conv2d) and torch.is_grad_enabled() and len(inputs[0]) > images:
        raise torch.OutOfMemoryError(f"Tried to allocate room for {len(inputs[0])} images, of which {images} fit.")


if __name__ == "__main__":
    if once_taught and "--resume" not in sys.argv:
        worker.journal.Journal = Taught
    else:
        register_module_forward_pre_hook(refuse)
    sys.exit(main(sys.argv[2:]))
