"""Where a trained network can run. A new runtime is a file here, its line in `RUNTIMES` and its name in the spec."""

from distillery.errors import UnknownName
from distillery.spec.frozen import nearest
from engine.runtimes.compiled import Compiled
from engine.runtimes.cuda_graph import CudaGraph
from engine.runtimes.eager import Eager, reference
from engine.runtimes.onnx_runtime import OnnxRuntime, OnnxRuntimeInt8
from engine.runtimes.openvino import OpenVino, OpenVinoBfloat16, OpenVinoInt8
from engine.runtimes.session import INPUT, OUTPUT, Form, Forms, Precision, Runtime, Session

__all__ = [
    "INPUT", "OUTPUT", "RUNTIMES", "Eager", "Form", "Forms", "OnnxRuntime", "OnnxRuntimeInt8",
    "Precision", "Runtime", "Session", "find", "reference",
]  # fmt: skip

RUNTIMES: tuple[Runtime, ...] = (
    Eager(), Compiled(), OnnxRuntime(), OnnxRuntimeInt8(), OpenVino(), OpenVinoBfloat16(), OpenVinoInt8(),
    CudaGraph(),
)  # fmt: skip


def find(name: str) -> Runtime:
    """The runtime called `name`.

    Raises:
        UnknownName: there is none.
    """
    for runtime in RUNTIMES:
        if runtime.name == name:
            return runtime
    known = [runtime.name for runtime in RUNTIMES]
    raise UnknownName(f"No runtime is called '{name}'.", hint=nearest(name, known))
