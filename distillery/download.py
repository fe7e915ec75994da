"""Bring a delivered file home: resumed where it broke off, verified by its sha256, visible only when whole."""

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import httpx

from distillery import answers
from distillery.errors import (
    CorruptFile,
    InvalidRequest,
    NotFound,
    ServiceRefused,
    StorageFull,
    Unavailable,
    WrongState,
)
from distillery.flows import RETRIED_STATUSES
from distillery.views import Artifact

OnProgress = Callable[[int, int], None]
"""Called with the bytes that are here and the bytes that there will be."""
_READ_BYTES = 1 << 20
_HINT_ON_STORES = (
    "If it stays so, its operator can have the service send files itself: DISTILLERY_PRESIGNED_DOWNLOADS=0."
)
_PARTIAL, _RANGE_NOT_SATISFIABLE = 206, 416


class Transfer:
    """One file on its way into `folder/name.part`, over any number of connections; a context manager.

    Raises:
        WrongState: on entering, when another process downloads into the same file.
        StorageFull: the disk is full; what has come stays, to go on from.
    """

    def __init__(self, artifact: Artifact, *, to: Path, on_progress: OnProgress | None = None) -> None:
        self.artifact = artifact
        self.target = to / artifact.name if to.is_dir() else to
        self._on_progress = on_progress or (lambda _here, _whole: None)
        self._restarted = False
        self._file: BinaryIO
        self._sha256 = hashlib.sha256()
        self._here = self._furthest = 0

    @property
    def part(self) -> Path:
        """The file that grows while the download runs."""
        return self.target.with_name(f"{self.target.name}.part")

    def __enter__(self) -> Self:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.part.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise WrongState(
                f"Another process is downloading into {self.part}.", hint="Wait for it, or choose another target."
            ) from None
        self._take_up()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        except OSError:
            if error is None:
                raise

    def _take_up(self) -> None:
        """Read what an earlier download left, so that the hash goes on from there."""
        self._file.seek(0)
        while block := self._file.read(_READ_BYTES):
            self._sha256.update(block)
            self._here += len(block)
        if self._here > self.artifact.size_bytes:
            self._restart()

    def _restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._sha256 = hashlib.sha256()
        self._here = 0

    @property
    def complete(self) -> bool:
        """Whether as many bytes are here as there should be."""
        return self._here >= self.artifact.size_bytes

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the next request, for the rest of the file."""
        headers = {"Accept-Encoding": "identity"}  # bytes as they are stored, or their hash says nothing
        if self._here:
            # No If-Range: the service may send us to a store that has another ETag for the same bytes. See `begin`.
            headers |= {"Range": f"bytes={self._here}-"}
        return headers

    def begin(self, response: httpx.Response) -> bool:
        """Look at the head of an answer; False when its body is an error to be read and given to `refuse`."""
        if response.status_code == _PARTIAL:
            # What the service itself said of the file, also when the bytes come from where it sent us.
            current = (*response.history, response)[0].headers.get("etag", "")
            if current.startswith('"sha256-') and current != f'"sha256-{self.artifact.sha256}"':
                self._restart()
                raise httpx.RemoteProtocolError("the file has changed on the service")
            if response.headers.get("content-range", "").startswith(f"bytes {self._here}-"):
                return True
            self._restart()
            raise httpx.RemoteProtocolError("the service sent another range than was asked for")
        if response.is_success:
            self._restart()
            return True
        return False

    def refuse(self, response: httpx.Response) -> None:
        """Raise what an error answer stands for: ServiceRefused, or httpx's transport error when it may pass."""
        if response.status_code == _RANGE_NOT_SATISFIABLE and self._here:
            self._restart()
            raise httpx.RemoteProtocolError("the service has no such range")
        refused = _refusal_of_store(response) if response.history else answers.refusal(response)
        if response.status_code in RETRIED_STATUSES:
            raise httpx.RemoteProtocolError(refused.detail)
        raise refused

    def unreachable(self, error: httpx.TransportError, *, server: str) -> Unavailable:
        """What a failed exchange means: nobody at the service, or nobody where the service sent us."""
        try:
            asked = error.request.url
        except RuntimeError:  # one of our own, raised over an answer that did come
            return answers.unreachable(error, server=server)
        own = httpx.URL(server)
        if (asked.scheme, asked.host, asked.port) == (own.scheme, own.host, own.port):
            return answers.unreachable(error, server=server)
        return Unavailable(
            f"The service sent this download to {asked.host}, and the connection there failed "
            f"({str(error) or type(error).__name__}).",
            hint=_HINT_ON_STORES,
        )

    def write(self, block: bytes) -> bool:
        """Keep the next bytes; whether the file has never been so long before."""
        if self._here + len(block) > self.artifact.size_bytes:
            self._restart()
            raise CorruptFile(
                f"The service sent more than the {self.artifact.size_bytes:,} bytes of {self.artifact.name}.",
                hint="Something on the way changed the file; ask for it directly, without a proxy.",
            )
        try:
            self._file.write(block)
        except OSError as error:
            raise self._full(error) from error
        self._sha256.update(block)
        self._here += len(block)
        self._on_progress(self._here, self.artifact.size_bytes)
        advanced = self._here > self._furthest
        self._furthest = max(self._furthest, self._here)
        return advanced

    def end(self) -> None:
        """The answer's body is over; httpx's transport error when bytes are still missing."""
        if not self.complete:
            missing = self.artifact.size_bytes - self._here
            raise httpx.RemoteProtocolError(f"the answer ended {missing:,} bytes early")

    def finish(self) -> Path | None:
        """Verify and rename into place; None when the bytes were wrong for the first time: fetch them afresh.

        Raises:
            CorruptFile: they were wrong again.
        """
        found = self._sha256.hexdigest()
        if found == self.artifact.sha256:
            self._keep()
            return self.target
        self._restart()
        if not self._restarted:
            self._restarted = True
            return None
        self.part.unlink()
        raise CorruptFile(
            f"{self.artifact.name} arrived with sha256 {found}, but the service says {self.artifact.sha256}.",
            hint="Nothing was kept. Download it again; if it happens again, the service's copy is damaged.",
        )

    def _keep(self) -> None:
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise self._full(error) from error
        self.part.rename(self.target)

    def _full(self, error: OSError) -> Exception:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return error
        return StorageFull(
            f"There is no room for {self.target} ({self.artifact.size_bytes:,} bytes): {error.strerror}.",
            hint="Make room and run the same command again: it goes on where it stopped.",
        )


def _refusal_of_store(response: httpx.Response) -> ServiceRefused:
    """Without the address: it is presigned, and whoever reads it has the file."""
    return ServiceRefused(
        f"The service sent this download to {response.url.host}, and was answered with {response.status_code} there.",
        status=response.status_code,
        problem_code="STORE_REFUSED",
        hint=_HINT_ON_STORES,
    )


def pick(artifacts: Sequence[Artifact], name: str, *, job_id: str) -> Artifact:
    """The file of that name.

    Raises:
        NotFound: the job delivered no such file (yet); the hint names those that it did.
        InvalidRequest: the name is more than a file name.
    """
    if Path(name).name != name or name == "..":
        raise InvalidRequest(f"'{name}' is not a plain file name.", hint="Give the name of one artifact.")
    for artifact in artifacts:
        if artifact.name == name:
            return artifact
    there = ", ".join(artifact.name for artifact in artifacts)
    raise NotFound(
        f"Job {job_id} has no artifact '{name}'.",
        hint=f"It has: {there}." if there else "It has none yet: they come at the end of the job.",
    )


def already_there(artifact: Artifact, *, to: Path) -> Path | None:
    """The target, when it already holds exactly these bytes."""
    target = to / artifact.name if to.is_dir() else to
    if not target.is_file() or target.stat().st_size != artifact.size_bytes:
        return None
    with target.open("rb") as file:
        return target if hashlib.file_digest(file, "sha256").hexdigest() == artifact.sha256 else None
