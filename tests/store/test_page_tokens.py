"""Page tokens: every damage is noticed, none makes anything but our own error."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distillery.errors import InvalidPageToken
from store.paging import Position, decode, encode

POSITION = Position(1_700_000_000.123456, "job_01jd8q5w")
QUERY: dict[str, Any] = {"status": "queued", "q": None, "created_after": datetime(2026, 1, 1, tzinfo=UTC)}


def packed(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def test_a_token_comes_back_as_its_position() -> None:
    assert decode(encode(POSITION, query=QUERY), query=QUERY) == POSITION


def test_a_filter_left_out_is_the_same_as_none() -> None:
    assert decode(encode(POSITION, query={"status": "queued"}), query={"status": "queued", "q": None}) == POSITION


@given(position=st.builds(Position, st.floats(0, 1e11), st.text(min_size=1, max_size=40)), q=st.text(max_size=40))
def test_every_position_survives(position: Position, q: str) -> None:
    assert decode(encode(position, query={"q": q}), query={"q": q}) == position


def test_a_changed_character_is_noticed() -> None:
    token = encode(POSITION, query=QUERY)
    for place, old in enumerate(token):
        changed = token[:place] + ("A" if old != "A" else "B") + token[place + 1 :]
        try:
            assert decode(changed, query=QUERY) == POSITION  # the last character may carry bits that are not used
        except InvalidPageToken:
            continue


@given(st.text(max_size=60))
@example("é")
@example("A" * 5000)
@example(packed([1]))
@example(packed([1, 2, 3]))
@example(packed({"a": 1, "b": 2, "c": 3}))
@example(packed(["x", "y", "z"]))
@example(packed([None, None, None]))
@example(packed([10**400, "job", "x"]))
@example(packed([float("nan"), "job", "x"]))
@example(packed(None))
@example("[" * 900)
def test_what_we_did_not_issue_is_refused(token: str) -> None:
    with pytest.raises(InvalidPageToken, match="not issued for this query"):
        decode(token, query=QUERY)


def test_a_deep_nest_is_refused() -> None:
    deep = base64.urlsafe_b64encode(b"[" * 700).decode()
    with pytest.raises(InvalidPageToken):
        decode(deep, query=QUERY)
