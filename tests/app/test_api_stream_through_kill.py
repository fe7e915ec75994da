"""Both clients follow a job through an API that is killed and started again: no event is missed, none comes twice."""

import asyncio
import signal
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from distillery.client import AsyncClient, Client, Timeouts
from store import leases

SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"},
    "teacher": {"architecture": "seed_teacher", "train": {"epochs": 2}},
    "student": {"architecture": "seed_student"},
}
PATIENT = Timeouts(outage=120)
KILLS = 3


def follow(url: str, job_id: str, kind: str, seen: list[int]) -> None:
    async def follow_async() -> None:
        async with AsyncClient(url, timeouts=PATIENT) as client:
            async for event in client.stream(job_id):
                seen.append(event.seq)  # noqa: PERF401 - looked at while it grows

    if kind == "async":
        asyncio.run(follow_async())
        return
    with Client(url, timeouts=PATIENT) as client:
        for event in client.stream(job_id):
            seen.append(event.seq)  # noqa: PERF401 - looked at while it grows


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_stream_goes_through_kills_without_a_gap_or_a_repeat(
    api_process: Any, make_worker: Any, wait_until: Any, tmp_path: Path, kind: str
) -> None:
    with api_process(tmp_path) as process:
        process.start()
        job_id = httpx.post(f"{process.url}/v1/jobs", json=SPEC).json()["id"]
        worker = make_worker(process.database_url, tmp_path)
        seen: list[int] = []
        follower = threading.Thread(target=follow, args=(process.url, job_id, kind, seen))
        follower.start()
        claim = worker.claim(job_id)
        for _ in range(KILLS):
            worker.do(leases.event, claim, "warning", "before the kill")
            told = len(seen)
            wait_until(lambda told=told: len(seen) > told)
            assert process.stop(signal.SIGKILL) == -signal.SIGKILL
            for _ in range(20):
                worker.do(leases.event, claim, "warning", "while nobody serves")
            process.start()
        worker.succeed(claim)
        follower.join(timeout=60)
        assert not follower.is_alive(), "the stream did not end with the job"
        total = httpx.get(f"{process.url}/v1/jobs/{job_id}/events?page_size=200").json()["data"][-1]["seq"]
        assert seen == list(range(1, total + 1))
        worker.database.close()
