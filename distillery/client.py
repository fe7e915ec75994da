"""Talk to a Distillery service from Python: `Client`, and `AsyncClient` with the same methods.

    with Client() as client:
        job = client.submit({"dataset": {"name": "digits"}, ...})
        client.wait(job.id, check=True)
        client.download(job.id, to=Path("student.safetensors"))

What is asked and how answers are read stands in `calls`, what takes several requests in `flows`, `streams` and
`download`. The two classes only carry it out.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx
from httpx_sse import EventSource

from distillery import brought_calls, calls, predict_calls
from distillery.async_client import AsyncClient
from distillery.benchmark_client import Benchmarks
from distillery.brought_client import Bringing, Datasets
from distillery.brought_flows import OnSent
from distillery.calls import Call, JobFilters
from distillery.connection import DEFAULT_SERVER, PAGE_SIZE, Connection, Measurement, Spec
from distillery.download import OnProgress, Transfer, already_there, pick
from distillery.errors import ServiceRefused, Unavailable
from distillery.flows import Flow, Patience, Pause, Timeouts
from distillery.predict_calls import Image
from distillery.predictions import TOP_K, JobPrediction, ModelPrediction, RuntimeChoice, Values
from distillery.report import Report
from distillery.streams import BROKEN
from distillery.views import (
    Architecture,
    Artifact,
    Benchmark,
    Checkpoint,
    Event,
    Job,
    JobSummary,
    Metrics,
    Model,
    ObjectiveTerm,
    Page,
    Validation,
)
from distillery.webhook_client import Webhooks

__all__ = ["DEFAULT_SERVER", "AsyncClient", "Client", "Timeouts"]

T = TypeVar("T")


class Client:
    """The synchronous client; a context manager. `transport` is the seam for tests and for special networks."""

    def __init__(
        self,
        base_url: str = DEFAULT_SERVER,
        *,
        api_key: str | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008  (a frozen value)
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._service = Connection(base_url.rstrip("/"), api_key, timeouts)
        self._http = httpx.Client(transport=transport, **self._service.options)
        self.webhooks = Webhooks(self._call)
        """The endpoints that the service tells what becomes of jobs."""
        self._bringing = Bringing(self._service)
        self.datasets = Datasets(self._run, self._bringing)
        """The data sets that the service keeps."""
        self.benchmarks = Benchmarks(self._run, self._service)
        """Any models timed against each other."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def _call(self, call: Call[T]) -> T:
        return self._run(self._service.exchange(call))

    def _run(self, flow: Flow[T]) -> T:
        try:
            step = next(flow)
            while True:
                if isinstance(step, Pause):
                    time.sleep(step.seconds)
                    step = next(flow)
                    continue
                try:
                    response = self._http.request(**self._service.request(step))
                except httpx.TransportError as error:
                    step = flow.throw(error)
                else:
                    step = flow.send(response)
        except StopIteration as end:
            result: T = end.value
            return result

    def ready(self) -> bool:
        """Whether a service is there and can serve; asks once and raises nothing of its own."""
        try:
            return (self._run(self._service.asking_once(calls.ready()))).status == "ok"
        except (Unavailable, ServiceRefused):
            return False

    def submit(self, spec: Spec) -> Job:
        """Submit a job, and only one, also when an answer is lost and the request is sent again.

        Raises:
            ServiceRefused: the spec has errors; `problems` points at each.
        """
        return self._call(calls.submit(spec))

    def validate(self, spec: Spec) -> Validation:
        """Check a spec without running it: the resolved spec, warnings and an estimate."""
        return self._call(calls.validate(spec))

    def job(self, job_id: str) -> Job:
        """One job as it is now."""
        return self._call(calls.job(job_id))

    def jobs(self, **filters: Unpack[JobFilters]) -> Iterator[JobSummary]:
        """Every job that fits, newest first, page by page."""
        token: str | None = None
        while True:
            page = self._call(calls.jobs(filters, page_size=PAGE_SIZE, token=token))
            yield from page.data
            if (token := page.next_page_token) is None:
                return

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop: at once when it is queued, else after it has saved its last checkpoint."""
        return self._call(calls.cancel(job_id))

    def pause(self, job_id: str) -> Job:
        """Set a job aside: at once when it is queued, else after it has saved a checkpoint and left its worker."""
        return self._call(calls.pause(job_id))

    def resume(self, job_id: str) -> Job:
        """Queue a paused job again; it goes on from its last checkpoint."""
        return self._call(calls.resume(job_id))

    def retry(self, job_id: str, *, max_seconds: float | None = None) -> Job:
        """A new job that goes on from the last checkpoint of one that failed, crashed or was cancelled.

        `max_seconds` takes the place of the time limit in its spec.
        """
        return self._call(calls.retry(job_id, max_seconds=max_seconds))

    def clone(self, job_id: str, changes: Mapping[str, Any] | None = None) -> Job:
        """A new job with the spec of this one, from the beginning.

        `changes` is a merge patch (RFC 7396): what is None has its default again, and lists are replaced as a whole.
        """
        return self._call(calls.clone(job_id, changes=changes))

    def edit(
        self,
        job_id: str,
        *,
        name: str | None = None,
        labels: Mapping[str, str | None] | None = None,
        priority: int | None = None,
        if_match: str | None = None,
    ) -> Job:
        """Change what does not change the result; None leaves it, and a label of None is taken away.

        With `if_match`, a tag from `job_tag`, `ServiceRefused` says when somebody has changed the job since then.
        """
        call = calls.edit(job_id, name=name, labels=labels, priority=priority, if_match=if_match)
        return self._call(call)

    def job_tag(self, job_id: str) -> str:
        """The `ETag` of a job as it is now."""
        return self._call(calls.job_tag(job_id))

    def delete(self, job_id: str) -> None:
        """Delete a job that has ended, with all its files, unless a job that has not ended needs them."""
        self._call(calls.delete(job_id))

    def wait(self, job_id: str, *, timeout: float | None = None, check: bool = False) -> Job:
        """Return when the job has ended; with `check` raise JobEndedBadly unless it succeeded.

        A paused job is waited for too.

        Raises:
            StillRunning: after `timeout` seconds.
        """
        return self._run(self._service.waiting(job_id, timeout_seconds=timeout, check=check))

    def stream(self, job_id: str, *, after: int = 0) -> Iterator[Event]:
        """Every event after number `after`, live, until the job has ended; each once, through broken connections.

        Raises:
            Unavailable: the service was away for longer than `timeouts.outage`.
        """
        follower = self._service.follower(job_id, after=after)
        while True:
            failure: Exception | None = None
            try:
                with self._http.stream(**self._service.streaming(follower)) as response:
                    if not response.is_success:
                        response.read()
                        follower.refuse(response)
                    for message in EventSource(response).iter_sse():
                        yield from follower.take(message)
                        if follower.ended:
                            return
            except BROKEN as error:
                failure = error
            time.sleep(follower.pause(failure))

    def events(self, job_id: str, *, after: int = 0, page_size: int = PAGE_SIZE) -> Page[Event]:
        """A page of what has happened so far, from the event after number `after`."""
        return self._call(calls.events(job_id, after=after, page_size=page_size))

    def metrics(self, job_id: str, *, keys: Sequence[str] = (), max_points: int | None = None) -> Metrics:
        """Metric series, all of them or those of `keys`."""
        return self._call(calls.metrics(job_id, keys=keys, max_points=max_points))

    def checkpoints(self, job_id: str) -> tuple[Checkpoint, ...]:
        """The checkpoints that are kept."""
        return self._call(calls.checkpoints(job_id))

    def artifacts(self, job_id: str) -> tuple[Artifact, ...]:
        """The files that the job delivered."""
        return self._call(calls.artifacts(job_id))

    def download(
        self,
        job_id: str,
        name: str = "student.safetensors",
        *,
        to: Path = Path(),
        on_progress: OnProgress | None = None,
    ) -> Path:
        """Bring a delivered file home and return where it lies: resumed after a break, and verified.

        `to` is a folder that exists, or the path of the file.

        Raises:
            CorruptFile: the bytes do not have the sha256 that the service states, even on a second try.
        """
        artifact = pick(self.artifacts(job_id), name, job_id=job_id)
        if (there := already_there(artifact, to=to)) is not None:
            return there
        with Transfer(artifact, to=to, on_progress=on_progress) as transfer:
            patience = self._service.outage()
            while True:
                try:
                    self._fetch(job_id, transfer=transfer, patience=patience)
                except httpx.TransportError as error:
                    time.sleep(patience.pause(transfer.unreachable(error, server=self._service.server)))
                    continue
                if (path := transfer.finish()) is not None:
                    return path

    def _fetch(self, job_id: str, *, transfer: Transfer, patience: Patience) -> None:
        if transfer.complete:
            return
        with self._http.stream(**self._service.fetching(job_id, transfer)) as response:
            if not transfer.begin(response):
                response.read()
                transfer.refuse(response)
            for block in response.iter_raw():
                if transfer.write(block):
                    patience.reset()
        transfer.end()

    def report(self, job_id: str) -> Report:
        """The distillation report."""
        return self._call(calls.report(job_id))

    def measure_latency(self, job_id: str, spec: Measurement | None = None, *, wait: bool = True) -> Benchmark:
        """Time student against teacher on a worker; with `wait` return the result, else the request.

        Raises:
            JobEndedBadly: the measurement did not succeed.
        """
        return self._run(self._service.measuring(job_id, spec=spec, wait=wait))

    def latency(self, job_id: str) -> Benchmark:
        """The latest measurement."""
        return self._call(calls.latency(job_id))

    def benchmark(self, benchmark_id: str) -> Benchmark:
        """One measurement."""
        return self._call(calls.benchmark(benchmark_id))

    def architectures(self) -> tuple[Architecture, ...]:
        """The catalogue of networks."""
        return self._call(calls.architectures())

    def objectives(self) -> tuple[ObjectiveTerm, ...]:
        """The catalogue of objective terms."""
        return self._call(calls.objectives())

    def strategies(self) -> tuple[ObjectiveTerm, ...]:
        """The catalogue of strategies, with their presets."""
        return self._call(calls.strategies())

    def models(self) -> Iterator[Model]:
        """Every model that the service keeps, newest first, page by page."""
        token: str | None = None
        while True:
            page = self._call(calls.models(page_size=PAGE_SIZE, token=token))
            yield from page.data
            if (token := page.next_page_token) is None:
                return

    def model(self, model_id: str) -> Model:
        """One model."""
        return self._call(brought_calls.model(model_id))

    def add_model(
        self,
        *files: Path,
        name: str,
        on_sent: OnSent | None = None,
        on_look: Callable[[Model], None] | None = None,
        **options: Any,
    ) -> Model:
        """Send a network that was trained elsewhere, have a worker check it, and wait for that. `options` are those of
        `ModelImport`, `path` among them for what the workers see already.

        Raises:
            InvalidRequest: a file is of a format that is never read.
            JobEndedBadly: it cannot be used; the detail says why.
        """
        return self._run(self._bringing.model(files, {"name": name, **options}, on_sent=on_sent, on_look=on_look))

    def rehearse(self, spec: Spec, *, timeout: float = 120.0) -> Validation:
        """Check a spec and have a worker try it out on the real data: `preflight` says what came of it.

        Raises:
            StillRunning: no worker had time for it within `timeout` seconds.
        """
        return self._run(self._bringing.rehearsed(spec, timeout_seconds=timeout))

    def predict_job(
        self,
        job_id: str,
        images: Sequence[Image] = (),
        *,
        arrays: Any = None,
        values: Values | None = None,
        top_k: int = TOP_K,
        logits: bool = False,
        runtime: RuntimeChoice = "auto",
    ) -> JobPrediction:
        """Ask a job's student and teacher about images: PNG, JPEG or WebP files, as bytes or paths, 64 at most.

        Or about `arrays` [N, C, H, W], whose `values` go from "0-255" or from "0-1".

        Raises:
            ServiceRefused: an image cannot be read, the job has not succeeded, or no inference worker is running.
        """
        return self._call(
            predict_calls.predict_job(
                job_id, images, arrays=arrays, values=values, top_k=top_k, logits=logits, runtime=runtime
            )
        )

    def predict_model(
        self,
        model_id: str,
        images: Sequence[Image] = (),
        *,
        arrays: Any = None,
        values: Values | None = None,
        top_k: int = TOP_K,
        logits: bool = False,
        runtime: RuntimeChoice = "auto",
    ) -> ModelPrediction:
        """Ask a kept model, in the same way."""
        return self._call(
            predict_calls.predict_model(
                model_id, images, arrays=arrays, values=values, top_k=top_k, logits=logits, runtime=runtime
            )
        )

    def delete_model(self, model_id: str) -> None:
        """Forget a model, unless a job that has not ended needs it; its weights stay an artifact of its job."""
        self._call(calls.delete_model(model_id))
