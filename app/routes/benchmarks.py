"""Benchmarks: any models timed against each other by a worker, their results, and what follows from several."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, BackgroundTasks, Header, Query, Request, Response

from app import hints, projects
from app.downloads import Presigning, Stored, deliver
from app.errors import Responses, documented
from app.idempotency import IdempotencyKey, created, once
from app.negotiate import preferred
from app.parameters import ArtifactName, BenchmarkId, PageSize, PageToken, SentBenchmark, each_benchmark
from app.routes.datasets import WaitSeconds
from app.routes.files import DOWNLOAD
from app.service import Served
from app.waiting import changed
from distillery.benchmarks import BenchmarkComparison, as_csv, compared
from distillery.errors import NotFound
from distillery.pareto import AXES, Axis, Pareto, Wanted, pareto
from distillery.report import LatencyReport
from distillery.views import TERMINAL, Artifact, Benchmark, BenchmarkSummary, Page, Status
from store import benchmarks, files, removal
from store.idempotency import Answer

router = APIRouter(tags=["benchmarks"])
_ACCEPTED: Responses = {202: created("Queued.")}
_TEXT = {"schema": {"type": "string"}}
_RESULT = documented(404, 416) | {
    200: {"description": "The result.", "content": {"text/csv": _TEXT, "text/html": _TEXT}},
    206: {"description": "The range of the page asked for.", "content": {"text/html": _TEXT}},
    304: {"description": "What `If-None-Match` names is still current."},
}
_OFFERED = {"json": "application/json", "csv": "text/csv", "html": "text/html"}
Force = Annotated[bool, Query(description="Mix different environments all the same; the answer warns of it.")]


@router.post(
    "/v1/benchmarks",
    status_code=202,
    response_model=Benchmark,
    responses=documented(400, 408, 413, 415, 507) | _ACCEPTED,
)
def request_benchmark(
    asked: SentBenchmark,
    served: Served,
    request: Request,
    background: BackgroundTasks,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Have a worker time any models against each other, in every runtime, batch size and device of `measure`."""

    def act(session: Any) -> Answer:
        benchmark = benchmarks.request_of_models(session, asked)
        background.add_task(hints.send, served, benchmark.id, queue=asked.queue, log=request.app.state.log)
        return Answer(202, f"/v1/benchmarks/{benchmark.id}", benchmark.model_dump_json())

    return once(served, request, idempotency_key, act, asked=asked)


@router.get("/v1/benchmarks", responses=documented(400))
def list_benchmarks(
    served: Served,
    page_size: PageSize = 50,
    page_token: PageToken = None,
    status: Annotated[Status | None, Query(description="Only benchmarks in this state.")] = None,
    label: Annotated[
        str | None, Query(max_length=400, description="Only benchmarks with this label: `key=value`, or `key` alone.")
    ] = None,
) -> Page[BenchmarkSummary]:
    """List benchmarks, of jobs and of any models, the newest first."""
    with served.database.read() as session:
        return benchmarks.page(session, page_size=page_size, token=page_token, status=status, label=label)


@router.get("/v1/benchmarks/compare", responses=documented(404, 409))
def compare_benchmarks(
    served: Served,
    ids: Annotated[str, Query(max_length=1000, description="Two or more, with commas between.")],
    force: Force = False,
) -> BenchmarkComparison:
    """Show benchmarks side by side. Those of different environments are refused, unless it is forced."""
    with served.database.read() as session:
        found = benchmarks.results(session, each_benchmark(ids))
    return compared(found, force=force)


@router.get("/v1/benchmarks/pareto", responses=documented(409))
def show_pareto(
    served: Served,
    label: Annotated[str, Query(min_length=1, max_length=400, description="The project: `key=value`, or `key` alone.")],
    against: Annotated[
        list[Axis] | None, Query(max_length=len(AXES), description="Only these costs; repeat it for several.")
    ] = None,
    batch_size: Annotated[int, Query(ge=1, le=4096, description="Images at once.")] = 1,
    runtime: Annotated[str | None, Query(max_length=40, description="Only this runtime.")] = None,
    device: Annotated[str | None, Query(max_length=20, description="Only this device, `cpu` or `cuda`.")] = None,
    fingerprint: Annotated[
        str | None, Query(min_length=6, max_length=64, description="Only this environment; its first characters do.")
    ] = None,
    force: Force = False,
) -> Pareto:
    """Hold the students of a project against each other: accuracy against p95, memory and size of the file. On a front
    are those that no other one beats in one of the two without losing in the other."""
    sources, warnings = projects.sources(served, label=label)
    wanted = Wanted(
        label=label, against=tuple(dict.fromkeys(against or AXES)), batch_size=batch_size, runtime=runtime,
        device=device, fingerprint=fingerprint,
    )  # fmt: skip
    table = pareto(sources, wanted=wanted, force=force)
    return table.model_copy(update={"warnings": (*warnings, *table.warnings)})


@router.get("/v1/benchmarks/{benchmark_id}", responses=documented(404))
async def get_benchmark(
    benchmark_id: BenchmarkId, served: Served, request: Request, wait: WaitSeconds = 0
) -> Benchmark:
    """Show one benchmark: what was asked, how far it is, and what it found."""

    def read() -> Benchmark:
        with served.database.read() as session:
            return benchmarks.get(session, benchmark_id)

    return await changed(request, read, wait_seconds=wait)


@router.post("/v1/benchmarks/{benchmark_id}:cancel", responses=documented(400, 404, 408, 409, 413, 415))
def cancel_benchmark(benchmark_id: BenchmarkId, served: Served) -> Benchmark:
    """Ask a benchmark to stop. One that waits is cancelled at once; nothing is kept of one that runs."""
    with served.database.transaction() as session:
        return benchmarks.cancel(session, benchmark_id)


@router.delete(
    "/v1/benchmarks/{benchmark_id}", status_code=204, response_class=Response, responses=documented(404, 409)
)
def delete_benchmark(benchmark_id: BenchmarkId, served: Served) -> Response:
    """Delete a benchmark that has ended, and its files."""
    with served.database.transaction() as session:
        removal.delete_benchmark(session, benchmark_id)
    return Response(status_code=204)


@router.get("/v1/benchmarks/{benchmark_id}/result", response_model=LatencyReport, responses=_RESULT)
def get_benchmark_result(
    benchmark_id: BenchmarkId,
    served: Served,
    request: Request,
    format: Annotated[  # noqa: A002 - the name of the parameter on the wire
        Literal["json", "csv", "html"] | None, Query(description="Overrules `Accept`.")
    ] = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Show what a benchmark found: as JSON, as CSV, or as one self-contained page with plots of the calls."""
    kind = _OFFERED[format] if format else preferred(accept, offered=tuple(_OFFERED.values()))
    with served.database.read() as session:
        view = benchmarks.get(session, benchmark_id)
    if view.result is None:
        hint = "It will never have one." if view.status in TERMINAL else "It is written when all is measured."
        raise NotFound(f"The benchmark {benchmark_id} is {view.status} and has no result.", hint=hint)
    if kind == "text/html":
        answer = _page_of(view, served, request)
    elif kind == "text/csv":
        answer = Response(as_csv(view.result), media_type="text/csv")
    else:
        answer = Response(view.result.model_dump_json(), media_type="application/json")
    answer.headers["Vary"] = "Accept"
    return answer


def _page_of(view: Benchmark, served: Served, request: Request) -> Response:
    name = "latency.html" if view.job_id is not None else "benchmark.html"
    try:
        return deliver(request, _artifact(served, view.id, name), served.artifacts, inline=True)
    except NotFound:
        hint = "Ask for JSON or CSV; its worker could make no pages, or was of an older version."
        raise NotFound(f"{view.id} has no page.", hint=hint) from None


@router.get("/v1/benchmarks/{benchmark_id}/artifacts", responses=documented(404))
def list_benchmark_artifacts(benchmark_id: BenchmarkId, served: Served) -> Page[Artifact]:
    """List the files of a benchmark: the result in every form, the raw times, and the benchmark to repeat it."""
    with served.database.read() as session:
        benchmarks.get(session, benchmark_id)
        found = files.artifacts(session, benchmark_id)
    there = f"/v1/benchmarks/{benchmark_id}/artifacts"
    return Page(data=tuple(each.model_copy(update={"url": f"{there}/{each.name}"}) for each in found))


@router.head("/v1/benchmarks/{benchmark_id}/artifacts/{name}", include_in_schema=False)
@router.get("/v1/benchmarks/{benchmark_id}/artifacts/{name}", response_class=Response, responses=DOWNLOAD)
def download_benchmark_artifact(
    benchmark_id: BenchmarkId, name: ArtifactName, served: Served, request: Request
) -> Response:
    """Download a file of a benchmark; `Range` and `If-Range` resume."""
    presigning: Presigning = request.app.state.presigning
    return deliver(request, _artifact(served, benchmark_id, name), served.artifacts, presigning=presigning)


def _artifact(served: Served, benchmark_id: str, name: str) -> Stored:
    with served.database.read() as session:
        benchmarks.get(session, benchmark_id)
        view = files.artifact(session, benchmark_id, name)
        key = files.artifact_key(session, benchmark_id, name)
    return Stored(key, view.name, view.media_type, view.size_bytes, view.sha256)
