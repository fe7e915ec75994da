"""Job specs: what a user may ask for, with bounds on every number."""

from distillery.spec.benchmark import LatencySpec
from distillery.spec.job import JobSpec, parse, resolve

__all__ = ["JobSpec", "LatencySpec", "parse", "resolve"]
