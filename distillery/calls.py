"""One value for each request that the service understands: built here, sent and read by either client."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypedDict, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import BaseModel

from distillery import answers
from distillery.errors import InvalidRequest
from distillery.report import Report
from distillery.spec import JobSpec, LatencySpec
from distillery.views import (
    Architecture,
    Artifact,
    Benchmark,
    Checkpoint,
    Event,
    Health,
    Job,
    JobSummary,
    Metrics,
    Model,
    ObjectiveTerm,
    Page,
    Validation,
)

T = TypeVar("T")
_JSON = {"Content-Type": "application/json"}
_KEY = "Idempotency-Key"


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request and how to read its answer.

    `repeatable`: sending it twice does no more than sending it once. `held_seconds`: how long the service may keep
    the answer back on purpose.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    params: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    held_seconds: float = 0.0

    @property
    def keyed(self) -> bool:
        """Whether it carries a key by which the service knows a repeat."""
        return _KEY in self.headers


class JobFilters(TypedDict, total=False):
    """Which jobs a list shows; what is left out does not narrow it."""

    status: str
    task: str
    strategy: str
    architecture: str
    label: str
    """`key` or `key=value`."""
    created_after: datetime
    created_before: datetime
    q: str
    """Words in the name."""


def submit(spec: JobSpec | Mapping[str, Any]) -> Call[Job]:
    """Ask for a job: one, however often this is sent."""
    return Call("POST", "/v1/jobs", answers.reader(Job), body=as_json(spec), headers=_JSON | fresh_key())


def validate(spec: JobSpec | Mapping[str, Any]) -> Call[Validation]:
    """Check a spec; nothing is written."""
    return Call("POST", "/v1/jobs:validate", answers.reader(Validation), body=as_json(spec), headers=_JSON)


def job(job_id: str, *, wait_seconds: int = 0) -> Call[Job]:
    """Read a job; with `wait_seconds` the service holds its answer until something changes or the time is over."""
    params = {"wait": str(wait_seconds)} if wait_seconds else {}
    return Call("GET", _of_job(job_id), answers.reader(Job), params, held_seconds=wait_seconds)


def jobs(filters: JobFilters, *, page_size: int, token: str | None) -> Call[Page[JobSummary]]:
    """Read one page of the list, newest first."""
    given = {name: value.isoformat() if isinstance(value, datetime) else str(value) for name, value in filters.items()}
    return Call("GET", "/v1/jobs", answers.reader(Page[JobSummary]), page_parameters(page_size, token) | given)


def cancel(job_id: str) -> Call[Job]:
    """Ask a job to stop; asking again changes nothing."""
    return Call("POST", f"{_of_job(job_id)}:cancel", answers.reader(Job))


def pause(job_id: str) -> Call[Job]:
    """Set a job aside; asking again changes nothing."""
    return Call("POST", f"{_of_job(job_id)}:pause", answers.reader(Job))


def resume(job_id: str) -> Call[Job]:
    """Queue a paused job again. Not repeatable: the second request would be told that it is not paused."""
    return Call("POST", f"{_of_job(job_id)}:resume", answers.reader(Job), repeatable=False)


def retry(job_id: str, *, max_seconds: float | None) -> Call[Job]:
    """Ask for a job that goes on where this one ended: one, however often this is sent."""
    path, read = f"{_of_job(job_id)}:retry", answers.reader(Job)
    if max_seconds is None:
        return Call("POST", path, read, headers=fresh_key())
    return Call("POST", path, read, body=as_json({"max_seconds": max_seconds}), headers=_JSON | fresh_key())


def clone(job_id: str, *, changes: Mapping[str, Any] | None) -> Call[Job]:
    """Ask for a job with the spec of this one, and changes as a merge patch: one, however often this is sent."""
    body = as_json(changes or {})
    return Call("POST", f"{_of_job(job_id)}:clone", answers.reader(Job), body=body, headers=_JSON | fresh_key())


def edit(
    job_id: str,
    *,
    name: str | None,
    labels: Mapping[str, str | None] | None,
    priority: int | None,
    if_match: str | None,
) -> Call[Job]:
    """Change a job. With `if_match` not repeatable: the first request would outdate the second."""
    given = {"name": name, "labels": None if labels is None else dict(labels), "priority": priority}
    changes = {field: value for field, value in given.items() if value is not None}
    headers = _JSON | ({"If-Match": if_match} if if_match is not None else {})
    body, read = as_json(changes), answers.reader(Job)
    return Call("PATCH", _of_job(job_id), read, body=body, headers=headers, repeatable=if_match is None)


def job_tag(job_id: str) -> Call[str]:
    """Read the `ETag` of a job."""
    return Call("GET", _of_job(job_id), answers.tag)


def delete(job_id: str) -> Call[None]:
    """Delete a job. Not repeatable: the second request would find none."""
    return Call("DELETE", _of_job(job_id), answers.nothing, repeatable=False)


def delete_model(model_id: str) -> Call[None]:
    """Forget a model. Not repeatable: the second request would find none."""
    return Call("DELETE", f"/v1/models/{segment(model_id)}", answers.nothing, repeatable=False)


def events(job_id: str, *, after: int, page_size: int) -> Call[Page[Event]]:
    """Read the events with a number above `after`."""
    params = {"after": str(after), "page_size": str(page_size)}
    return Call("GET", f"{_of_job(job_id)}/events", answers.reader(Page[Event]), params)


def metrics(job_id: str, *, keys: Sequence[str], max_points: int | None) -> Call[Metrics]:
    """Read metric series, thinned out by the service to `max_points` each."""
    params: dict[str, str | Sequence[str]] = {"keys": list(keys)} if keys else {}
    params |= {"max_points": str(max_points)} if max_points else {}
    return Call("GET", f"{_of_job(job_id)}/metrics", answers.reader(Metrics), params)


def checkpoints(job_id: str) -> Call[tuple[Checkpoint, ...]]:
    """Read the list of checkpoints."""
    return Call("GET", f"{_of_job(job_id)}/checkpoints", answers.rows(Checkpoint))


def artifacts(job_id: str) -> Call[tuple[Artifact, ...]]:
    """Read the list of delivered files."""
    return Call("GET", f"{_of_job(job_id)}/artifacts", answers.rows(Artifact))


def artifact_path(job_id: str, name: str) -> str:
    """Where the bytes of a delivered file lie."""
    return f"{_of_job(job_id)}/artifacts/{segment(name)}"


def event_stream_path(job_id: str) -> str:
    """Where the live stream of a job's events lies."""
    return f"{_of_job(job_id)}/events"


def report(job_id: str) -> Call[Report]:
    """Read the distillation report."""
    headers = {"Accept": "application/json"}
    return Call("GET", f"{_of_job(job_id)}/report", answers.reader(Report), headers=headers)


def measure_latency(job_id: str, *, spec: LatencySpec | Mapping[str, Any] | None) -> Call[Benchmark]:
    """Ask a worker to time student against teacher: once, however often this is sent."""
    path, read = f"{_of_job(job_id)}/latency", answers.reader(Benchmark)
    if spec is None:
        return Call("POST", path, read, headers=fresh_key())
    return Call("POST", path, read, body=as_json(spec), headers=_JSON | fresh_key())


def latency(job_id: str) -> Call[Benchmark]:
    """Read the latest measurement."""
    return Call("GET", f"{_of_job(job_id)}/latency", answers.reader(Benchmark))


def benchmark(benchmark_id: str) -> Call[Benchmark]:
    """Read one measurement."""
    return Call("GET", f"/v1/benchmarks/{segment(benchmark_id)}", answers.reader(Benchmark))


def ready() -> Call[Health]:
    """Ask whether the service can serve."""
    return Call("GET", "/readyz", answers.reader(Health))


def architectures() -> Call[tuple[Architecture, ...]]:
    """Read the catalogue of networks."""
    return Call("GET", "/v1/architectures", answers.rows(Architecture))


def objectives() -> Call[tuple[ObjectiveTerm, ...]]:
    """Read the catalogue of objective terms."""
    return Call("GET", "/v1/objectives", answers.rows(ObjectiveTerm))


def strategies() -> Call[tuple[ObjectiveTerm, ...]]:
    """Read the catalogue of strategies."""
    return Call("GET", "/v1/strategies", answers.rows(ObjectiveTerm))


def models(*, page_size: int, token: str | None) -> Call[Page[Model]]:
    """Read one page of the models that the service keeps."""
    return Call("GET", "/v1/models", answers.reader(Page[Model]), page_parameters(page_size, token))


def _of_job(job_id: str) -> str:
    return f"/v1/jobs/{segment(job_id)}"


def fresh_key() -> dict[str, str]:
    """The header of a request that is done once, however often it is sent."""
    return {_KEY: str(uuid4())}


def segment(text: str) -> str:
    """A text as one segment of a path."""
    return quote(text, safe="")


def page_parameters(page_size: int, token: str | None) -> dict[str, str]:
    """The query of one page of a list."""
    return {"page_size": str(page_size)} | ({"page_token": token} if token else {})


def as_json(spec: BaseModel | Mapping[str, Any]) -> bytes:
    """The body of a request.

    Raises:
        InvalidRequest: JSON cannot hold it.
    """
    if isinstance(spec, BaseModel):
        return spec.model_dump_json().encode()
    try:
        return json.dumps(dict(spec), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise InvalidRequest(
            f"What was to be sent cannot be written as JSON: {error}.",
            hint="Use text, finite numbers, lists and dictionaries.",
        ) from None
