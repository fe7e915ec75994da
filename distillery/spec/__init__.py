"""Job specs: what a user may ask for, with bounds on every number."""

from distillery.spec.job import JobSpec, parse, resolve
from distillery.spec.latency import LatencySpec

__all__ = ["JobSpec", "LatencySpec", "parse", "resolve"]
