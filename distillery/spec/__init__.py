"""Job specs: what a user may ask for, with bounds on every number."""

from distillery.spec.benchmark import BenchmarkSpec, parse_benchmark
from distillery.spec.job import JobSpec, parse, resolve
from distillery.spec.latency import LatencySpec

__all__ = ["BenchmarkSpec", "JobSpec", "LatencySpec", "parse", "parse_benchmark", "resolve"]
