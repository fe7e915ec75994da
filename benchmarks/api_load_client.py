"""The clients of `api_load.py`: requests at a constant rate whatever the service does, and sockets that dawdle.

The HTTP here is the least that can read our answers, so that the measuring takes little from what is measured.
"""

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized

REST_SECONDS = 4.0
"""A connection that has rested for longer is not used again: the service may be closing it."""
DRIBBLE_SECONDS = 1.0


@dataclass
class Measured:
    """What became of requests: seconds from when each was due to the last byte of its good answer, by kind."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0
    """Connections that ended without an answer."""

    def percentile(self, kinds: Sequence[str], share: float) -> float:
        """Milliseconds that `share` of the requests of these kinds stayed below."""
        return percentile([value for kind in kinds for value in self.seconds.get(kind, [])], share)

    @property
    def failed(self) -> int:
        """Answers of 500 and above, and connections that broke."""
        return self.broken + sum(count for status, count in self.statuses.items() if status >= 500)


def percentile(seconds: Sequence[float], share: float) -> float:
    """In milliseconds, by the nearest rank; NaN of nothing."""
    ordered = sorted(seconds)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


class Connections:
    """Kept-alive connections to one service; the one used last is taken first, so that there are few."""

    def __init__(self, port: int, *, key: str) -> None:
        self._port, self._key = port, key
        self._resting: list[tuple[float, asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def request(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and body of the answer."""
        reader, writer = await self._connection()
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._key}\r\n{kind}\r\n"
        writer.write(head.encode() + body)
        try:
            told = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(told.partition(b"content-length:")[2].partition(b"\r\n")[0])
            content = await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            writer.close()
            raise
        if b"connection: close" in told:
            writer.close()
        else:
            self._resting.append((time.monotonic(), reader, writer))
        return int(told.split(b" ", 2)[1]), content

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._resting:
            since, reader, writer = self._resting.pop()
            if time.monotonic() - since < REST_SECONDS and not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self._port)

    def close(self) -> None:
        """Close those that rest."""
        for _, _, writer in self._resting:
            writer.close()


async def one_by_one(connections: Connections, path: str, *, count: int) -> Measured:
    """The same GET again and again, each after the answer to the one before."""
    measured = Measured()
    for _ in range(count):
        await _timed(connections, measured, "list", ("GET", path), due=time.perf_counter())
    return measured


async def constant_rate(
    connections: Connections, *, seconds: float, submits: float, reads: float, body: bytes, job_ids: Sequence[str]
) -> Measured:
    """So many submits and reads a second, evenly spaced; half of the reads is of a job, a third of a list page, a
    sixth of a page of events. Nothing waits for anything else: a slow answer delays no other request.
    """
    chance = random.Random(0)  # noqa: S311 - which job is read
    kinds = itertools.cycle(("job", "list", "job", "events", "job", "list"))
    plan = [(number / submits, "submit") for number in range(int(seconds * submits))]
    plan += [((number + 0.5) / reads, next(kinds)) for number in range(int(seconds * reads))]
    measured, running = Measured(), set()
    start = time.perf_counter()
    for at, kind in sorted(plan):
        if (early := start + at - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        job_id = chance.choice(job_ids)
        path = {"list": "/v1/jobs", "events": f"/v1/jobs/{job_id}/events"}.get(kind, f"/v1/jobs/{job_id}")
        what = ("POST", "/v1/jobs", body) if kind == "submit" else ("GET", path)
        task = asyncio.create_task(_timed(connections, measured, kind, what, due=start + at))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    return measured


async def _timed(
    connections: Connections,
    measured: Measured,
    kind: str,
    what: tuple[str, str] | tuple[str, str, bytes],
    *,
    due: float,
) -> None:
    try:
        status, _ = await connections.request(*what)
    except (OSError, asyncio.IncompleteReadError):
        measured.broken += 1
        return
    measured.statuses[status] += 1
    if status < 400:
        measured.seconds.setdefault(kind, []).append(time.perf_counter() - due)


def dawdle(port: int, count: int, opened: "Synchronized[int]", closed: "Synchronized[int]") -> None:
    """Keep `count` sockets busy sending a head a byte a second, again as soon as the service has closed them."""
    asyncio.run(_dawdle(port, count, opened, closed))


async def _dawdle(port: int, count: int, opened: "Synchronized[int]", closed: "Synchronized[int]") -> None:
    async def one() -> None:
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                opened.value += 1
                await _dribble(reader, writer)
                closed.value += 1
            await asyncio.sleep(DRIBBLE_SECONDS)

    await asyncio.gather(*(one() for _ in range(count)))


async def _dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    ended = asyncio.create_task(reader.read())
    try:
        writer.write(b"GET /livez HTTP/1.1\r\nX-Slow: ")
        while not (await asyncio.wait([ended], timeout=DRIBBLE_SECONDS))[0]:
            writer.write(b"a")
    finally:
        ended.cancel()
        writer.close()
