"""The parameters that several routes share, and the refusal of those that no route knows."""

import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Body, Path, Query, Request
from fastapi.routing import APIRoute
from pydantic import AfterValidator, ValidationError, WrapValidator
from pydantic_core.core_schema import ValidatorFunctionWrapHandler
from starlette.exceptions import HTTPException

from distillery.changes import JobChanges, RetryOptions
from distillery.errors import InvalidRequest, InvalidSpec, NotFound
from distillery.spec import BenchmarkSpec, JobSpec, LatencySpec
from distillery.spec.frozen import nearest
from distillery.spec.imports import DatasetImport, ModelImport, UploadSpec
from distillery.spec.problems import field_problems

LARGEST_NUMBER = 2**53
"""The largest whole number that every JSON reader and every database column holds exactly."""
ARTIFACT_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}"
_ID = r"[0-9a-hjkmnp-tv-z]{26}"


def _told(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Validate a body ourselves: one path, and one form of error, for the API, the client and the CLI."""
    try:
        return handler(value)
    except ValidationError as error:
        raise InvalidSpec(field_problems(error, value)) from None


SentSpec = Annotated[JobSpec, WrapValidator(_told), Body(description="What to distil.")]
SentChanges = Annotated[JobChanges, WrapValidator(_told), Body(description="What to change.")]
SentRetry = Annotated[RetryOptions, WrapValidator(_told), Body(description="What is to be different.")]
SentUpload = Annotated[UploadSpec, WrapValidator(_told), Body(description="The file that is about to be sent.")]
SentDataset = Annotated[DatasetImport, WrapValidator(_told), Body(description="What to make a data set of.")]
SentModel = Annotated[ModelImport, WrapValidator(_told), Body(description="What to take in as a model.")]
SentBenchmark = Annotated[BenchmarkSpec, WrapValidator(_told), Body(description="What to time, and how.")]
SentLatencySpec = Annotated[LatencySpec, WrapValidator(_told), Body(description="What to measure.")]


def _of_form(pattern: str, *, what: str, hint: str) -> Callable[[str], str]:
    def checked(value: str) -> str:
        if ":" in value:  # a verb, such as ':cancel', that this route's method does not go with
            raise HTTPException(405)
        if not re.fullmatch(pattern, value):
            raise NotFound(f"There is no {what} '{value[:100]}'.", hint=hint)
        return value

    return checked


def _identifier(prefix: str, *, what: str) -> Any:
    hint = f"An id is {prefix}_ and 26 small letters and digits, as the lists give it."
    return AfterValidator(_of_form(rf"{prefix}_{_ID}", what=what, hint=hint))


def _path(pattern: str, description: str) -> Any:
    return Path(description=description, json_schema_extra={"pattern": f"^{pattern}$"})


JobId = Annotated[str, _identifier("job", what="job"), _path(f"job_{_ID}", "The job's id.")]
CheckpointId = Annotated[
    str, _identifier("ckp", what="checkpoint"), _path(f"ckp_{_ID}", "The checkpoint's id, as its list gives it.")
]
ModelId = Annotated[str, _identifier("mdl", what="model"), _path(f"mdl_{_ID}", "The model's id.")]
DatasetId = Annotated[str, _identifier("dts", what="data set"), _path(f"dts_{_ID}", "The data set's id.")]
UploadId = Annotated[str, _identifier("upl", what="upload"), _path(f"upl_{_ID}", "The upload's id.")]
PreflightId = Annotated[
    str, _identifier("pfl", what="trial"), _path(f"pfl_{_ID}", "The id that the request for it was answered with.")
]
PartNumber = Annotated[int, Path(ge=1, le=10_000, description="From 1.")]
BenchmarkId = Annotated[
    str, _identifier("bmk", what="benchmark"), _path(f"bmk_{_ID}", "The id that the request for it was answered with.")
]
WebhookId = Annotated[str, _identifier("whk", what="webhook"), _path(f"whk_{_ID}", "The webhook's id.")]
DeliveryId = Annotated[
    str, _identifier("msg", what="delivery"), _path(f"msg_{_ID}", "The id of a message, as the list of them gives it.")
]
ArtifactName = Annotated[
    str,
    AfterValidator(_of_form(ARTIFACT_NAME, what="artifact", hint="GET the list of the job's artifacts.")),
    _path(ARTIFACT_NAME, "The artifact's name, as its list gives it."),
]
PageSize = Annotated[int, Query(ge=1, le=200, description="Most entries on the page.")]
PageToken = Annotated[
    str | None, Query(max_length=1024, description="`next_page_token` of the page before, with the same filters.")
]


MOST_COMPARED = 16


def each_benchmark(ids: str) -> tuple[str, ...]:
    """The benchmarks of a list with commas between.

    Raises:
        InvalidRequest: they are fewer than two, too many, or one stands there twice.
        NotFound: one is no id of a benchmark.
    """
    named = tuple(each.strip() for each in ids.split(","))
    if len(set(named)) < len(named) or not 2 <= len(named) <= MOST_COMPARED:
        detail = f"{len(named)} benchmarks are named, {len(set(named))} of them different."
        hint = f"Name 2 to {MOST_COMPARED} different ones, with commas between."
        raise InvalidRequest(detail, hint=hint, pointer="/ids")
    for each in named:
        if not re.fullmatch(rf"bmk_{_ID}", each):
            raise NotFound(f"There is no benchmark '{each[:100]}'.", hint="GET /v1/benchmarks lists them.")
    return named


async def known_query_only(request: Request) -> None:
    """Refuse a query parameter that the route does not take: a misspelt filter would silently filter nothing.

    Raises:
        InvalidRequest: with the nearest known name, or because a value holds a NUL, which no database column can.
    """
    route: APIRoute = request.scope["route"]
    known = sorted(field.alias for field in route.dependant.query_params)
    for name, value in request.query_params.multi_items():
        if name not in known:
            hint = nearest(name, known) if known else "This path takes none."
            raise InvalidRequest(
                "This query parameter is not known here.", hint=hint, pointer=f"/{name[:100]}".replace("\x00", "")
            )
        if "\x00" in value:
            raise InvalidRequest("The text holds a NUL character.", hint="Leave it out.", pointer=f"/{name}")
