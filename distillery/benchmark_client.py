"""What either client can do about benchmarks: `client.benchmarks.run(spec)` and so on.

The two classes are the same, method for method; they only carry out what stands in `benchmark_calls`.
"""

import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Unpack

from distillery import benchmark_calls as calls
from distillery.benchmark_calls import BenchmarkFilters, ParetoChoice
from distillery.benchmarks import BenchmarkComparison
from distillery.brought_client import AsyncRunning, Running
from distillery.connection import PAGE_SIZE, Connection
from distillery.errors import JobEndedBadly
from distillery.flows import HELD_SECONDS, POLL_SECONDS, Flow, Patience, Pause, exchange
from distillery.pareto import Pareto
from distillery.spec import BenchmarkSpec
from distillery.views import TERMINAL, Artifact, Benchmark, BenchmarkSummary

Question = BenchmarkSpec | Mapping[str, Any]
OnLook = Callable[[Benchmark], None]


def measured(service: Connection, spec: Question, *, wait: bool, on_look: OnLook | None) -> Flow[Benchmark]:
    """Ask for a benchmark and, with `wait`, return when it has ended.

    Raises:
        JobEndedBadly: it did not succeed.
    """
    view: Benchmark = yield from exchange(
        calls.request(spec), server=service.server, patience=Patience(), outage=service.outage()
    )
    while wait and view.status not in TERMINAL:
        looked = time.monotonic()
        if on_look is not None:
            on_look(view)
        held = 1 if on_look is not None else HELD_SECONDS
        look = calls.one(view.id, wait_seconds=held)
        view = yield from exchange(look, server=service.server, patience=service.outage())
        yield Pause(max(0.0, POLL_SECONDS - (time.monotonic() - looked)))
    if wait and view.status != "succeeded":
        why = view.error.detail if view.error else f"It is {view.status}."
        hint = view.error.hint if view.error else ""
        raise JobEndedBadly(f"The benchmark {view.id} found nothing. {why}", hint=hint)
    return view


class Benchmarks:
    """Any models that the service keeps, timed against each other."""

    def __init__(self, run: Running, service: Connection) -> None:
        self._run, self._service = run, service

    def run(self, spec: Question, *, wait: bool = True, on_look: OnLook | None = None) -> Benchmark:
        """Have a worker time the models; with `wait` return the result, else the request. `on_look` is shown the
        benchmark about once a second meanwhile.

        Raises:
            JobEndedBadly: it did not succeed.
        """
        return self._run(measured(self._service, spec, wait=wait, on_look=on_look))

    def get(self, benchmark_id: str) -> Benchmark:
        """One benchmark."""
        return self._run(self._service.exchange(calls.one(benchmark_id)))

    def list(self, **filters: Unpack[BenchmarkFilters]) -> Iterator[BenchmarkSummary]:
        """Every benchmark that meets the filters, newest first, page by page."""
        token: str | None = None
        while True:
            page = self._run(self._service.exchange(calls.page(filters, page_size=PAGE_SIZE, token=token)))
            yield from page.data
            if (token := page.next_page_token) is None:
                return

    def result(self, benchmark_id: str, *, media_type: str = "application/json") -> bytes:
        """What a benchmark found: as JSON, as `text/csv`, or as a page of `text/html`."""
        return self._run(self._service.exchange(calls.result(benchmark_id, media_type=media_type)))

    def artifacts(self, benchmark_id: str) -> tuple[Artifact, ...]:
        """Its files."""
        return self._run(self._service.exchange(calls.artifacts(benchmark_id)))

    def artifact(self, benchmark_id: str, name: str) -> bytes:
        """One of its files, such as `benchmark_samples.parquet`: the time of every call."""
        return self._run(self._service.exchange(calls.artifact(benchmark_id, name)))

    def compare(self, *benchmark_ids: str, force: bool = False) -> BenchmarkComparison:
        """Benchmarks side by side; those of different environments are refused, unless it is forced."""
        return self._run(self._service.exchange(calls.compare(benchmark_ids, force=force)))

    def pareto(self, label: str, *, force: bool = False, **choice: Unpack[ParetoChoice]) -> Pareto:
        """The students of a project, which is a label: accuracy against time, memory and size."""
        return self._run(self._service.exchange(calls.pareto(label, choice, force=force)))

    def cancel(self, benchmark_id: str) -> Benchmark:
        """Ask a benchmark to stop; nothing is kept of it."""
        return self._run(self._service.exchange(calls.cancel(benchmark_id)))

    def remove(self, benchmark_id: str) -> None:
        """Delete a benchmark that has ended, with its files."""
        self._run(self._service.exchange(calls.delete(benchmark_id)))


class AsyncBenchmarks:
    """The same for programs with an event loop."""

    def __init__(self, run: AsyncRunning, service: Connection) -> None:
        self._run, self._service = run, service

    async def run(self, spec: Question, *, wait: bool = True, on_look: OnLook | None = None) -> Benchmark:
        """Have a worker time the models; with `wait` return the result, else the request. `on_look` is shown the
        benchmark about once a second meanwhile.

        Raises:
            JobEndedBadly: it did not succeed.
        """
        return await self._run(measured(self._service, spec, wait=wait, on_look=on_look))

    async def get(self, benchmark_id: str) -> Benchmark:
        """One benchmark."""
        return await self._run(self._service.exchange(calls.one(benchmark_id)))

    async def list(self, **filters: Unpack[BenchmarkFilters]) -> AsyncIterator[BenchmarkSummary]:
        """Every benchmark that meets the filters, newest first, page by page."""
        token: str | None = None
        while True:
            page = await self._run(self._service.exchange(calls.page(filters, page_size=PAGE_SIZE, token=token)))
            for row in page.data:
                yield row
            if (token := page.next_page_token) is None:
                return

    async def result(self, benchmark_id: str, *, media_type: str = "application/json") -> bytes:
        """What a benchmark found: as JSON, as `text/csv`, or as a page of `text/html`."""
        return await self._run(self._service.exchange(calls.result(benchmark_id, media_type=media_type)))

    async def artifacts(self, benchmark_id: str) -> tuple[Artifact, ...]:
        """Its files."""
        return await self._run(self._service.exchange(calls.artifacts(benchmark_id)))

    async def artifact(self, benchmark_id: str, name: str) -> bytes:
        """One of its files, such as `benchmark_samples.parquet`: the time of every call."""
        return await self._run(self._service.exchange(calls.artifact(benchmark_id, name)))

    async def compare(self, *benchmark_ids: str, force: bool = False) -> BenchmarkComparison:
        """Benchmarks side by side; those of different environments are refused, unless it is forced."""
        return await self._run(self._service.exchange(calls.compare(benchmark_ids, force=force)))

    async def pareto(self, label: str, *, force: bool = False, **choice: Unpack[ParetoChoice]) -> Pareto:
        """The students of a project, which is a label: accuracy against time, memory and size."""
        return await self._run(self._service.exchange(calls.pareto(label, choice, force=force)))

    async def cancel(self, benchmark_id: str) -> Benchmark:
        """Ask a benchmark to stop; nothing is kept of it."""
        return await self._run(self._service.exchange(calls.cancel(benchmark_id)))

    async def remove(self, benchmark_id: str) -> None:
        """Delete a benchmark that has ended, with its files."""
        await self._run(self._service.exchange(calls.delete(benchmark_id)))
