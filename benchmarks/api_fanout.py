"""Many who listen to one job: how long an event takes from its commit to each of them, and what waiting costs."""

import asyncio
import itertools
import time
from dataclasses import dataclass

from benchmarks.api_load_client import percentile
from benchmarks.api_peers import Running
from store import leases
from store.db import Database

IDLE_SECONDS = 3.0
BETWEEN_SECONDS = 0.5
BURST = 50
BEFORE = 2
"""Events of a job that was claimed: it was queued, and it started."""
MOST_SECONDS = 60.0


@dataclass(frozen=True)
class FanOut:
    """What became of the events, in all of the streams."""

    p50: float
    """Milliseconds from the commit to the arrival."""
    p99: float
    delivered_per_second: float
    """Of a burst of events to all, from its first commit to the last arrival."""
    idle_cpu: float
    """Processor seconds a second of the API while nothing happens."""
    memory: float
    """Megabytes of the API with all streams open."""


class Listener:
    """One stream: when each event arrived, by its number."""

    def __init__(self) -> None:
        self.arrived: dict[int, float] = {}
        self._more = asyncio.Event()
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, running: Running, job_id: str) -> None:
        """Ask for the stream, and wait for its first event."""
        host, port = running.url.removeprefix("http://").split(":")
        reader, self._writer = await asyncio.open_connection(host, int(port))
        lines = (f"GET /v1/jobs/{job_id}/events HTTP/1.1", "Host: x", f"Authorization: Bearer {running.key}",
                 "Accept: text/event-stream", "", "")  # fmt: skip
        self._writer.write("\r\n".join(lines).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.partition(b"\r\n")[0], head
        self._task = asyncio.create_task(self._listen(reader))
        await self.has(1)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        async for line in reader:
            if line.startswith(b"id: "):
                self.arrived.setdefault(int(line[4:]), time.monotonic())
                self._more.set()
        raise EOFError("the stream has ended")

    async def has(self, seq: int) -> None:
        """Wait until event `seq` has arrived."""
        async with asyncio.timeout(MOST_SECONDS):
            while seq not in self.arrived:
                self._more.clear()
                await self._more.wait()

    def close(self) -> None:
        """Hang up."""
        self._task.cancel()
        if self._writer is not None:
            self._writer.close()


async def fan_out(running: Running, database: Database, *, clients: int, events: int) -> FanOut:
    """Open so many streams of one job, let events happen one by one, and then a burst of them."""
    job_id = running.ids[-1]
    listeners = [Listener() for _ in range(clients)]
    with database.transaction() as session:
        claim = leases.claim(session, worker="fan-out", queues=["default"], lease_seconds=3600, job_id=job_id)
    if claim is None:
        raise SystemExit("The job that is listened to is no longer queued: use a new database.")
    for start in range(0, clients, 50):
        await asyncio.gather(*(each.open(running, job_id) for each in listeners[start : start + 50]))
    memory = running.memory()[0]
    idle = _spent(running)
    await asyncio.sleep(IDLE_SECONDS)
    idle = (_spent(running) - idle) / IDLE_SECONDS

    numbered = itertools.count(BEFORE + 1)

    def happen() -> tuple[int, float]:
        """One event; its number, and when it was committed."""
        with database.transaction() as session:
            leases.event(session, claim, "warning", "Something happened.", data={"place": 1})
        return next(numbered), time.monotonic()

    took: list[float] = []
    for _ in range(events):
        seq, committed = await asyncio.to_thread(happen)
        await asyncio.gather(*(each.has(seq) for each in listeners))
        took += [each.arrived[seq] - committed for each in listeners]
        await asyncio.sleep(BETWEEN_SECONDS)
    began = time.monotonic()
    numbers = await asyncio.to_thread(lambda: [happen()[0] for _ in range(BURST)])
    await asyncio.gather(*(each.has(numbers[-1]) for each in listeners))
    lasted = max(each.arrived[numbers[-1]] for each in listeners) - began
    assert all(seq in each.arrived for each in listeners for seq in numbers), "an event was lost"
    for each in listeners:
        each.close()
    return FanOut(percentile(took, 0.5), percentile(took, 0.99), BURST * clients / lasted, idle, memory)


def _spent(running: Running) -> float:
    times = running.process.cpu_times()
    return float(times.user + times.system)
