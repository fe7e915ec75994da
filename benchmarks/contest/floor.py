"""The measured convolution rate of this machine: what a training that did nothing but its convolutions would reach.

Forward passes of one 3x3 convolution with as many channels in as out, in whichever layout is faster. A turn counts
floating-point operations, two for each multiply-add.
"""

import time

import torch
from torch import nn

from benchmarks.contest.gate import Gate
from benchmarks.contest.task import Task
from engine.precision import autocast

CHANNELS, SIDE = 128, 16
_GPU_BATCH = 1024
"""A smaller one would measure how fast Python launches kernels."""
_TRIED = 3


def run(task: Task, gate: Gate) -> None:
    """Convolve for as long as anyone asks."""
    device, precision = torch.device(task.device), task.contender.partition(": ")[2]
    if precision not in ("fp32", "bf16"):
        raise SystemExit(f"'{task.contender}' is no floor: it is that of fp32 or of bf16.")
    network = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False).to(device)
    batch = max(task.batch_size, _GPU_BATCH) if device.type == "cuda" else task.batch_size
    maps = torch.randn(batch, CHANNELS, SIDE, SIDE, device=device)
    operations = 2 * CHANNELS * CHANNELS * 9 * SIDE * SIDE * batch
    with torch.inference_mode(), autocast(device, precision=precision):
        if precision == "bf16":
            network, maps = network.bfloat16(), maps.bfloat16()
        layout = min((torch.contiguous_format, torch.channels_last), key=lambda each: _seconds(network, maps, each))
        network, maps = network.to(memory_format=layout), maps.contiguous(memory_format=layout)
        gate.ready(precision=precision, torch=torch.__version__)
        while True:
            network(maps)
            gate.step(operations)


def _seconds(network: nn.Module, maps: torch.Tensor, layout: torch.memory_format) -> float:
    """Of the fastest of a few calls."""
    network, maps = network.to(memory_format=layout), maps.contiguous(memory_format=layout)
    times = []
    for _ in range(1 + _TRIED):
        began = time.perf_counter()
        network(maps).sum().item()
        times.append(time.perf_counter() - began)
    return min(times[1:])
