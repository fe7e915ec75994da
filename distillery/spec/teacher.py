"""Where the teacher comes from."""

from typing import Annotated

from pydantic import Field, model_validator

from distillery.spec.frozen import Frozen
from distillery.spec.training import TeacherTraining

ArchitectureName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]
JobId = Annotated[str, Field(pattern=r"^job_[0-9a-hjkmnp-tv-z]{26}$")]
ModelId = Annotated[str, Field(pattern=r"^mdl_[0-9a-hjkmnp-tv-z]{26}$")]
_SOURCES = ("train", "job", "model", "weights")


class TeacherSpec(Frozen):
    """A network and exactly one source of its weights: `train`, `job`, `model` or `weights`."""

    architecture: ArchitectureName
    """A name of the catalogue (`GET /v1/architectures`)."""
    train: TeacherTraining | None = None
    """Train it in this job, on the labels of the same data."""
    job: JobId | None = None
    """The student that an earlier job delivered."""
    model: ModelId | None = None
    """A model that the service keeps."""
    weights: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """A `.safetensors` file as the worker sees it, or `torchvision:DEFAULT` for torchvision's own weights on disk."""
    minimum_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    """Refuse to distil from a teacher below this validation accuracy. None asks for twice that of guessing."""

    @model_validator(mode="after")
    def _one_source(self) -> "TeacherSpec":
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            found = f"got {' and '.join(given)}" if given else "got none"
            mend = "Leave all but one out." if given else "Add 'train: {epochs: 20}', for one, to train it in this job."
            raise ValueError(f"A teacher needs exactly one of 'train', 'job', 'model' or 'weights'; {found}. {mend}")
        if self.weights and not self.weights.endswith(".safetensors") and not self.weights.startswith("torchvision:"):
            raise ValueError(
                "Teacher weights must be a .safetensors file or 'torchvision:<name>'; pickled formats "
                "(.pt, .pth, .bin) can run code when they are read, so they are refused. Convert them first."
            )
        return self
