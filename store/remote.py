"""Files that users keep in S3 themselves, brought to a worker's disk. The keys to them are the worker's own."""

from pathlib import Path
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from distillery.errors import InvalidRequest, NotFound, StorageFull, Unavailable
from store.artifacts import s3_client

MOST_FILES = 200_000
MOST_BYTES = 50 << 30


def bring(address: str, *, to: Path) -> Path:
    """Copy `s3://bucket/key`, or all that lies below `s3://bucket/prefix/`, to `to`: a file, or a folder of files.

    Raises:
        InvalidRequest: that is no such address, or there is too much below it.
        NotFound: nothing is there.
        StorageFull: the disk is.
        Unavailable: S3 does not answer, or does not let us.
    """
    parts = urlsplit(address)
    key = parts.path.strip("/")
    if parts.scheme != "s3" or not parts.netloc or not key:
        raise InvalidRequest(f"'{address}' is no file or folder in S3.", hint="Write s3://bucket/key.", pointer="/path")
    try:
        store = S3Store(parts.netloc, client_options=s3_client())
        return _file(store, key, to=to) or _folder(store, key, to=to, address=address)
    except (BaseError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise StorageFull(f"No space is left for {address}: {error.strerror}.", hint="Free some space.") from error
        reason = str(error).partition("\n")[0].rstrip(".")
        raise Unavailable(f"{address} cannot be read: {reason}.", hint="Check the worker's keys to it.") from error


def _file(store: S3Store, key: str, *, to: Path) -> Path | None:
    try:
        found = obstore.get(store, key)
    except FileNotFoundError:
        return None
    with to.open("wb") as file:
        for piece in found.stream():
            file.write(piece)
    return to


def _folder(store: S3Store, key: str, *, to: Path, address: str) -> Path:
    prefix, count, size = f"{key}/", 0, 0
    for page in obstore.list(store, prefix):
        for each in page:
            name = each["path"].removeprefix(prefix)
            if not name or any(part in ("", ".", "..") for part in name.split("/")) or "\x00" in name:
                raise InvalidRequest(f"{address} holds an object of the name '{name[:100]}'.", pointer="/path")
            count, size = count + 1, size + each["size"]
            if count > MOST_FILES or size > MOST_BYTES:
                raise InvalidRequest(f"There is more below {address} than is read at once.", pointer="/path")
            target = to / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _file(store, each["path"], to=target)
    if not count:
        raise NotFound(f"There is nothing at {address}.", hint="Check the address.", pointer="/path")
    return to
