"""What to measure when networks are timed against each other."""

from typing import Annotated, Literal

from pydantic import Field

from distillery.spec.frozen import Frozen

RuntimeName = Literal[
    "eager", "compiled", "onnxruntime", "onnxruntime-int8", "openvino", "openvino-bf16", "openvino-int8", "cuda-graph"
]
RUNTIMES: dict[RuntimeName, tuple[str, str]] = {
    "eager": (
        "PyTorch without compilation, channels-last and with batch normalisation folded.",
        "The figure that everyone can repeat, where nothing but PyTorch is wanted.",
    ),
    "compiled": (
        "PyTorch after torch.compile.",
        "Where you serve with PyTorch and can wait a minute at the start.",
    ),
    "onnxruntime": (
        "The exported ONNX network in ONNX Runtime.",
        "What one deploys on a CPU: mostly fastest there at full precision.",
    ),
    "onnxruntime-int8": (
        "The ONNX network with weights and activations of eight bits, calibrated on training images.",
        "On a CPU, where a little accuracy may be given for speed: the table says how much.",
    ),
    "openvino": ("The ONNX network in OpenVINO.", "On a CPU, with the package openvino installed."),
    "openvino-bf16": (
        "The ONNX network in OpenVINO, computing in bfloat16.",
        "On a CPU that has bfloat16 instructions (avx512_bf16 or amx_bf16).",
    ),
    "openvino-int8": (
        "The ONNX network of eight bits in OpenVINO.",
        "Often the fastest there is on a CPU; the table says what it costs in accuracy.",
    ),
    "cuda-graph": (
        "PyTorch with the kernels of a call recorded once and launched as one CUDA graph.",
        "On CUDA with small networks or batches, where launching kernels is what takes the time.",
    ),
}
"""Of each runtime, what it is and when to use it."""
DeviceName = Literal["auto", "cpu", "cuda"]
Scenario = Literal["single_stream", "batch_sweep", "server"]
SCENARIOS: dict[Scenario, str] = {
    "single_stream": "One call after the other: models interleaved, with a control. The comparison itself.",
    "batch_sweep": "Growing batches of each model until memory runs out or throughput falls: the best images/s.",
    "server": "Single images that arrive at random: the highest rate at which p99 keeps to `p99_seconds`.",
}
InputName = Literal["model", "end_to_end"]


class LatencySpec(Frozen):
    """One comparison for each runtime, batch size, device and input; sweeps and servers have no batch size."""

    batch_sizes: Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1, max_length=16)] = (1,)
    runtimes: Annotated[tuple[RuntimeName, ...], Field(min_length=1, max_length=8)] = ("eager", "onnxruntime")
    devices: Annotated[tuple[DeviceName, ...], Field(min_length=1, max_length=4)] = ("auto",)
    scenarios: Annotated[tuple[Scenario, ...], Field(min_length=1, max_length=3)] = ("single_stream",)
    inputs: Annotated[tuple[InputName, ...], Field(min_length=1, max_length=2)] = ("model",)
    """`model` times the network alone, `end_to_end` everything from the encoded bytes of an image on."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """CPU threads of each session."""
    rounds: Annotated[int, Field(ge=30, le=10_000)] = 30
    """Interleaved rounds; each holds one block of every contestant in random order."""
    seconds: Annotated[float, Field(ge=1, le=3600)] = 60.0
    """Time for each comparison, for each pair of sweeps and for each pair of servers.

    Further rounds are held while a comparison is inconclusive and time is left.
    """
    max_accuracy_drop: Annotated[float, Field(ge=0, le=1)] = 0.01
    """A runtime that loses more top-1 accuracy against eager is flagged as degraded; 0.01 is one point."""
    p99_seconds: Annotated[float, Field(gt=0, le=60)] | None = None
    """What the scenario `server` demands of the 99th percentile, of teacher and student alike.

    null is ten times the teacher's median call in that runtime and on that device.
    """
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Draws the order of the blocks, the bootstrap and the arrivals."""

    @property
    def comparisons(self) -> tuple[int, ...]:
        """The batch size of each comparison, where every runtime and device can be had."""
        if "single_stream" not in self.scenarios:
            return ()
        return self.batch_sizes * (len(self.runtimes) * len(self.devices) * len(self.inputs))

    @property
    def scenario_pairs(self) -> int:
        """How many pairs of sweeps and of servers there are; each has `seconds`."""
        asked = sum(scenario != "single_stream" for scenario in self.scenarios)
        return asked * len(self.runtimes) * len(self.devices) * len(self.inputs)
