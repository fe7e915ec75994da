"""From the service's answers to values and errors: pure functions of one response whose body has been read."""

from collections.abc import Callable
from typing import Any, TypeVar

import httpx
from pydantic import TypeAdapter, ValidationError

from distillery.errors import FieldProblem, ServiceRefused, Unavailable
from distillery.views import Page, Problem

T = TypeVar("T")

START_HINT = "Start one with `distillery up`, or name yours with --server or DISTILLERY_SERVER."


def reader(kind: type[T]) -> Callable[[httpx.Response], T]:
    """How to read an answer whose body is a `kind`.

    The returned function raises:
        ServiceRefused: the answer is a problem, or not what the contract promises.
    """
    adapter: TypeAdapter[T] = TypeAdapter(kind)
    return lambda response: _read(adapter, response)


def nothing(response: httpx.Response) -> None:
    """Read an answer without a body.

    Raises:
        ServiceRefused: the answer is a problem.
    """
    if not response.is_success:
        raise refusal(response)


def content(response: httpx.Response) -> bytes:
    """The bytes of an answer.

    Raises:
        ServiceRefused: the answer is a problem.
    """
    nothing(response)
    return response.content


def tag(response: httpx.Response) -> str:
    """The `ETag` of an answer.

    Raises:
        ServiceRefused: the answer is a problem, or has none.
    """
    nothing(response)
    if found := str(response.headers.get("etag", "")):
        return found
    raise ServiceRefused(
        f"{_asked(response)} was answered without an ETag.",
        status=response.status_code,
        problem_code="UNEXPECTED_ANSWER",
        hint="Is this a Distillery service, and of the version of this client?",
    )


def rows(kind: type[T]) -> Callable[[httpx.Response], tuple[T, ...]]:
    """How to read a list that fits one page."""
    whole: Callable[[httpx.Response], Page[T]] = reader(Page[kind])  # type: ignore[valid-type]  # a runtime parameter
    return lambda response: whole(response).data


def _read(adapter: TypeAdapter[T], response: httpx.Response) -> T:
    if not response.is_success:
        raise refusal(response)
    try:
        return adapter.validate_json(response.content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "/".join(str(part) for part in first["loc"]) or "the body"
        raise ServiceRefused(
            f"{_asked(response)} was answered with {response.status_code}, but not as agreed: {where}: {first['msg']}.",
            status=response.status_code,
            problem_code="UNEXPECTED_ANSWER",
            hint="Is this a Distillery service, and of the version of this client?",
        ) from None


def refusal(response: httpx.Response) -> ServiceRefused:
    """The error that an answer of 300 and above stands for."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return ServiceRefused(
            f"{_asked(response)} was answered with {response.status_code} {response.reason_phrase} "
            "and no explanation that this client can read.",
            status=response.status_code,
            problem_code="UNEXPECTED_ANSWER",
            hint="Is this a Distillery service? Another server may be listening at this address.",
        )
    found = [FieldProblem(each.pointer, each.code, each.detail, each.hint) for each in problem.errors]
    return ServiceRefused(
        problem.detail, status=problem.status, problem_code=problem.code, problems=found, hint=problem.hint
    )


def unreachable(error: httpx.TransportError, *, server: str) -> Unavailable:
    """What a failed exchange means to a user: nobody there, or somebody who does not answer."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Unavailable(f"No Distillery service answers at {server} ({_said(error)}).", hint=START_HINT)
    if isinstance(error, httpx.TimeoutException):
        return Unavailable(f"The service at {server} did not answer in time ({_said(error)}).", hint="Try again.")
    return Unavailable(f"The connection to {server} broke ({_said(error)}).", hint="Try again.")


def retry_after(response: httpx.Response) -> float | None:
    """Seconds that the service asks to wait; None when it does not say, or says a date."""
    said = response.headers.get("retry-after", "")
    return float(said) if said.isascii() and said.isdigit() else None


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _asked(response: httpx.Response) -> str:
    request: Any = response.request
    return f"{request.method} {request.url}"
