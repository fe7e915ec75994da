"""What the program of a benchmark is given: the benchmark as resolved, and a fetched file for each of its models."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from distillery.spec import BenchmarkSpec
from distillery.views import ModelFacts


class Planned(BaseModel):
    """One model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    file: Path
    architecture: str = ""
    """Of a file that does not tell its own."""
    facts: ModelFacts | None = None
    """Of one that was brought along."""


class Plan(BaseModel):
    """The models stand in the order of the spec."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    spec: BenchmarkSpec
    models: tuple[Planned, ...]
