"""Servers of one's own, to be crashed, cut off and filled up: Postgres, Redis, a cable, a clock, a disk, the API.

Plain context managers without pytest: the chaos run takes them too.
"""

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

REPOSITORY = Path(__file__).resolve().parents[2]
_READY_SECONDS = 60.0
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _until(condition: Callable[[], bool], *, what: str) -> None:
    give_up = time.monotonic() + _READY_SECONDS
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"{what} did not come true within {_READY_SECONDS:g} s.")
        time.sleep(0.05)


@dataclass(frozen=True)
class Postgres:
    """A cluster that nobody else uses."""

    folder: Path
    port: int
    control: tuple[str, ...]

    @property
    def url(self) -> str:
        """Of its database `postgres`, for a superuser."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it and wait until it takes connections; after a crash that includes the recovery."""
        # Without fsync a crash of the server loses nothing that it answered for; only one of the machine would.
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off -c shared_buffers=32MB"
        self._do("-o", options, "-l", str(self.folder / "log"), "start")

    def stop(self) -> None:
        """Shut it down; every connection is closed."""
        self._do("-m", "fast", "stop")

    def crash(self) -> None:
        """Kill every process of it at once, as a crash would; `start` recovers."""
        self._do("-m", "immediate", "stop")

    def restart(self) -> None:
        """Crash it and start it again."""
        self.crash()
        self.start()

    def _do(self, *arguments: str) -> None:
        subprocess.run([*self.control, *arguments], check=True, stdout=subprocess.DEVNULL, cwd="/", **_as_postgres())


def _as_postgres() -> dict[str, Any]:
    """initdb refuses to run as root; Debian's package brings the user postgres."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


@contextlib.contextmanager
def private_postgres() -> Iterator[Postgres]:
    """A running cluster, gone at the end of the block.

    Raises:
        FileNotFoundError: Postgres is not installed.
    """
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb") or (str(installed[-1]) if installed else None)
    if initdb is None:
        raise FileNotFoundError("No initdb: install Postgres (Debian: postgresql).")
    with tempfile.TemporaryDirectory(prefix="distillery-pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o777)
        command = [initdb, "-D", str(folder / "data"), "-U", "postgres", "-A", "trust", "--no-sync"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **_as_postgres())
        control = (str(Path(initdb).with_name("pg_ctl")), "-D", str(folder / "data"), "-w")
        server = Postgres(folder, _free_port(), control)
        server.start()
        try:
            yield server
        finally:
            if (folder / "data" / "postmaster.pid").exists():
                server.crash()


@dataclass
class Redis:
    """A server that nobody else uses, and that keeps nothing on disk."""

    port: int
    _process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of its first database."""
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=tempfile.gettempdir())
        _until(self._answers, what=f"Redis on port {self.port}")

    def kill(self) -> None:
        """SIGKILL; all that it held is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def flush(self) -> None:
        """FLUSHALL."""
        self._ask(b"FLUSHALL", answer=b"+OK")

    def _answers(self) -> bool:
        try:
            self._ask(b"PING", answer=b"+PONG")
        except OSError:
            return False
        return True

    def _ask(self, command: bytes, *, answer: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            connection.sendall(command + b"\r\n")
            if not (received := connection.recv(100)).startswith(answer):
                raise ConnectionError(f"Redis answered {received!r}.")


@contextlib.contextmanager
def private_redis() -> Iterator[Redis]:
    """A running server, gone at the end of the block.

    Raises:
        FileNotFoundError: Redis is not installed.
    """
    server = Redis(_free_port())
    server.start()
    try:
        yield server
    finally:
        server.kill()


@dataclass
class Cable:
    """A TCP proxy to a server on this machine that can be cut, muted, slowed down and mended. Close it at the end."""

    to_port: int
    delay_seconds: float = 0.0
    """Each piece that arrives waits for so long before it is passed on."""
    _open: list[socket.socket] = field(default_factory=list)
    _bytes_left: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._whole, self._heard = threading.Event(), threading.Event()
        self._whole.set()
        self._heard.set()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def through(self, url: str) -> str:
        """The same address, reached through this cable."""
        parts = urlsplit(url)
        user = f"{parts.username}@" if parts.username else ""
        return parts._replace(netloc=f"{user}127.0.0.1:{self.port}").geturl()

    def cut(self) -> None:
        """Reset every connection, and every new one."""
        self._whole.clear()
        self._reset()

    def cut_after(self, size_bytes: int) -> None:
        """Reset every connection, once, when so many bytes more have passed; in the midst of a message, if need be."""
        with self._lock:
            self._bytes_left = size_bytes

    @property
    def was_cut(self) -> bool:
        """Whether the bytes after which it was to be cut have passed."""
        return self._bytes_left is None

    def mute(self) -> None:
        """Pass nothing on and close nothing: both ends see an open connection on which the other one is silent."""
        self._heard.clear()

    def mend(self) -> None:
        """Pass everything on again, with what was said into the muted cable first."""
        self._whole.set()
        self._heard.set()

    def close(self) -> None:
        """Cut it for good."""
        self.cut()
        self._heard.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.to_port)) if self._whole.is_set() else None
            except OSError:
                far = None
            if far is None:
                _drop(near)
                continue
            with self._lock:
                self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while received := source.recv(65_536):
                time.sleep(self.delay_seconds)
                self._heard.wait()
                allowed, last = self._spend(len(received))
                sink.sendall(received[:allowed])
                if last:
                    self._reset()
                    return
        # One end hung up: the other is told in the same way, and nothing is left open.
        with self._lock:
            self._open = [end for end in self._open if end not in (source, sink)]
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _spend(self, size_bytes: int) -> tuple[int, bool]:
        """How many of so many bytes may pass, and whether those are the last."""
        with self._lock:
            if self._bytes_left is None or size_bytes < self._bytes_left:
                self._bytes_left = None if self._bytes_left is None else self._bytes_left - size_bytes
                return size_bytes, False
            allowed, self._bytes_left = self._bytes_left, None
            return allowed, True

    def _reset(self) -> None:
        with self._lock:
            ends, self._open = self._open, []
        for end in ends:
            _drop(end)


def _drop(end: socket.socket) -> None:
    """Close it with a reset; a thread that waits for it wakes."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        end.shutdown(socket.SHUT_RD)
    end.close()


@contextlib.contextmanager
def cable_to(url: str) -> Iterator[Cable]:
    """A cable to the server at the address."""
    cable = Cable(urlsplit(url).port or 5432)
    try:
        yield cable
    finally:
        cable.close()


def shifted_clock(offset: str) -> dict[str, str]:
    """The environment of a process whose wall clock is off by so much, such as `+2h`; its monotonic clock is not.

    Raises:
        FileNotFoundError: libfaketime is not there for this platform.
    """
    import libfaketime

    found = sorted(Path(libfaketime.__file__).parent.rglob("libfaketime.so.1"))
    if not found:
        raise FileNotFoundError("The package libfaketime holds no library for this platform.")
    # The second spelling is that of older versions.
    real = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    return {"LD_PRELOAD": str(found[0]), "FAKETIME": offset, **real}


@contextlib.contextmanager
def small_disk(folder: Path, *, size_mib: int) -> Iterator[bool]:
    """A file system of this size at `folder`, for as long as the block lasts; False where only root may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(folder)]
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, *options], check=False, capture_output=True).returncode != 0:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@dataclass
class Api:
    """`python -m app.serve`, configured by its environment."""

    port: int
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it lives; whether it is ready depends on its database."""
        command = [sys.executable, "-m", "app.serve", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=REPOSITORY, env=self.environment, stdout=log, stderr=log)
        _until(self._lives, what=f"The API on port {self.port} (its log: {self.log})")

    def stop(self, how: int = signal.SIGTERM) -> int | None:
        """Send the signal and wait for the end; the exit code, or None when it did not run."""
        if self.process is None:
            return None
        self.process.send_signal(how)
        return self.process.wait(60)

    def _lives(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            raise RuntimeError(f"The API ended while it was starting; its log: {self.log.read_text()[-3000:]}")
        try:
            with urlopen(f"{self.url}/livez", timeout=5) as answer:  # noqa: S310 - our own address
                return bool(answer.status == 200)
        except OSError:
            return False


@contextlib.contextmanager
def running_api(environment: Mapping[str, str], *, log: Path) -> Iterator[Api]:
    """The API with these variables beside those of this process; gone at the end of the block."""
    api = Api(_free_port(), os.environ | dict(environment), log)
    api.start()
    try:
        yield api
    finally:
        if api.process is not None and api.process.poll() is None:
            api.stop(signal.SIGKILL)
