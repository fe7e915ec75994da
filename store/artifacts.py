"""The artifact store: files by key, in a local folder or in S3. A file is there whole or not at all."""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, S3Store

from distillery.errors import CorruptFile, DistilleryError, InvalidRequest, NotFound, StorageFull, Unavailable

if TYPE_CHECKING:  # these names exist in obstore's stubs only
    from obstore import GetOptions, GetResult
    from obstore.store import ClientConfig, RetryConfig

_KEY = re.compile(r"(?!.{513})[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_CHUNK_BYTES = 1 << 20
_FULL = (errno.EFBIG, errno.ENOSPC, errno.EDQUOT)
_REFUSED = (PermissionDeniedError, UnauthenticatedError)
_S3_RETRY: "RetryConfig" = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}


class Artifacts:
    """Files under keys such as `jobs/{job_id}/a{attempt}/student.safetensors`.

    Args:
        url: a folder (made if it is missing), `file:///folder`, or `s3://bucket/prefix` with the usual environment
            (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, AWS_ALLOW_HTTP).

    Raises:
        InvalidRequest: another kind of address.
        Unavailable: the folder cannot be made.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._folder: Path | None = None
        self._store: LocalStore | S3Store
        parts = urlsplit(url)
        if parts.scheme == "s3" and parts.netloc:
            prefix = parts.path.strip("/") or None
            self._store = S3Store(parts.netloc, prefix=prefix, client_options=_s3_client(), retry_config=_S3_RETRY)
        elif url and ("://" not in url or parts.scheme == "file"):
            self._folder = Path(unquote(parts.path) if "://" in url else url).expanduser().absolute()
            self._store = _local(self._folder)
        else:
            raise InvalidRequest(f"Artifacts cannot be kept in '{url}'.", hint="Use a folder or s3://bucket/prefix.")

    def put(self, key: str, path: Path) -> None:
        """Store the file's bytes under `key`, in place of what was there; durable when this returns.

        Raises:
            StorageFull: no space is left; what was there stays, and nothing half is left behind.
            Unavailable: the store is out of reach.
        """
        key = _checked(key)
        size = path.stat().st_size
        with self._reaching(key):
            if self._folder is not None and shutil.disk_usage(self._folder).free < size:
                raise StorageFull(f"{self._folder} has no space for {key} ({size} bytes).", hint="Free some space.")
            obstore.put(self._store, key, path)
            if self._folder is not None:
                _make_durable(self._folder / key, root=self._folder)

    def fetch(self, key: str, path: Path, *, sha256: str) -> None:
        """Bring the bytes under `key` into the file `path`, which appears only when they are whole and right.

        Raises:
            CorruptFile: the bytes do not have this sha256.
            NotFound: there is nothing under `key`.
            StorageFull: no space is left for `path`.
            Unavailable: the store is out of reach.
        """
        chunks = self.stream(key)
        with self._reaching(key), _appearing(path) as file:
            digest = hashlib.sha256()
            for chunk in chunks:
                digest.update(chunk)
                file.write(chunk)
            if digest.hexdigest() != sha256:
                raise CorruptFile(
                    f"{key} in the artifact store has sha256 {digest.hexdigest()}; {sha256} was recorded.",
                    hint="The stored file was damaged; an earlier checkpoint, or running the job again, replaces it.",
                )

    def stream(self, key: str, *, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """The bytes from `start` up to but without `end`, in pieces of about 1 MiB. What is missing is said at once.

        Raises:
            NotFound: there is nothing under `key`.
            Unavailable: the store is out of reach; also while reading on.
        """
        key = _checked(key)
        if end is not None and end <= start:
            return iter(())
        options: GetOptions = {}
        if end is not None:
            options = {"range": (start, end)}
        elif start:
            options = {"range": {"offset": start}}
        with self._reaching(key):
            found = obstore.get(self._store, key, options=options)
        return self._pieces(found, key)

    def _pieces(self, found: "GetResult", key: str) -> Iterator[bytes]:
        with self._reaching(key):
            for piece in found.stream(min_chunk_size=_CHUNK_BYTES):
                yield bytes(piece)

    def size(self, key: str) -> int:
        """Length in bytes.

        Raises:
            NotFound: there is nothing under `key`.
            Unavailable: the store is out of reach.
        """
        with self._reaching(_checked(key)):
            return int(obstore.head(self._store, key)["size"])

    def delete(self, key: str) -> None:
        """Delete the file; quietly, when it is gone already.

        Raises:
            Unavailable: the store is out of reach.
        """
        try:
            with self._reaching(_checked(key)):
                obstore.delete(self._store, key)
        except NotFound:
            return

    def ping(self) -> None:
        """Ask the store for an answer.

        Raises:
            Unavailable: there is none, or the folder is gone or cannot be written.
        """
        if self._folder is not None and not os.access(self._folder, os.R_OK | os.W_OK | os.X_OK):
            raise Unavailable(f"The artifact folder {self._folder} is missing or cannot be written.")
        try:
            self.stream("ping")
        except NotFound:
            return

    @contextmanager
    def _reaching(self, key: str) -> Iterator[None]:
        """Turn what the store and the disk say into errors of ours."""
        try:
            yield
        except (BaseError, OSError) as error:
            raise _explained(error, key=key, url=self._url) from error


def _explained(error: BaseError | OSError, *, key: str, url: str) -> DistilleryError:
    told = str(error)
    reason = told.partition("\n")[0].rstrip(".")
    if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in told:
        return NotFound(f"The artifact store has nothing under {key}.")
    # The store's own errors carry the number of the operating system's in their text only.
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL or any(f"(os error {full})" in told for full in _FULL):
        return StorageFull(f"No space is left for {key}: {reason}.", hint="Free some space.")
    hint = "Check the keys to the store." if isinstance(error, _REFUSED) else "Try again in a moment."
    return Unavailable(f"The artifact store {url} failed at {key}: {reason}.", hint=hint)


def _checked(key: str) -> str:
    if not _KEY.fullmatch(key):
        raise InvalidRequest(
            f"'{key[:100]}' is no key of an artifact.", hint="Letters, digits, '.', '_', '-', parted by single '/'."
        )
    return key


def _local(folder: Path) -> LocalStore:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"The artifact folder {folder} cannot be made: {error.strerror}.") from error
    return LocalStore(folder)


def _s3_client() -> "ClientConfig":
    return {
        # Our own options take the place of all that the client would have read from the environment.
        "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes"),
        "connect_timeout": timedelta(seconds=5),
        # This bounds a whole answer, its body included, and a slow client reads for long.
        "timeout": timedelta(hours=2),
    }


def _make_durable(path: Path, *, root: Path) -> None:
    """Force the file, and the names of it and of the folders above it, onto the disk: a row is about to point to it."""
    while True:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if path == root:
            return
        path = path.parent


@contextmanager
def _appearing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its place at `path` when the block ends well, and is gone when it does not."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _make_durable(path.parent, root=path.parent)
