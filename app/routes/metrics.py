"""The metric series of a job."""

import csv
import io
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Response

from app.errors import documented
from app.negotiate import preferred
from app.parameters import JobId
from app.service import Served
from distillery.views import Metrics
from store import metrics

router = APIRouter(tags=["metrics"])
MOST_KEYS = 100


@router.get(
    "/v1/jobs/{job_id}/metrics",
    response_model=Metrics,
    responses=documented(404)
    | {200: {"description": "The series.", "content": {"text/csv": {"schema": {"type": "string"}}}}},
)
def get_metrics(
    job_id: JobId,
    served: Served,
    keys: Annotated[
        list[Annotated[str, Query(max_length=200)]] | None,
        Query(max_length=MOST_KEYS, description="Only these series, such as `training/loss`; repeat it for several."),
    ] = None,
    max_points: Annotated[int, Query(ge=2, le=10_000, description="Most points of one series.")] = 500,
    format: Annotated[  # noqa: A002 - the name of the parameter on the wire
        Literal["json", "csv"] | None, Query(description="Overrules `Accept`.")
    ] = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Show metric series, downsampled to `max_points` each: as JSON, or as CSV with the columns key, step, value."""
    with served.database.read() as session:
        found = metrics.series(session, job_id, keys=keys, max_points=max_points)
    kind = f"text/{format}" if format else preferred(accept, offered=("application/json", "text/csv"))
    if kind == "text/csv":
        return Response(_table(found), media_type="text/csv", headers={"Vary": "Accept"})
    return Response(found.model_dump_json(), media_type="application/json", headers={"Vary": "Accept"})


def _table(found: Metrics) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["key", "step", "value"])
    for series in found.series:
        writer.writerows([series.key, point.step, point.value] for point in series.points)
    return text.getvalue()
