"""Submit, check, list and watch jobs."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Header, Query, Request, Response
from pydantic import AwareDatetime
from starlette.concurrency import run_in_threadpool

from app import hints
from app.advice import warnings_about
from app.checks import check
from app.editions import etag
from app.errors import Responses, documented
from app.estimate import estimate
from app.events import Feed
from app.idempotency import CREATED, IdempotencyKey, answered_before, once
from app.negotiate import not_modified
from app.parameters import JobId, PageSize, PageToken, PreflightId, SentSpec
from app.service import Served, Service
from app.waiting import LOOK_SECONDS, ended
from distillery.spec import JobSpec, resolve
from distillery.views import TERMINAL, Job, JobSummary, Page, Preflight, Status, Validation
from store import events, jobs, preflights
from store.events import Standing
from store.idempotency import Answer

router = APIRouter(tags=["jobs"])
_NEVER_READ = Standing(-1, "")
"""How far no job is: what comes between the first answer and the wait is not missed."""
_TAGGED: Responses = {
    200: {"description": "The job.", "headers": {"ETag": {"required": True, "schema": {"type": "string"}}}},
    304: {"description": "What `If-None-Match` names is still current."},
}


@router.post("/v1/jobs", status_code=201, response_model=Job, responses=documented(400, 408, 413, 415, 507) | CREATED)
def submit_job(
    spec: SentSpec,
    served: Served,
    request: Request,
    background: BackgroundTasks,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Accept a job. Once this is answered the job is stored, and runs as soon as a worker is free."""
    if known := answered_before(served, request, idempotency_key, asked=spec):
        return known
    filled = check(spec, served.database)

    def act(session: Any) -> Answer:
        job = jobs.submit(session, sent=spec, resolved=resolve(filled))
        queue = spec.resources.queue
        background.add_task(hints.send, served, job.id, queue=queue, log=request.app.state.log)
        return Answer(201, job.links.self, job.model_dump_json())

    return once(served, request, idempotency_key, act, asked=spec)


@router.post("/v1/jobs:validate", responses=documented(400, 408, 413, 415, 507))
async def validate_job(
    spec: SentSpec,
    served: Served,
    request: Request,
    wait: Annotated[
        int, Query(ge=0, le=60, description="Have a worker try the job out, and wait so many seconds for its word.")
    ] = 0,
) -> Validation:
    """Check a spec as submitting it would: what would run, what to beware of, what it may take.

    Without `wait` nothing is written. With it a worker tries the job out on the real data: see `preflight`.
    """
    filled = await run_in_threadpool(check, spec, served.database)
    resolved = resolve(filled)
    told = Validation(resolved_spec=resolved, warnings=warnings_about(filled), estimate=estimate(resolved))
    if not wait:
        return told
    trial = await run_in_threadpool(_tried, served, spec, resolved)
    await run_in_threadpool(hints.send, served, trial.id, queue=spec.resources.queue, log=request.app.state.log)
    found = await ended(request, lambda: _trial(served, trial.id), wait_seconds=wait)
    return told.model_copy(update={"preflight": found})


def _tried(served: Service, sent: JobSpec, resolved: JobSpec) -> Preflight:
    with served.database.transaction() as session:
        return preflights.request(session, sent=sent, resolved=resolved)


def _trial(served: Service, preflight_id: str) -> Preflight:
    with served.database.read() as session:
        return preflights.get(session, preflight_id)


@router.get("/v1/preflights/{preflight_id}", responses=documented(404))
async def get_preflight(
    preflight_id: PreflightId,
    served: Served,
    request: Request,
    wait: Annotated[int, Query(ge=0, le=60, description="Seconds to wait for its end.")] = 0,
) -> Preflight:
    """Show what a worker found when it tried a job out."""
    return await ended(request, lambda: _trial(served, preflight_id), wait_seconds=wait)


@router.get("/v1/jobs", responses=documented(400))
def list_jobs(
    served: Served,
    page_size: PageSize = 50,
    page_token: PageToken = None,
    status: Annotated[Status | None, Query(description="Only jobs in this state.")] = None,
    task: Annotated[str | None, Query(max_length=100, description="Only jobs of this task.")] = None,
    strategy: Annotated[str | None, Query(max_length=100, description="Only jobs of this strategy.")] = None,
    architecture: Annotated[
        str | None, Query(max_length=100, description="Only jobs whose teacher or student has this architecture.")
    ] = None,
    label: Annotated[
        str | None, Query(max_length=400, description="Only jobs with this label: `key=value`, or `key` alone.")
    ] = None,
    created_after: Annotated[AwareDatetime | None, Query(description="Only jobs created then or later.")] = None,
    created_before: Annotated[AwareDatetime | None, Query(description="Only jobs created before.")] = None,
    q: Annotated[str | None, Query(max_length=200, description="Only jobs whose name contains this.")] = None,
) -> Page[JobSummary]:
    """List jobs, the newest first."""
    with served.database.read() as session:
        return jobs.page(
            session,
            page_size=page_size,
            token=page_token,
            status=status,
            task=task,
            strategy=strategy,
            architecture=architecture,
            label=label,
            created_after=created_after,
            created_before=created_before,
            q=q,
        )


@router.get(
    "/v1/jobs/{job_id}",
    response_model=Job,
    responses=documented(404) | _TAGGED,
)
async def get_job(
    job_id: JobId,
    request: Request,
    served: Served,
    wait: Annotated[
        int, Query(ge=0, le=60, description="Seconds to wait for the status or the phase to change, or the job to end.")
    ] = 0,
    if_none_match: Annotated[str | None, Header(description="An `ETag` of an earlier answer.")] = None,
) -> Response:
    """Show a job. With `wait` the answer comes when something changed, or when the time is over."""
    job, edition = await run_in_threadpool(_read, served, job_id)
    if wait and job.status not in TERMINAL:
        job, edition = await _changed(request, served, job, edition, wait_seconds=wait)
    return _tagged(job, if_none_match, edition=edition)


async def _changed(
    request: Request, served: Service, job: Job, edition: int, *, wait_seconds: float
) -> tuple[Job, int]:
    """The job once its status or phase is another one, or after so many seconds.

    It is read when something has happened to it: at once for another status, else twice a second at the most, because a
    training tells far more than phases.
    """
    feed: Feed = request.app.state.feed
    seen, deadline = (job.status, job.phase), time.monotonic() + wait_seconds
    with feed.follow(job.id, await run_in_threadpool(_standing, served, job.id)) as topic:
        known: Standing | None = _NEVER_READ
        due = 0.0
        while (job.status, job.phase) == seen and job.status not in TERMINAL:
            if topic.failure is not None:
                raise topic.failure
            now, standing = time.monotonic(), topic.standing
            if standing != known and (standing is None or standing.status != job.status or now >= due):
                known, due = standing, now + LOOK_SECONDS
                job, edition = await run_in_threadpool(_read, served, job.id)
                continue
            if now >= deadline or await request.is_disconnected():
                break
            await topic.change(within=min(LOOK_SECONDS, deadline - now))
    return job, edition


def _standing(served: Service, job_id: str) -> Standing:
    with served.database.read() as session:
        return events.standing(session, job_id)


def _read(served: Service, job_id: str) -> tuple[Job, int]:
    with served.database.read() as session:
        return jobs.edition_of(session, job_id)


def _tagged(job: Job, if_none_match: str | None, *, edition: int) -> Response:
    body = job.model_dump_json().encode()
    headers = {"ETag": etag(body, edition=edition), "Cache-Control": "private, no-cache"}
    if not_modified(if_none_match, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers, media_type="application/json")
