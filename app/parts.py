"""A part of an upload, from the socket to the artifact store: hashed on the way, held on the disk, not in memory."""

import base64
import binascii
import hashlib
import re
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from distillery.errors import DigestMismatch, InvalidRequest, StorageFull, TooLarge

_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/=]{44}):")


@dataclass(frozen=True)
class Arrived:
    """A whole part on the disk."""

    path: Path
    sha256: str
    size_bytes: int


async def receive(stream: AsyncIterator[bytes], file: IO[bytes], *, expected_bytes: int, digest: str | None) -> Arrived:
    """Write the body into `file` and hold it against its length and its digest.

    Raises:
        TooLarge: there is more than `expected_bytes`; nothing beyond that was read.
        InvalidRequest: there is less, or the `Content-Digest` cannot be read.
        DigestMismatch: the bytes are others than those that were sent.
        StorageFull: the disk is full.
    """
    wanted = _sha256_of(digest)
    found, size = hashlib.sha256(), 0
    try:
        async for piece in stream:
            size += len(piece)
            if size > expected_bytes:
                raise TooLarge(f"This part has {expected_bytes:,} bytes, and more came.", hint="Send exactly so many.")
            await run_in_threadpool(_take, piece, file=file, digest=found)
        await run_in_threadpool(file.flush)
    except ClientDisconnect:
        raise InvalidRequest("The connection ended before the part was whole.", hint="Send it again.") from None
    except OSError as error:
        raise StorageFull(f"The part cannot be held: {error.strerror}.", hint="Free some space.") from error
    if size < expected_bytes:
        raise InvalidRequest(
            f"This part has {expected_bytes:,} bytes, and {size:,} came.", hint="Send it again, whole."
        )
    if wanted is not None and wanted != found.digest():
        raise DigestMismatch(
            f"The bytes that came have the sha256 {found.hexdigest()}; {wanted.hex()} was sent with them.",
            hint="They were damaged on the way, or the file has changed. Send the part again.",
        )
    return Arrived(Path(f"/proc/self/fd/{file.fileno()}"), found.hexdigest(), size)


def held() -> IO[bytes]:
    """A file without a name: whatever becomes of this process, nothing of it is left."""
    return tempfile.TemporaryFile()


def _take(piece: bytes, *, file: IO[bytes], digest: Any) -> None:
    digest.update(piece)
    file.write(piece)


def _sha256_of(header: str | None) -> bytes | None:
    if header is None:
        return None
    match = _DIGEST.search(header)
    try:
        if match is not None:
            return base64.b64decode(match[1], validate=True)
    except binascii.Error:
        pass
    raise InvalidRequest(
        "The Content-Digest cannot be read.",
        hint="Write it as RFC 9530 does: Content-Digest: sha-256=:<base64 of the digest>:",
    )
