"""Which form of an answer a client gets."""

import pytest

from app.negotiate import not_modified, preferred, wants_stream

BOTH = ("application/json", "text/html")


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("text/html", "text/html"),
        ("text/*", "text/html"),
        ("TEXT/HTML", "text/html"),
        ("text/html;q=0.5, application/json", "application/json"),
        ("text/html, application/json;q=0.9", "text/html"),
        ("text/html;q=0, */*", "application/json"),
        ("*/*;q=0.1, text/html;q=0.2", "text/html"),
        ("image/png", "application/json"),
        ("text/html;q=nonsense", "application/json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
    ],
)
def test_the_best_liked_form_is_chosen(accept: str | None, kind: str) -> None:
    assert preferred(accept, offered=BOTH) == kind


@pytest.mark.parametrize(
    ("accept", "stream"),
    [
        (None, False),
        ("*/*", False),
        ("text/*", False),
        ("text/event-stream", True),
        ("text/event-stream, */*", True),
        ("text/event-stream;q=0.2, application/json", False),
        ("application/json;q=0.2, text/event-stream", True),
        ("text/event-stream;q=0", False),
    ],
)
def test_a_stream_is_sent_only_to_those_who_name_it(accept: str | None, stream: bool) -> None:
    assert wants_stream(accept) is stream


@pytest.mark.parametrize(
    ("held", "current"),
    [(None, False), ("", False), ('"a"', True), ('W/"a"', True), ('"b", "a"', True), ('"b"', False), ("*", True)],
)
def test_tags_are_compared_weakly(held: str | None, current: bool) -> None:
    assert not_modified(held, '"a"') is current
