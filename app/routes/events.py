"""What happened to a job: a page of it, or the live stream."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.responses import StreamingResponse

from app.errors import documented
from app.events import Feed
from app.negotiate import wants_stream
from app.parameters import LARGEST_NUMBER, JobId, PageSize, PageToken
from app.service import Served, Service
from distillery.views import Event, Page
from store import events, paging
from store.events import Standing

router = APIRouter(tags=["events"])
BATCH = 200
"""Events read at a time for a stream."""
_STREAM = {
    "text/event-stream": {
        "schema": {
            "type": "string",
            "description": "Each event has its `seq` as `id` and its JSON as `data`; `event: end` closes the stream.",
        }
    }
}


@router.get(
    "/v1/jobs/{job_id}/events",
    response_model=Page[Event],
    responses=documented(400, 404) | {200: {"description": "A page, or the live stream.", "content": _STREAM}},
)
def list_events(
    job_id: JobId,
    served: Served,
    request: Request,
    after: Annotated[int, Query(ge=0, le=LARGEST_NUMBER, description="Only events with a higher `seq`.")] = 0,
    page_size: PageSize = 100,
    page_token: PageToken = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
    last_event_id: Annotated[
        str | None, Header(max_length=100, description="The last `id` received: the stream goes on behind it.")
    ] = None,
) -> Response:
    """List a job's events in order. With `Accept: text/event-stream` they come live, from `after` on, to the end."""
    bound = {"events": job_id}
    start = int(paging.decode(page_token, query=bound).created_at) if page_token else after
    if wants_stream(accept):
        resumed = re.fullmatch(r"[0-9]{1,15}", last_event_id or "")
        return _live(job_id, served, request.app.state.feed, after=max(start, int(resumed.group()) if resumed else 0))
    with served.database.read() as session:
        found = events.after(session, job_id, seq=start, limit=page_size + 1)
    shown = found[:page_size]
    last = paging.Position(float(shown[-1].seq), job_id) if len(found) > page_size else None
    following = paging.encode(last, query=bound) if last else None
    page = Page[Event](data=tuple(shown), next_page_token=following)
    return Response(page.model_dump_json(), media_type="application/json")


def _live(job_id: str, served: Served, feed: Feed, *, after: int) -> Response:
    with served.database.read() as session:
        standing = events.standing(session, job_id)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(
        feed.stream(job_id, standing, after=after), media_type="text/event-stream", headers=headers
    )


def feed_of(served: Service) -> Feed:
    """What all event streams of this process wait for."""

    def look(job_ids: Sequence[str]) -> Mapping[str, Standing]:
        with served.database.read() as session:
            return events.standings(session, job_ids)

    def read(job_id: str, seq: int) -> Sequence[Event]:
        with served.database.read() as session:
            return events.after(session, job_id, seq=seq, limit=BATCH)

    return Feed(look, read)
