"""Latency measurements: asked for here, run by a worker."""

from typing import Any

from fastapi import APIRouter, BackgroundTasks, Request, Response

from app import hints
from app.errors import Responses, documented
from app.idempotency import IdempotencyKey, created, once
from app.parameters import JobId, SentLatencySpec
from app.service import Served
from distillery.spec import LatencySpec
from distillery.views import Benchmark
from store import benchmarks, jobs
from store.idempotency import Answer

router = APIRouter(tags=["latency"])
_ACCEPTED: Responses = {202: created("Queued.")}


@router.post(
    "/v1/jobs/{job_id}/latency",
    status_code=202,
    response_model=Benchmark,
    responses=documented(400, 404, 408, 409, 413, 415, 507) | _ACCEPTED,
)
def measure_latency(
    job_id: JobId,
    served: Served,
    request: Request,
    background: BackgroundTasks,
    idempotency_key: IdempotencyKey = None,
    spec: SentLatencySpec | None = None,
) -> Response:
    """Have a worker time student against teacher of a job that succeeded; without a body, as the job's spec says."""

    def act(session: Any) -> Answer:
        job = jobs.get(session, job_id)
        benchmark = benchmarks.request(session, job_id, spec=spec or job.resolved_spec.latency or LatencySpec())
        queue = job.resolved_spec.resources.queue
        background.add_task(hints.send, served, benchmark.id, queue=queue, log=request.app.state.log)
        return Answer(202, f"/v1/benchmarks/{benchmark.id}", benchmark.model_dump_json())

    return once(served, request, idempotency_key, act, asked=spec)


@router.get("/v1/jobs/{job_id}/latency", responses=documented(404))
def get_latency(job_id: JobId, served: Served) -> Benchmark:
    """Show the latest latency measurement of a job."""
    with served.database.read() as session:
        return benchmarks.latest(session, job_id)
