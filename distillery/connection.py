"""What both clients know of their service, and the requests they make of it, apart from sending them."""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from distillery import calls, flows
from distillery.calls import Call
from distillery.download import Transfer
from distillery.errors import InvalidRequest
from distillery.flows import Flow, Patience, Timeouts
from distillery.spec import JobSpec, LatencySpec
from distillery.streams import SILENCE_SECONDS, Follower
from distillery.views import Benchmark, Job

DEFAULT_SERVER = "http://127.0.0.1:8000"
PAGE_SIZE = 100
Spec = JobSpec | Mapping[str, Any]
Measurement = LatencySpec | Mapping[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Connection:
    """Where the service is, with which key, and how patient to be with it.

    Raises:
        InvalidRequest: `server` is not the address of a service.
    """

    server: str
    api_key: str | None = field(repr=False)
    timeouts: Timeouts

    def __post_init__(self) -> None:
        address = urlsplit(self.server)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise InvalidRequest(
                f"'{self.server}' is not the address of a service.", hint=f"Write it like {DEFAULT_SERVER}."
            )

    @property
    def options(self) -> dict[str, Any]:
        """What httpx's client, of either kind, is made with."""
        key = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return {
            "base_url": self.server,
            "headers": {"User-Agent": "distillery-python"} | key,
            "timeout": self._timeout(),
            # A proxy from the environment cannot reach this machine's own loopback interface.
            "trust_env": not _is_loopback(urlsplit(self.server).hostname or ""),
        }

    def _timeout(self, *, held_seconds: float = 0.0, read_seconds: float | None = None) -> httpx.Timeout:
        own = self.timeouts
        read = (own.read if read_seconds is None else read_seconds) + held_seconds
        return httpx.Timeout(connect=own.connect, read=read, write=own.write, pool=own.connect)

    def outage(self) -> Patience:
        """Patience for what outlives a restart of the service."""
        return Patience(tries=None, seconds=self.timeouts.outage)

    def request(self, call: Call[Any]) -> dict[str, Any]:
        """Arguments of httpx's `request`."""
        return {
            "method": call.method,
            "url": call.path,
            "params": dict(call.params),
            "headers": dict(call.headers),
            "content": call.body,
            "timeout": self._timeout(held_seconds=call.held_seconds),
        }

    def exchange(self, call: Call[T]) -> Flow[T]:
        """One request, again where that is safe."""
        outage = self.outage() if call.keyed else None
        return flows.exchange(call, server=self.server, patience=Patience(), outage=outage)

    def asking_once(self, call: Call[T]) -> Flow[T]:
        """One request and no second."""
        return flows.exchange(call, server=self.server, patience=Patience(tries=0))

    def waiting(self, job_id: str, *, timeout_seconds: float | None, check: bool) -> Flow[Job]:
        """Requests until a job has ended."""
        return flows.wait_for_job(
            job_id, timeout_seconds=timeout_seconds, server=self.server, patience=self.outage(), check=check
        )

    def measuring(self, job_id: str, *, spec: Measurement | None, wait: bool) -> Flow[Benchmark]:
        """Requests until a measurement has ended."""
        return flows.measure_latency(job_id, spec=spec, wait=wait, server=self.server, patience=self.outage())

    def follower(self, job_id: str, *, after: int) -> Follower:
        """A reader of a job's events."""
        return Follower(job_id, after=after, server=self.server, patience=self.outage())

    def streaming(self, follower: Follower) -> dict[str, Any]:
        """Arguments of httpx's `stream` for the reader's next connection."""
        return {
            "method": "GET",
            "url": follower.path,
            "headers": follower.headers,
            "params": follower.params,
            "timeout": self._timeout(read_seconds=SILENCE_SECONDS),
        }

    def fetching(self, job_id: str, transfer: Transfer) -> dict[str, Any]:
        """Arguments of httpx's `stream` for the rest of a file, which may lie in another store."""
        path = calls.artifact_path(job_id, transfer.artifact.name)
        return {"method": "GET", "url": path, "headers": transfer.headers, "follow_redirects": True}


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
