"""What a client would rather have: `Accept`, `If-None-Match`."""

from collections.abc import Sequence


def preferred(accept: str | None, *, offered: Sequence[str]) -> str:
    """The media type of `offered` that an `Accept` header likes best; the first one when it likes none or all."""
    wishes = [_wish(part) for part in (accept or "*/*").split(",")]
    ranked = [(_quality(kind, wishes), -place) for place, kind in enumerate(offered)]
    return offered[-max(ranked)[1]]


def wants_stream(accept: str | None) -> bool:
    """Whether an `Accept` header names server-sent events, and likes JSON no better. A bare `*/*` does not."""
    wishes = [_wish(part) for part in (accept or "").split(",")]
    named = max((quality for kind, quality in wishes if kind == "text/event-stream"), default=0.0)
    return named > 0 and named >= _quality("application/json", wishes)


def not_modified(if_none_match: str | None, etag: str) -> bool:
    """Whether the client already holds what `etag` names (RFC 9110 §13.1.2: weak comparison)."""
    if if_none_match is None:
        return False
    held = [part.strip().removeprefix("W/") for part in if_none_match.split(",")]
    return etag in held or held == ["*"]


def _wish(part: str) -> tuple[str, float]:
    kind, *parameters = [piece.strip().lower() for piece in part.split(";")]
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return kind, float(value)
            except ValueError:
                return kind, 0.0
    return kind, 1.0


def _quality(kind: str, wishes: Sequence[tuple[str, float]]) -> float:
    """Of the wishes that fit, the most exact one counts."""
    family = kind.partition("/")[0]
    for pattern in (kind, f"{family}/*", "*/*"):
        fitting = [quality for wish, quality in wishes if wish == pattern]
        if fitting:
            return max(fitting)
    return 0.0
