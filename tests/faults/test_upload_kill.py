"""The API is killed in the midst of uploads: nothing half is ever seen, and what had come need not come again."""

import hashlib
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from store import orphans, uploads
from store.artifacts import Artifacts
from store.db import Database

REPOSITORY = Path(__file__).resolve().parents[2]
MIB = 1 << 20
PART = 8 * MIB
SIZE = 2 * PART + 3 * MIB + 17
KILLS = 20


@dataclass
class MortalApi:
    """The API on SQLite, to be killed and started again."""

    url: str
    port: int
    database_url: str
    process: subprocess.Popen[str]

    def kill_and_start(self) -> None:
        """SIGKILL to the one that runs; the next one answers when this returns."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip().isdecimal()
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{self.url}/livez").raise_for_status()
                return
            except httpx.TransportError:
                assert time.monotonic() < deadline, "the API does not start"
                time.sleep(0.02)


@pytest.fixture
def api(tmp_path: Path, sqlite_url: str, unused_port: Callable[[], int]) -> Iterator[MortalApi]:
    port = unused_port()
    addresses = {"DISTILLERY_DATABASE_URL": sqlite_url, "DISTILLERY_ARTIFACTS": str(tmp_path / "artifacts")}
    command = [sys.executable, "-m", "tests.faults.forked_api", str(port)]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(command, cwd=REPOSITORY, env=os.environ | addresses, **pipes) as process:
        mortal = MortalApi(f"http://127.0.0.1:{port}", port, sqlite_url, process)
        mortal.kill_and_start()
        yield mortal
        assert process.stdin is not None
        process.stdin.close()


def send_some(port: int, path: str, content: bytes, *, cut: int) -> None:
    """Send the head and the first bytes of a part, and do not wait for an answer."""
    kind = "Content-Type: application/octet-stream"
    head = f"PUT {path} HTTP/1.1\r\nHost: x\r\n{kind}\r\nContent-Length: {len(content)}\r\n"
    with closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as connection:
        connection.sendall(head.encode() + b"\r\n" + content[:cut])


def begin(url: str, content: bytes) -> dict[str, Any]:
    spec = {"name": "flowers.zip", "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    upload: dict[str, Any] = httpx.post(f"{url}/v1/uploads", json=spec).json()
    return upload


def parts_of(content: bytes) -> dict[int, bytes]:
    return {place + 1: content[at : at + PART] for place, at in enumerate(range(0, len(content), PART))}


@pytest.mark.timeout(600)
def test_an_upload_survives_kills_of_the_api_at_any_offset(api: Any, tmp_path: Path) -> None:
    """Row 16: the API is killed twenty times, each time further on in the file; the file arrives, byte for byte."""
    content = random.Random(0).randbytes(SIZE)
    upload = begin(api.url, content)
    path = f"/v1/uploads/{upload['id']}"
    answered: set[int] = set()
    for kill in range(KILLS):
        offset = SIZE * kill // KILLS
        for number, part in parts_of(content).items():
            end = (number - 1) * PART + len(part)
            if end <= offset and number not in answered:
                assert httpx.put(f"{api.url}{path}/parts/{number}", content=part, timeout=60).status_code == 200
                answered.add(number)
            elif end > offset:
                send_some(api.port, f"{path}/parts/{number}", part, cut=offset - (number - 1) * PART)
                break
        api.kill_and_start()
        seen = httpx.get(f"{api.url}{path}").json()
        assert set(seen["missing"]) == {1, 2, 3} - answered
        assert not seen["complete"]
    for number in httpx.get(f"{api.url}{path}").json()["missing"]:
        last = httpx.put(f"{api.url}{path}/parts/{number}", content=parts_of(content)[number], timeout=60)
        assert last.status_code == 200
    database, artifacts = Database(api.database_url), Artifacts(str(tmp_path / "artifacts"))
    with database.read() as session:
        whole = uploads.whole(session, upload["id"])
        assert orphans.missing(session, artifacts, verify=True) == []
    database.close()
    stored = b"".join(piece for part in whole.parts for piece in artifacts.stream(part.key))
    assert hashlib.sha256(stored).hexdigest() == upload["sha256"]
