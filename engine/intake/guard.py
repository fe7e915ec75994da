"""A child process in which a decoder may fail: little memory, no files, no network of ours, and an end.

It is forked, so that it begins in a millisecond, and then keeps nothing of its parent but the one socket (and files
that it is given to read). A child that dies or hangs costs the member that it was at, nothing else.
"""

import contextlib
import ctypes
import gc
import os
import resource
import select
import signal
import socket
import struct
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from distillery.errors import UnreadableData

_LENGTH = struct.Struct("<Q")
_LARGEST_FRAME = 1 << 31
_PDEATHSIG, _NO_NEW_PRIVILEGES, _DUMPABLE = 1, 38, 4
_LAST_SECONDS = 2.0
CPU_SECONDS = 10.0
"""For one member."""
WALL_SECONDS = 60.0
"""Without an answer; the CPU time ends a child that is busy, and this one that sleeps."""


class ChildGone(Exception):
    """The child died or was ended; the text says why, as the end of a sentence about what it read."""


class Child:
    """A forked process that runs `work(socket)` and is spoken to in frames.

    Args:
        memory_bytes: how much more address space it may take than it begins with.
        data_bytes: how much of that may be written to; None for all.
        threads: whether it may start threads.
        keep: descriptors that stay open in it.
    """

    def __init__(
        self,
        work: Callable[[socket.socket], None],
        *,
        memory_bytes: int,
        data_bytes: int | None = None,
        threads: bool = False,
        keep: Sequence[int] = (),
    ) -> None:
        bounds = _bounds(memory_bytes, data_bytes=data_bytes, threads=threads)
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # about threads, of which none holds a lock we need
            self.pid = os.fork()
        if self.pid == 0:
            _live(work, theirs, keep=(*keep, theirs.fileno()), parent=parent, bounds=bounds)
        theirs.close()
        ours.settimeout(WALL_SECONDS)
        self._socket = ours
        self._reaped: int | None = None
        self._silent = False

    def send(self, content: bytes) -> None:
        """Send one frame.

        Raises:
            ChildGone: nobody reads it.
        """
        try:
            send(self._socket, content)
        except OSError as error:
            self._silent = isinstance(error, TimeoutError)
            raise ChildGone(self._epitaph()) from None

    def receive(self) -> bytearray:
        """Take one frame.

        Raises:
            ChildGone: none came.
        """
        try:
            return receive(self._socket)
        except (OSError, EOFError) as error:
            self._silent = isinstance(error, TimeoutError)
            raise ChildGone(self._epitaph()) from None

    def close(self) -> None:
        """End it at once, whatever it does."""
        self._socket.close()
        if self._reaped is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self._reaped = os.waitpid(self.pid, 0)[1]

    def _epitaph(self) -> str:
        """Bury it, and say how it died. One that only closed its socket is about to; one that did not is ended."""
        if self._reaped is None and not self._is_dead(within=0 if self._silent else _LAST_SECONDS):
            self.close()
            return "took too long to read"
        if self._reaped is None:
            self._reaped = os.waitpid(self.pid, 0)[1]
        if os.WIFSIGNALED(self._reaped) and os.WTERMSIG(self._reaped) in (signal.SIGPROF, signal.SIGXCPU):
            return f"took more than {CPU_SECONDS:.0f} seconds to read"
        return "made its decoder crash"

    def _is_dead(self, *, within: float) -> bool:
        descriptor = os.pidfd_open(self.pid)
        try:
            return bool(select.select([descriptor], [], [], within)[0])
        finally:
            os.close(descriptor)


def send(channel: socket.socket, content: bytes) -> None:
    """Write one frame: its length and its bytes."""
    channel.sendall(_LENGTH.pack(len(content)))
    channel.sendall(content)


def receive(channel: socket.socket) -> bytearray:
    """Read one frame.

    Raises:
        EOFError: the other side is gone.
        UnreadableData: it is longer than any that we send.
    """
    length = _LENGTH.unpack(_exactly(channel, _LENGTH.size))[0]
    if length > _LARGEST_FRAME:
        raise UnreadableData("A decoder answered with more than an image or a text can have.")
    return _exactly(channel, length)


def on_cpu_for(seconds: float) -> None:
    """End this process unless it comes here again, or ends, before it has worked for so long."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _exactly(channel: socket.socket, count: int) -> bytearray:
    content = bytearray(count)
    view, at = memoryview(content), 0
    while at < count:
        got = channel.recv_into(view[at:])
        if not got:
            raise EOFError
        at += got
    return content


def _live(
    work: Callable[[socket.socket], None],
    channel: socket.socket,
    *,
    keep: Sequence[int],
    parent: int,
    bounds: Mapping[int, int],
) -> None:
    """The child's whole life; never returns."""
    status = 1
    try:
        gc.freeze()  # what was the parent's is shared with it as long as no collection touches it
        _shut_in(keep, parent=parent, bounds=bounds)
        warnings.simplefilter("error")
        work(channel)
        status = 0
    except (EOFError, BrokenPipeError, ConnectionResetError):
        status = 0  # the parent wants no more
    except BaseException:
        status = 1  # told by the socket's end; nothing of a stranger's file goes into our log
    finally:
        os._exit(status)


def _shut_in(keep: Sequence[int], *, parent: int, bounds: Mapping[int, int]) -> None:
    for number in (signal.SIGTERM, signal.SIGPROF, signal.SIGXCPU, signal.SIGPIPE, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    library = ctypes.CDLL(None)
    library.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    library.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    library.prctl(_DUMPABLE, 0, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    _close_all_but(keep)
    for limit, value in bounds.items():
        _lower(limit, value)


def _close_all_but(keep: Sequence[int]) -> None:
    at = 3
    for descriptor in (*sorted(keep), min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 20)):
        os.closerange(at, descriptor)
        at = descriptor + 1


def _bounds(memory_bytes: int, *, data_bytes: int | None, threads: bool) -> dict[int, int]:
    """Resource limits of a child, by their numbers."""
    address_space, data = _own_memory()
    bounds = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_AS: address_space + memory_bytes,
    }
    if not threads:
        bounds[resource.RLIMIT_NPROC] = 0
    if data_bytes is not None:
        bounds[resource.RLIMIT_DATA] = data + data_bytes
    return bounds


def _lower(limit: int, value: int) -> None:
    soft, hard = resource.getrlimit(limit)
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    bound = bound if soft == resource.RLIM_INFINITY else min(bound, soft)
    resource.setrlimit(limit, (bound, bound))


def _own_memory() -> tuple[int, int]:
    """Address space and writable memory of this process in bytes."""
    fields = Path("/proc/self/statm").read_bytes().split()
    page = resource.getpagesize()
    return int(fields[0]) * page, int(fields[5]) * page
