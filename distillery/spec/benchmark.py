"""What to measure when student and teacher are timed against each other."""

from typing import Annotated, Literal

from pydantic import Field

from distillery.spec.frozen import Frozen

RuntimeName = Literal["eager", "onnxruntime"]
RUNTIMES: dict[RuntimeName, tuple[str, str]] = {
    "eager": ("PyTorch as it is.", "The figure that everyone can repeat; the reference for every other runtime."),
    "onnxruntime": ("The exported ONNX network in ONNX Runtime.", "What one deploys on a CPU: mostly fastest there."),
}
"""Of each runtime, what it is and when to use it."""
DeviceName = Literal["auto", "cpu", "cuda"]


class LatencySpec(Frozen):
    """One comparison for each runtime, batch size and device."""

    batch_sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1, max_length=16)] = (1,)
    runtimes: Annotated[tuple[RuntimeName, ...], Field(min_length=1, max_length=8)] = ("eager", "onnxruntime")
    devices: Annotated[tuple[DeviceName, ...], Field(min_length=1, max_length=4)] = ("auto",)
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """CPU threads of each session."""
    rounds: Annotated[int, Field(ge=30, le=10_000)] = 30
    """Interleaved rounds; each holds one block of every contestant in random order."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Draws the order of the blocks and the bootstrap."""
