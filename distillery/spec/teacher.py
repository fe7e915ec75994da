"""Where the teacher comes from: one network, several that are merged, and the assistants between it and the student."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from distillery.spec.frozen import Frozen
from distillery.spec.preprocessing import Preprocessing
from distillery.spec.training import TeacherTraining

ArchitectureName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")]
JobId = Annotated[str, Field(pattern=r"^job_[0-9a-hjkmnp-tv-z]{26}$")]
ModelId = Annotated[str, Field(pattern=r"^mdl_[0-9a-hjkmnp-tv-z]{26}$")]
READ = (".safetensors", ".onnx", ".npz", ".parquet")
"""Endings of the files that can teach."""
BLACK_BOXES = ("onnx", "table")
"""What stands for the architecture of a teacher whose layers and weights nobody can see."""
_SOURCES = ("train", "job", "model", "weights")


class TeacherSpec(Frozen):
    """A network and one source of its weights: `train`, `job`, `model` or `weights`; none for the strategy `online`."""

    architecture: ArchitectureName | Literal[""] = ""
    """A name of the catalogue (`GET /v1/architectures`). Left out, it is that of the `model` or `job`, or the one that
    the metadata of the `weights` tell; of a black box it is `onnx`, of a table of answers `table`."""
    train: TeacherTraining | None = None
    """Train it in this job, on the labels of the same data."""
    job: JobId | None = None
    """The student that an earlier job delivered."""
    model: ModelId | None = None
    """A model that the service keeps."""
    weights: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """A file as the worker sees it: `.safetensors`, `.onnx`, or a table of answers (`.npz`, `.parquet`). Or
    `torchvision:DEFAULT` for torchvision's own weights on disk."""
    preprocessing: Preprocessing | None = None
    """What a black box from a file expects of an image; a kept model brings its own."""
    minimum_accuracy: Annotated[float, Field(ge=0, le=1)] | None = None
    """Refuse to distil from a teacher below this validation accuracy. None asks for twice that of guessing."""

    @property
    def source(self) -> str | None:
        """The name of the field that says where the weights come from."""
        return next((name for name in _SOURCES if getattr(self, name) is not None), None)

    @model_validator(mode="after")
    def _one_source(self) -> "TeacherSpec":
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(
                f"A teacher needs exactly one of 'train', 'job', 'model' or 'weights'; got {' and '.join(given)}. "
                "Leave all but one out."
            )
        if self.weights and not self.weights.endswith(READ) and not self.weights.startswith("torchvision:"):
            raise ValueError(
                "Teacher weights must be a .safetensors or .onnx file, a table of answers (.npz, .parquet) or "
                "'torchvision:<name>'; pickled formats (.pt, .pth, .bin) can run code when they are read, so they are "
                "refused. Convert them with: distillery models convert FILE"
            )
        return self


Members = Annotated[tuple[TeacherSpec, ...], Field(min_length=2, max_length=16)]


class TeacherEnsemble(Frozen):
    """Several teachers whose answers are merged. They may differ in architecture."""

    members: Members
    merge: Literal["mean_logits", "mean_probabilities", "confidence"] = "mean_logits"
    """`mean_logits`: one teacher with the mean of the logits. `mean_probabilities`: with the mean of the softened
    answers. `confidence`: the divergence from each teacher, weighted by how well it knows the label of the sample
    (CA-MKD, arXiv:2201.00007). A hint from features is averaged over the teachers, whatever the merge."""


def _listed(value: Any) -> Any:
    return {"members": value} if isinstance(value, (list, tuple)) else value


def _one_or_several(value: Any) -> str:
    several = isinstance(value, TeacherEnsemble) or (isinstance(value, dict) and {"members", "merge"} & value.keys())
    return "several" if several else "one"


_AnyTeacher = Annotated[
    Annotated[TeacherSpec, Tag("one")] | Annotated[TeacherEnsemble, Tag("several")], Discriminator(_one_or_several)
]
Teacher = Annotated[_AnyTeacher, BeforeValidator(_listed, json_schema_input_type=_AnyTeacher | Members)]
"""One teacher, or several with `merge`; a bare list is short for an ensemble with the mean of the logits."""


class AssistantSpec(Frozen):
    """A network between teacher and student: distilled from the one before it, teacher of the one after it."""

    architecture: ArchitectureName
    train: TeacherTraining | None = None
    """Its recipe where it differs from `training`."""
