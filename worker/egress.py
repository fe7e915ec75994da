"""One request to a stranger's server: its name is looked up once, and the connection goes to the very address checked.

No proxy, no redirect, no cookie, no second use of a connection; a bound on the time and on the bytes of everything.
"""

import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import httpcore
import httpx

from distillery.errors import Unavailable
from store.addresses import Address, Target, literal, may_reach, not_allowed, parse_target
from store.config import WEBHOOK_TRY_SECONDS, Network

MOST_ANSWER_BYTES = 64 * 1024
"""Of the answer, its head included."""
_FAILURES = (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError)
Resolve = Callable[[str, int], Sequence[Address]]


def look_up(host: str, port: int) -> Sequence[Address]:
    """All addresses of a name, each once, in the order in which to try them.

    Raises:
        OSError: the name has none, or nobody could be asked.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return tuple(dict.fromkeys(ipaddress.ip_address(address[0]) for *_, address in found))


@dataclass(frozen=True)
class Egress:
    """How requests leave this service."""

    seconds: float = WEBHOOK_TRY_SECONDS
    """For everything together, from looking the name up to the last byte of the answer."""
    networks: Sequence[Network] = ()
    """Allowed besides what is public."""
    resolve: Resolve = look_up
    tls: ssl.SSLContext = field(default_factory=httpx.create_ssl_context)

    def post(self, url: str, *, headers: Mapping[str, str], body: bytes) -> int:
        """Send the body; the status of the answer. The rest of it is read to let the sender finish, and dropped.

        Raises:
            InvalidWebhook: nothing may be sent there, and no connection was made.
            Unavailable: no answer came in time, or none that is HTTP.
        """
        limit = _Limit(time.monotonic() + self.seconds, seconds=self.seconds)
        target = parse_target(url, networks=self.networks)
        addresses = self._allowed(target, limit)
        # From the parts that were checked: nobody else reads the text of the URL and finds another host in it.
        where = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
        sent = {"Host": target.authority, "Connection": "close"} | dict(headers)
        backend = _Pinned(addresses, limit)
        try:
            with (
                httpcore.ConnectionPool(ssl_context=self.tls, network_backend=backend) as pool,
                pool.stream("POST", where, headers=list(sent.items()), content=body) as answer,
            ):
                with suppress(*_FAILURES):  # the status says it all
                    for _ in answer.iter_stream():
                        pass
                return answer.status
        except _FAILURES as error:
            raise limit.failed(target, error) from error

    def _allowed(self, target: Target, limit: "_Limit") -> Sequence[Address]:
        address = literal(target.host)
        addresses = (address,) if address else self._looked_up(target, limit)
        for each in addresses:
            if not may_reach(target, each, networks=self.networks):
                raise not_allowed(target, each)
        return addresses

    def _looked_up(self, target: Target, limit: "_Limit") -> Sequence[Address]:
        """On a thread of its own, since the system's resolver knows no deadline."""
        answers: queue.SimpleQueue[Sequence[Address] | OSError] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self.resolve(target.host, target.port))
            except OSError as error:
                answers.put(error)

        threading.Thread(target=ask, name="name look-up", daemon=True).start()
        try:
            found = answers.get(timeout=limit.left())
        except queue.Empty:
            raise Unavailable(f"The name {target.host} was not found within {self.seconds:g} s.") from None
        if isinstance(found, OSError) or not found:
            why = f": {found.strerror or found}" if isinstance(found, OSError) else ""
            raise Unavailable(f"The name {target.host} has no address{why}.") from None
        return found


@dataclass
class _Limit:
    """What one exchange may still use."""

    deadline: float
    seconds: float
    bytes_left: int = MOST_ANSWER_BYTES

    def left(self) -> float:
        """Seconds, never quite none: a socket with a timeout of 0 would not wait at all."""
        return max(self.deadline - time.monotonic(), 0.001)

    def check(self) -> None:
        if time.monotonic() >= self.deadline:
            raise httpcore.ReadTimeout("the time is over")

    def failed(self, target: Target, error: Exception) -> Unavailable:
        where = f"{target.host} port {target.port}"
        if isinstance(error, httpcore.TimeoutException):
            return Unavailable(f"{where} did not answer within {self.seconds:g} s.")
        if isinstance(error, httpcore.ConnectError):
            return Unavailable(f"{where} cannot be connected to: {error}.")
        return Unavailable(f"{where} gave no answer that is HTTP: {error or type(error).__name__}.")


@dataclass
class _Pinned(httpcore.NetworkBackend):
    """Connects to the addresses that were checked, whatever name it is told."""

    addresses: Sequence[Address]
    limit: _Limit
    _sockets: httpcore.NetworkBackend = field(default_factory=httpcore.SyncBackend)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError("no address")
        for place, address in enumerate(self.addresses):
            share = self.limit.left() / (len(self.addresses) - place)
            try:
                return _Bounded(self._sockets.connect_tcp(str(address), port, timeout=share), self.limit)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure


@dataclass
class _Bounded(httpcore.NetworkStream):
    """A connection on which every step has only what is left of the whole time, and of the bytes to read."""

    stream: httpcore.NetworkStream
    limit: _Limit

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.limit.check()
        if not self.limit.bytes_left:
            raise httpcore.ReadError(f"more than {MOST_ANSWER_BYTES} bytes")
        received = self.stream.read(min(max_bytes, self.limit.bytes_left), timeout=self.limit.left())
        self.limit.bytes_left -= len(received)
        return received

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.limit.check()
        self.stream.write(buffer, timeout=self.limit.left())

    def close(self) -> None:
        self.stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Bounded(self.stream.start_tls(ssl_context, server_hostname, timeout=self.limit.left()), self.limit)
