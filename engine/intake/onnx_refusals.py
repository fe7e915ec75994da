"""Why an ONNX graph is not run."""

from distillery.errors import HostileFile, UnusableWeights

_WHERE = "/uploads"


def hostile(why: str) -> HostileFile:
    """Reading or running it would do harm."""
    return HostileFile(
        f"The ONNX graph is not run: {why}.",
        hint="Export the network anew, as one file of plain operators.",
        pointer=_WHERE,
    )


def unusable(why: str, *, hint: str) -> UnusableWeights:
    """It is damaged, or made of parts that are not run here."""
    return UnusableWeights(f"The ONNX graph cannot be used: {why}.", hint=hint, pointer=_WHERE)
