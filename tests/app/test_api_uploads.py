"""Files sent in parts: what is asked of each part, what is kept when one breaks off, and what is refused."""

import base64
import hashlib
import os
from typing import Any

import httpx
import pytest

from store import orphans, uploads
from store.tables import UploadRow

MIB = 1 << 20
PART = 8 * MIB


def announce(live: Any, content: bytes, **changes: Any) -> dict[str, Any]:
    """Announce these bytes; the upload."""
    spec = {"name": "flowers.zip", "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    answer = live.http.post("/v1/uploads", json=spec | changes)
    assert answer.status_code == 201, answer.text
    upload: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/uploads/{upload['id']}"
    return upload


def send(live: Any, upload: dict[str, Any], number: int, content: bytes, **headers: str) -> httpx.Response:
    """Send the bytes of one part."""
    return live.http.put(f"/v1/uploads/{upload['id']}/parts/{number}", content=content, headers=headers)


def digest(content: bytes) -> str:
    """As RFC 9530 writes it."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def test_parts_may_come_in_any_order_and_make_the_file(either: Any) -> None:
    content = os.urandom(2 * PART + 1000)
    upload = announce(either, content)
    assert (upload["parts"], upload["missing"], upload["complete"]) == (3, [1, 2, 3], False)
    for number in (3, 1):
        part = content[(number - 1) * PART : number * PART]
        answer = send(either, upload, number, part, **{"Content-Digest": digest(part)})
        assert answer.status_code == 200, answer.text
    assert either.http.get(f"/v1/uploads/{upload['id']}").json()["missing"] == [2]
    assert send(either, upload, 2, content[PART : 2 * PART]).json()["complete"]
    with either.worker.database.read() as session:
        whole = uploads.whole(session, upload["id"])
    stored = b"".join(b"".join(either.worker.artifacts.stream(part.key)) for part in whole.parts)
    assert stored == content


def test_a_part_sent_again_takes_the_place_of_the_first(alone: Any) -> None:
    upload = announce(alone, b"the right bytes")
    assert send(alone, upload, 1, b"the wrong bytes").json()["complete"]
    assert send(alone, upload, 1, b"the right bytes").json()["complete"]
    with alone.worker.database.read() as session:
        (part,) = uploads.whole(session, upload["id"]).parts
    assert b"".join(alone.worker.artifacts.stream(part.key)) == b"the right bytes"


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"x" * 11, {}, 413, "TOO_LARGE"),
        (b"x" * 9, {}, 422, "INVALID_REQUEST"),
        (b"y" * 10, {"Content-Digest": digest(b"x" * 10)}, 400, "DIGEST_MISMATCH"),
        (b"x" * 10, {"Content-Digest": "md5=:abc:"}, 422, "INVALID_REQUEST"),
    ],
)
def test_bytes_that_are_not_those_of_the_part_are_refused_and_nothing_is_kept(
    live: Any, check_problem: Any, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    upload = announce(live, b"x" * 10)
    problem = check_problem(send(live, upload, 1, content, **headers), status, code)
    assert problem.hint
    assert live.http.get(f"/v1/uploads/{upload['id']}").json()["missing"] == [1]
    kept = [each for page in live.worker.artifacts.listed("uploads") for each in page if upload["id"] in each.path]
    assert kept == []


def test_a_part_of_no_upload_is_not_read(live: Any, check_problem: Any) -> None:
    unknown = {"id": "upl_" + "0" * 26}
    check_problem(send(live, unknown, 1, b"x"), 404, "NOT_FOUND")
    upload = announce(live, b"x")
    check_problem(send(live, upload, 2, b"x"), 404, "NOT_FOUND")


def test_more_than_the_quota_is_not_even_announced(launch: Any, check_problem: Any, monkeypatch: Any) -> None:
    with launch() as live:
        object.__setattr__(live.app.state.service.config, "quota_bytes", 100)
        announce(live, b"x" * 60)
        answer = live.http.post("/v1/uploads", json={"name": "b", "size_bytes": 41, "sha256": "0" * 64})
        problem = check_problem(answer, 413, "QUOTA_EXCEEDED")
        assert "DISTILLERY_QUOTA_BYTES" in problem.hint


def test_an_upload_is_forgotten_a_day_after_its_last_use(either: Any) -> None:
    kept, gone = announce(either, b"kept"), announce(either, b"gone")
    for upload, content in ((kept, b"kept"), (gone, b"gone")):
        send(either, upload, 1, content)
    with either.worker.database.transaction() as session:
        session.get(UploadRow, gone["id"]).used_at -= uploads.KEPT_SECONDS
    with either.worker.database.transaction() as session:
        assert uploads.sweep(session) == 1
    assert either.http.get(f"/v1/uploads/{gone['id']}").status_code == 404
    assert either.http.get(f"/v1/uploads/{kept['id']}").json()["complete"]
    with either.worker.database.read() as session:
        assert orphans.missing(session, either.worker.artifacts, verify=True) == []


def test_an_upload_can_be_deleted(alone: Any) -> None:
    upload = announce(alone, b"x")
    assert alone.http.delete(f"/v1/uploads/{upload['id']}").status_code == 204
    assert alone.http.get(f"/v1/uploads/{upload['id']}").status_code == 404


def test_an_incomplete_upload_makes_no_data_set(alone: Any, check_problem: Any) -> None:
    upload = announce(alone, b"x")
    answer = alone.http.post("/v1/datasets", json={"name": "flowers", "uploads": [upload["id"]]})
    problem = check_problem(answer, 409, "WRONG_STATE")
    assert problem.errors[0].pointer == "/uploads/0"
    assert "parts/1" in problem.hint


def test_a_pickled_model_is_refused_at_once_with_what_to_do(alone: Any, check_problem: Any) -> None:
    import pickle

    content = pickle.dumps({"weights": [1.0]})
    upload = announce(alone, content, name="teacher.safetensors")
    send(alone, upload, 1, content)
    answer = alone.http.post("/v1/models", json={"name": "teacher", "uploads": [upload["id"]]})
    problem = check_problem(answer, 422, "UNUSABLE_WEIGHTS")
    assert "distillery models convert" in problem.hint
