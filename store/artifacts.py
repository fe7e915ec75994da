"""The artifact store: files by key, in a local folder or in S3. A file is there whole or not at all."""

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, S3Store

from distillery.errors import CorruptFile, DistilleryError, InvalidRequest, NotFound, StorageFull, Unavailable
from store.whole_files import appearing, make_durable

if TYPE_CHECKING:  # these names exist in obstore's stubs only
    from obstore import GetOptions, GetResult
    from obstore.store import ClientConfig, RetryConfig

_KEY = re.compile(r"(?!.{513})[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_CHUNK_BYTES = 1 << 20
_PART_BYTES = 8 << 20
"""Of an upload in parts. So many times the parts in flight lies in memory at once, and a part is what is sent again."""
_PARTS_IN_FLIGHT = 4
_MOST_PARTS = 9_000
"""S3 takes 10,000."""
_PAGE = 500
_FREE_SHARE = 0.1
_CLOCK = "clock"
"""An empty object that is written to read the store's clock. It lies beside all that has a row."""
_FULL = (errno.EFBIG, errno.ENOSPC, errno.EDQUOT)
_REFUSED = (PermissionDeniedError, UnauthenticatedError)
_S3_RETRY: "RetryConfig" = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}


@dataclass(frozen=True)
class Listed:
    """A file as the store lists it: `path` is its key, or the name of what a killed writer left behind."""

    path: str
    size_bytes: int
    modified_at: float
    """By the store's clock, in seconds since 1970."""


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
            self._store = S3Store(parts.netloc, prefix=prefix, client_options=s3_client(), retry_config=_S3_RETRY)
        elif url and ("://" not in url or parts.scheme == "file"):
            self._folder = Path(unquote(parts.path) if "://" in url else url).expanduser().absolute()
            self._store = _local(self._folder)
        else:
            raise InvalidRequest(f"Artifacts cannot be kept in '{url}'.", hint="Use a folder or s3://bucket/prefix.")

    def put(self, key: str, path: Path) -> None:
        """Store the file's bytes under `key`, in place of what was there; durable when this returns.

        Raises:
            StorageFull: no space is left; what was there stays, and nothing half is left behind.
            CorruptFile: the store has another number of bytes than it was given.
            Unavailable: the store is out of reach.
        """
        key = _checked(key)
        size = path.stat().st_size
        with self._reaching(key):
            if self._folder is None:
                self._upload(key, path, size=size)
            else:
                self._copy(key, path, size=size, folder=self._folder)
        if (stored := self.size(key)) != size:
            raise CorruptFile(
                f"{size} bytes were to be stored under {key}, and {stored} were.",
                hint="Something wrote to the file meanwhile, or the store lost bytes. Store it again.",
            )

    def _upload(self, key: str, path: Path, *, size: int) -> None:
        # Signing an address cannot name the file, so its object tells the browser under which name to save it.
        saved_as = {"Content-Disposition": f'attachment; filename="{key.rpartition("/")[2]}"'}
        obstore.put(
            self._store,
            key,
            path,
            attributes=saved_as,
            chunk_size=part_bytes(size),
            max_concurrency=_PARTS_IN_FLIGHT,
        )

    def _copy(self, key: str, path: Path, *, size: int, folder: Path) -> None:
        """Our own, for obstore renames before the bytes are on the disk."""
        if not folder.is_dir():
            raise Unavailable(f"The artifact folder {folder} is missing.", hint="Is its disk mounted?")
        if shutil.disk_usage(folder).free < size:
            raise StorageFull(f"{folder} has no space for {key} ({size} bytes).", hint="Free some space.")
        target = folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as source, appearing(target) as file:
            shutil.copyfileobj(source, file, _CHUNK_BYTES)
        make_durable(target.parent, root=folder)

    def require_room(self, size_bytes: int) -> None:
        """Refuse to take so much more where a tenth of the disk would not stay free. S3 has room.

        Raises:
            StorageFull: it would not.
            Unavailable: the folder is missing.
        """
        if self._folder is None:
            return
        with self._reaching("the free space"):
            usage = shutil.disk_usage(self._folder)
        if usage.free - size_bytes < _FREE_SHARE * usage.total:
            raise StorageFull(
                f"{size_bytes:,} bytes more would leave less than {_FREE_SHARE:.0%} of the disk free.",
                hint="Free some space on the service's disk, or delete what is not needed.",
            )

    def local(self, key: str) -> Path | None:
        """Where the bytes lie on this machine, to be read in place; None when they lie in S3.

        Raises:
            NotFound: there is nothing under `key`.
        """
        if self._folder is None:
            return None
        path = self._folder / _checked(key)
        if not path.is_file():
            raise NotFound(f"The artifact store has nothing under {key}.")
        return path

    def fetch(self, key: str, path: Path, *, sha256: str) -> None:
        """Bring the bytes under `key` into the file `path`, which appears only when they are whole and right.

        Raises:
            CorruptFile: the bytes do not have this sha256.
            NotFound: there is nothing under `key`.
            StorageFull: no space is left for `path`.
            Unavailable: the store is out of reach.
        """
        pieces = self.verified(key, sha256=sha256)
        with self._reaching(key), appearing(path) as file:
            file.writelines(pieces)

    def verified(self, key: str, *, sha256: str) -> Iterator[bytes]:
        """The whole file in pieces. The last one comes only when all of them together have this sha256.

        Raises:
            NotFound: there is nothing under `key`.
            CorruptFile: while reading: the bytes do not have this sha256.
            Unavailable: the store is out of reach; also while reading on.
        """
        return _held_to(self.stream(key), key=key, sha256=sha256)

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

    def presigned(self, key: str, *, seconds: float) -> str | None:
        """An address from which anybody who holds it may download the file for so long; None from a local folder.

        It is as good as a key: it belongs in no log.

        Raises:
            Unavailable: there are no credentials to sign with.
        """
        if isinstance(self._store, LocalStore):
            return None
        with self._reaching(_checked(key)):
            return obstore.sign(self._store, "GET", key, timedelta(seconds=seconds))

    def delete(self, key: str) -> None:
        """Delete the file; quietly, when it is gone already.

        Raises:
            Unavailable: the store is out of reach.
        """
        self._delete(_checked(key))

    def remove(self, listed: Listed) -> None:
        """Delete what was listed, be it the leavings of a killed writer; quietly, when it is gone already.

        Raises:
            Unavailable: the store is out of reach.
        """
        self._delete(listed.path)

    def _delete(self, path: str) -> None:
        try:
            with self._reaching(path):
                obstore.delete(self._store, path)
        except NotFound:
            return

    def listed(self, below: str) -> Iterator[list[Listed]]:
        """All that lies below this folder of keys, page by page and in no order; also what a killed writer left.

        Raises:
            Unavailable: the store is out of reach; also while reading on.
        """
        with self._reaching(_checked(below)):
            for page in obstore.list(self._store, below, chunk_size=_PAGE):
                yield [Listed(each["path"], each["size"], each["last_modified"].timestamp()) for each in page]

    def now(self) -> float:
        """The store's own clock, in seconds since 1970: when a file is modified that is written now.

        Raises:
            Unavailable: the store is out of reach.
            StorageFull: it takes not even an empty file.
        """
        with self._reaching(_CLOCK):
            obstore.put(self._store, _CLOCK, b"")
            return obstore.head(self._store, _CLOCK)["last_modified"].timestamp()

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


def part_bytes(size: int) -> int:
    """Length in bytes of each part but the last, for an upload of `size` bytes; what fits one part goes whole."""
    return max(_PART_BYTES, -(-size // _MOST_PARTS))


def _held_to(pieces: Iterable[bytes], *, key: str, sha256: str) -> Iterator[bytes]:
    digest = hashlib.sha256()
    held = b""
    for piece in pieces:
        if held:
            yield held
        digest.update(piece)
        held = piece
    if digest.hexdigest() != sha256:
        raise CorruptFile(
            f"{key} in the artifact store has sha256 {digest.hexdigest()}; {sha256} was recorded.",
            hint="The stored file was damaged; an earlier checkpoint, or running the job again, replaces it.",
        )
    if held:
        yield held


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


def s3_client() -> "ClientConfig":
    """How every S3 client of ours is set up, from the environment."""
    return {
        # Our own options take the place of all that the client would have read from the environment.
        "allow_http": os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true", "yes"),
        "connect_timeout": timedelta(seconds=5),
        # This bounds a whole answer, its body included, and a slow client reads for long.
        "timeout": timedelta(hours=2),
    }
