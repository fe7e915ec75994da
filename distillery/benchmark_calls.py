"""One value for each request about benchmarks, for either client."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from distillery import answers
from distillery.benchmarks import BenchmarkComparison
from distillery.calls import Call, as_json, fresh_key, page_parameters, segment
from distillery.pareto import Axis, Pareto
from distillery.spec import BenchmarkSpec
from distillery.views import Artifact, Benchmark, BenchmarkSummary, Page

_ALL = "/v1/benchmarks"


class BenchmarkFilters(TypedDict, total=False):
    """Which benchmarks a list shows; what is left out does not narrow it."""

    status: str
    label: str
    """`key` or `key=value`."""


class ParetoChoice(TypedDict, total=False):
    """Which points a Pareto table holds; what is left out does not narrow it."""

    against: Sequence[Axis]
    batch_size: int
    """Images at once; 1 where it is left out."""
    runtime: str
    device: str
    fingerprint: str
    """Of the environment; its first characters do."""


def request(spec: BenchmarkSpec | Mapping[str, Any]) -> Call[Benchmark]:
    """Ask for a benchmark: one, however often this is sent."""
    headers = {"Content-Type": "application/json"} | fresh_key()
    return Call("POST", _ALL, answers.reader(Benchmark), body=as_json(spec), headers=headers)


def one(benchmark_id: str, *, wait_seconds: int = 0) -> Call[Benchmark]:
    """Read a benchmark; with `wait_seconds` the answer is held until its status changes."""
    params = {"wait": str(wait_seconds)} if wait_seconds else {}
    return Call("GET", _of(benchmark_id), answers.reader(Benchmark), params, held_seconds=wait_seconds)


def page(filters: BenchmarkFilters, *, page_size: int, token: str | None) -> Call[Page[BenchmarkSummary]]:
    """Read one page of them, newest first."""
    given = page_parameters(page_size, token) | {name: str(value) for name, value in filters.items() if value}
    return Call("GET", _ALL, answers.reader(Page[BenchmarkSummary]), given)


def result(benchmark_id: str, *, media_type: str) -> Call[bytes]:
    """Read what a benchmark found: `application/json`, `text/csv` or `text/html`."""
    return Call("GET", f"{_of(benchmark_id)}/result", answers.content, headers={"Accept": media_type})


def artifacts(benchmark_id: str) -> Call[tuple[Artifact, ...]]:
    """Read the list of its files."""
    return Call("GET", f"{_of(benchmark_id)}/artifacts", answers.rows(Artifact))


def artifact(benchmark_id: str, name: str) -> Call[bytes]:
    """Read one of its files."""
    return Call("GET", f"{_of(benchmark_id)}/artifacts/{segment(name)}", answers.content)


def compare(benchmark_ids: Sequence[str], *, force: bool) -> Call[BenchmarkComparison]:
    """Hold benchmarks against each other."""
    params = {"ids": ",".join(benchmark_ids)} | ({"force": "true"} if force else {})
    return Call("GET", f"{_ALL}/compare", answers.reader(BenchmarkComparison), params)


def pareto(label: str, choice: ParetoChoice, *, force: bool) -> Call[Pareto]:
    """Hold the students of a project against each other."""
    given: dict[str, str | Sequence[str]] = {"label": label}
    if force:
        given["force"] = "true"
    for name, value in choice.items():
        if isinstance(value, str | int):
            given[name] = str(value)
        elif isinstance(value, Sequence):
            given[name] = tuple(map(str, value))
    return Call("GET", f"{_ALL}/pareto", answers.reader(Pareto), given)


def cancel(benchmark_id: str) -> Call[Benchmark]:
    """Ask a benchmark to stop; asking again changes nothing."""
    return Call("POST", f"{_of(benchmark_id)}:cancel", answers.reader(Benchmark))


def delete(benchmark_id: str) -> Call[None]:
    """Delete a benchmark. Not repeatable: the second request would find none."""
    return Call("DELETE", _of(benchmark_id), answers.nothing, repeatable=False)


def _of(benchmark_id: str) -> str:
    return f"{_ALL}/{segment(benchmark_id)}"
