"""A benchmark: any networks that the service keeps, timed against each other."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from distillery.errors import InvalidSpec
from distillery.spec.dataset import DatasetSpec
from distillery.spec.frozen import Frozen
from distillery.spec.job import MOST_LABELS, LabelKey, LabelValue, Priority, QueueName
from distillery.spec.latency import LatencySpec
from distillery.spec.problems import field_problems

MOST_MODELS = 16
MOST_COMPARISONS = 1000
"""Each may take its minute, and its rows stand in the result."""
Role = Literal["student", "teacher", "baseline"]


class BenchmarkModel(Frozen):
    """A network of a benchmark: a kept model, or one that a job delivered."""

    model: Annotated[str, Field(pattern=r"^mdl_[0-9a-hjkmnp-tv-z]{26}$")] | None = None
    """The id of a kept model."""
    job: Annotated[str, Field(pattern=r"^job_[0-9a-hjkmnp-tv-z]{26}$")] | None = None
    """The id of a job that succeeded."""
    role: Role = "student"
    """Which of the job's networks."""
    name: Annotated[str, Field(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    """How the result calls it; by default its id, and of a job the role too."""

    @model_validator(mode="after")
    def _one_source(self) -> "BenchmarkModel":
        if (self.model is None) == (self.job is None):
            raise ValueError("Exactly one of 'model' and 'job' is needed. Leave the other out.")
        return self

    @property
    def called(self) -> str:
        """Its name in the result."""
        return self.name or self.model or f"{self.job}/{self.role}"


class BenchmarkSpec(Frozen):
    """Any models, in every runtime, batch size and device of `measure`."""

    name: Annotated[str, Field(min_length=1, max_length=200)] = "benchmark"
    models: Annotated[tuple[BenchmarkModel, ...], Field(min_length=1, max_length=MOST_MODELS)]
    """One alone is held against itself, which shows its times and how quiet the machine is."""
    reference: Annotated[str, Field(max_length=100)] | None = None
    """The name of the model that the others are held against; by default the first."""
    dataset: DatasetSpec | None = None
    """Whose test images are read; by default the data of the job, or of the kept model, that comes first."""
    measure: LatencySpec = LatencySpec()
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=MOST_LABELS)
    """Such as `project: flowers`, to find it again and to draw a Pareto table over a project."""
    queue: QueueName = "default"
    priority: Priority = 50
    """Among the jobs that wait in the queue; higher is claimed first."""

    @model_validator(mode="after")
    def _consistent(self) -> "BenchmarkSpec":
        if found := list(_faults(self)):
            raise ValidationError.from_exception_data("BenchmarkSpec", found)
        return self

    @property
    def held_against(self) -> str:
        """The name of the reference."""
        return self.reference or self.models[0].called


def parse_benchmark(sent: Any) -> BenchmarkSpec:
    """Validate a raw benchmark.

    Raises:
        InvalidSpec: with one problem, pointer and hint for each bad field.
    """
    try:
        return BenchmarkSpec.model_validate(sent)
    except ValidationError as error:
        raise InvalidSpec(field_problems(error, sent)) from None


def _faults(spec: BenchmarkSpec) -> Iterator[InitErrorDetails]:
    names = [each.called for each in spec.models]
    for place, name in enumerate(names):
        if name in names[:place]:
            detail = f"Model {names.index(name)} is called '{name}' too."
            yield _fault(("models", place), "same_name", detail, "Give one of them another 'name'.")
    if spec.reference is not None and spec.reference not in names:
        detail, hint = f"No model is called '{spec.reference}'.", f"There are: {', '.join(names)}."
        yield _fault(("reference",), "unknown_reference", detail, hint)
    asked = spec.measure
    cells = len(set(asked.runtimes)) * len(set(asked.devices)) * len(set(asked.batch_sizes))
    comparisons = cells * max(1, len(spec.models) - 1)
    if comparisons > MOST_COMPARISONS:
        detail = f"That would be {comparisons:,} comparisons; {MOST_COMPARISONS:,} are the most."
        yield _fault(("measure",), "too_many_comparisons", detail, "Ask for fewer runtimes, batch sizes or models.")


def _fault(place: tuple[str | int, ...], code: str, detail: str, hint: str) -> InitErrorDetails:
    # The words go in as context: a brace in a user's text must not be read as a place to fill.
    return InitErrorDetails(
        type=PydanticCustomError(code, "{detail}", {"detail": detail, "hint": hint}), loc=place, input=None
    )
