"""What is done to a job that is there: cancel, pause, resume, retry, clone, change, delete."""

from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Body, Header, Request, Response

from app import editions, hints
from app.checks import check
from app.errors import documented
from app.idempotency import CREATED, IdempotencyKey, answered_before, once
from app.parameters import JobId, ModelId, SentChanges, SentRetry
from app.patches import merged
from app.service import Served
from distillery.changes import RetryOptions
from distillery.spec import parse, resolve
from distillery.views import Job
from store import jobs, removal, successors, wishes
from store.idempotency import Answer

router = APIRouter(tags=["jobs"])
IfMatch = Annotated[
    str | None,
    Header(
        max_length=1000,
        description="An `ETag` of the job. The request is refused when name, labels or priority were changed since.",
    ),
]
Patch = Annotated[dict[str, Any], Body(description="A merge patch (RFC 7396) over the spec of the job.")]
_REFUSALS = documented(400, 404, 408, 409, 413, 415)
_CHANGED = documented(400, 404, 408, 409, 412, 413, 415)


@router.post("/v1/jobs/{job_id}:cancel", responses=_REFUSALS)
def cancel_job(job_id: JobId, served: Served) -> Job:
    """Ask a job to stop. One that does not run is cancelled at once; a running one saves its last checkpoint first."""
    with served.database.transaction() as session:
        return wishes.cancel(session, job_id)


@router.post("/v1/jobs/{job_id}:pause", responses=_REFUSALS)
def pause_job(job_id: JobId, served: Served) -> Job:
    """Set a job aside. A queued one is paused at once; a running one saves a checkpoint and leaves its worker first."""
    with served.database.transaction() as session:
        return wishes.pause(session, job_id)


@router.post("/v1/jobs/{job_id}:resume", responses=_REFUSALS)
def resume_job(job_id: JobId, served: Served, request: Request, background: BackgroundTasks) -> Job:
    """Queue a paused job again; it goes on from its last checkpoint."""
    with served.database.transaction() as session:
        job = wishes.resume(session, job_id)
    background.add_task(hints.send, served, job.id, queue=job.resolved_spec.resources.queue, log=request.app.state.log)
    return job


@router.post(
    "/v1/jobs/{job_id}:retry", status_code=201, response_model=Job, responses=_REFUSALS | documented(507) | CREATED
)
def retry_job(
    job_id: JobId,
    served: Served,
    request: Request,
    idempotency_key: IdempotencyKey = None,
    options: SentRetry | None = None,
) -> Response:
    """Make a new job with the spec and seed of one that failed, crashed or was cancelled. It goes on from the last
    checkpoint of that one, which stays as it ended.
    """
    chosen = options or RetryOptions()

    def act(session: Any) -> Answer:
        return _created(successors.retry(session, job_id, max_seconds=chosen.max_seconds))

    return once(served, request, idempotency_key, act, asked=chosen)


@router.post(
    "/v1/jobs/{job_id}:clone", status_code=201, response_model=Job, responses=_REFUSALS | documented(507) | CREATED
)
def clone_job(
    job_id: JobId, served: Served, request: Request, idempotency_key: IdempotencyKey = None, patch: Patch | None = None
) -> Response:
    """Make a new job from the spec of this one, as it was sent, with the changes in the body; from the beginning."""
    if known := answered_before(served, request, idempotency_key, asked=patch):
        return known
    with served.database.read() as session:
        before = jobs.get(session, job_id).spec.model_dump(mode="json")
        sent = parse(merged(before, patch or {}, sent=jobs.sent(session, job_id)))
    filled = check(sent, served.database)

    def act(session: Any) -> Answer:
        return _created(successors.clone(session, job_id, sent=sent, resolved=resolve(filled)))

    return once(served, request, idempotency_key, act, asked=patch)


@router.patch("/v1/jobs/{job_id}", responses=_CHANGED)
def change_job(job_id: JobId, changes: SentChanges, served: Served, if_match: IfMatch = None) -> Job:
    """Change name, labels or priority. A label of null is taken away; what is left out stays."""
    with served.database.transaction() as session:
        editions.require(session, job_id, if_match)
        return wishes.edit(session, job_id, name=changes.name, labels=changes.labels, priority=changes.priority)


@router.delete("/v1/jobs/{job_id}", status_code=204, response_class=Response, responses=_CHANGED)
def delete_job(job_id: JobId, served: Served, if_match: IfMatch = None) -> Response:
    """Delete a job that has ended, and all its files, unless a job that has not ended needs them."""
    with served.database.transaction() as session:
        editions.require(session, job_id, if_match)
        removal.delete_job(session, job_id)
    return Response(status_code=204)


@router.delete("/v1/models/{model_id}", status_code=204, response_class=Response, responses=_REFUSALS, tags=["models"])
def delete_model(model_id: ModelId, served: Served) -> Response:
    """Forget a model, unless a job that has not ended needs it. Its weights stay an artifact of its job."""
    with served.database.transaction() as session:
        removal.delete_model(session, model_id)
    return Response(status_code=204)


def _created(job: Job) -> Answer:
    return Answer(201, job.links.self, job.model_dump_json())
