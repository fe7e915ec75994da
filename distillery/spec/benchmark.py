"""A benchmark: any networks that the service keeps, timed against each other."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distillery.spec.dataset import DatasetSpec
from distillery.spec.frozen import Frozen
from distillery.spec.job import MOST_LABELS, LabelKey, LabelValue, QueueName
from distillery.spec.latency import LatencySpec


class BenchmarkModel(Frozen):
    """A network of a benchmark: a kept model, or one that a job delivered."""

    model: Annotated[str, Field(max_length=40)] | None = None
    """The id of a kept model, `mdl_...`."""
    job: Annotated[str, Field(max_length=40)] | None = None
    """The id of a job that succeeded, `job_...`."""
    role: Literal["student", "teacher", "baseline"] = "student"
    """Which of the job's networks."""
    name: Annotated[str, Field(max_length=100, pattern=r"^[^\x00-\x1f]*$")] = ""
    """How the result calls it; by default its id, and of a job the role too."""

    @model_validator(mode="after")
    def _one_source(self) -> "BenchmarkModel":
        if (self.model is None) == (self.job is None):
            raise ValueError("Name either a 'model' or a 'job'.")
        return self

    @property
    def called(self) -> str:
        """Its name in the result."""
        return self.name or self.model or f"{self.job}/{self.role}"


class BenchmarkSpec(Frozen):
    """Any models, in every runtime, batch size and device of `measure`."""

    name: Annotated[str, Field(max_length=200)] = ""
    models: Annotated[tuple[BenchmarkModel, ...], Field(min_length=1, max_length=8)]
    reference: str | None = None
    """The name of the model that the others are held against; by default the last."""
    dataset: DatasetSpec | None = None
    """Whose test images are read; by default the data of the job, or of the kept model, that comes first."""
    measure: LatencySpec = LatencySpec()
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=MOST_LABELS)
    queue: QueueName = "default"

    @model_validator(mode="after")
    def _names_differ(self) -> "BenchmarkSpec":
        names = [each.called for each in self.models]
        if len(set(names)) < len(names):
            raise ValueError("Two models have the same name: give one of them another 'name'.")
        if self.reference is not None and self.reference not in names:
            raise ValueError(f"No model is called '{self.reference}'; there are: {', '.join(names)}.")
        return self
