"""The one place where errors become HTTP: which class gets which code, and the problem document (RFC 9457) of each."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from distillery import errors
from distillery.errors import DistilleryError, FieldProblem
from distillery.spec.problems import problems_of
from distillery.views import FieldProblemView, Problem

PROBLEM_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 5

Responses = dict[int | str, dict[str, Any]]
STATUS: dict[type[DistilleryError], int] = {
    DistilleryError: 500,
    errors.InvalidRequest: 422,
    errors.InvalidPageToken: 400,
    errors.DigestMismatch: 400,
    errors.QuotaExceeded: 413,
    errors.TooLarge: 413,
    errors.UnsatisfiableRange: 416,
    errors.NotFound: 404,
    errors.WrongState: 409,
    errors.Outdated: 412,
    errors.Fenced: 409,
    errors.StorageFull: 507,
    errors.Unavailable: 503,
    errors.TooBusy: 429,
    errors.MissingDependency: 501,
}
"""A class that is not named here has the code of its parent."""

_PLAIN: dict[int, tuple[str, str]] = {
    400: ("BAD_REQUEST", "The request cannot be read"),
    401: ("UNAUTHORIZED", "A valid key is needed"),
    404: ("NOT_FOUND", "Not found"),
    405: ("METHOD_NOT_ALLOWED", "The method is not possible here"),
    408: ("TIMEOUT", "The request took too long"),
    413: ("TOO_LARGE", "The body is too large"),
    415: ("UNSUPPORTED_MEDIA_TYPE", "The body is of a kind that is not read here"),
    422: ("INVALID_REQUEST", "The request cannot be accepted"),
    429: ("TOO_MANY_REQUESTS", "Too many requests at once"),
    431: ("HEAD_TOO_LARGE", "The head of the request is too large"),
    500: ("INTERNAL", "The service failed"),
}
"""Code and title of what is refused before any of our own errors could be raised."""


def status_of(error: DistilleryError) -> int:
    """The HTTP status of one of our errors."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(
    scope: Scope,
    status: int,
    *,
    detail: str,
    hint: str = "",
    code: str = "",
    title: str = "",
    problems: Sequence[FieldProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer to a request that is refused or failed; code and title follow from the status when left out."""
    plain_code, plain_title = _PLAIN.get(status, ("HTTP_ERROR", HTTPStatus(status).phrase))
    code = code or plain_code
    body = Problem(
        type=f"urn:distillery:problem:{code.lower().replace('_', '-')}",
        title=title or plain_title,
        status=status,
        detail=detail,
        code=code,
        hint=hint,
        errors=tuple(FieldProblemView(pointer=p.pointer, code=p.code, detail=p.detail, hint=p.hint) for p in problems),
        trace_id=scope.get("state", {}).get("trace_id", ""),
    )
    return Response(body.model_dump_json(), status, headers=headers, media_type=PROBLEM_TYPE)


def install(app: FastAPI) -> None:
    """Let `app` answer every error with a problem document. Unforeseen ones are caught in `app.observe`.

    The framework types every handler for `Exception`, whatever it is registered for: hence `Any` in ours.
    """
    app.add_exception_handler(DistilleryError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)


async def _ours(request: Request, error: Any) -> Response:
    headers = {}
    if isinstance(error, errors.Unavailable):
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    if isinstance(error, errors.TooBusy):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, errors.UnsatisfiableRange):
        headers["Content-Range"] = f"bytes */{error.size}"
    return problem(
        request.scope,
        status_of(error),
        detail=error.detail,
        hint=error.hint,
        code=error.code,
        title=error.title,
        problems=error.problems,
        headers=headers,
    )


async def _invalid(request: Request, error: Any) -> Response:
    lines = error.errors()
    if any(tuple(line["loc"]) == ("body",) for line in lines):
        return problem(request.scope, 422, detail="The request has no body.", hint="Send one JSON object.")
    query = request.query_params
    for line in lines:
        line["loc"] = line["loc"][1:]  # without the framework's 'query', 'header' or 'path'
    problems = problems_of(lines, {name: query.getlist(name) for name in query})
    detail = "; ".join(f"{p.pointer}: {p.detail} {p.hint}".rstrip() for p in problems)
    return problem(request.scope, 422, detail=detail, problems=problems)


async def _plain(request: Request, error: Any) -> Response:
    method, path = request.method, request.scope["path"][:200]
    allowed = ", ".join(sorted(_methods_at(request)))
    if error.status_code == 405 and allowed:
        detail, hint = f"{method} is not possible at {path}.", f"Possible there: {allowed}."
        return problem(request.scope, 405, detail=detail, hint=hint, headers={"Allow": allowed})
    if error.status_code in (404, 405):
        hint = "GET /openapi.json lists every path."
        return problem(request.scope, 404, detail=f"There is nothing at {path}.", hint=hint)
    return problem(request.scope, error.status_code, detail=str(error.detail), headers=error.headers)


def _methods_at(request: Request) -> set[str]:
    """All methods of the path, its verb included. The framework names only those of the first route that fits."""
    path: str = request.scope["path"]
    fitting = (
        route
        for route in request.app.state.routes
        if route.path_regex.match(path) and route.path.count(":") == path.count(":")
    )
    return {method for route in fitting for method in route.methods}


def documented(*statuses: int) -> Responses:
    """The OpenAPI entries of these refusals, for the `responses` of a route."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {PROBLEM_TYPE: {"schema": schema}}}
        for status in statuses
    }
