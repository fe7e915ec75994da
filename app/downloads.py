"""Files: strong ETag and digest, ranges, resuming. Nothing is promised in a head that the store could not deliver."""

import base64
import contextlib
import itertools
import os
import re
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.negotiate import not_modified
from distillery.errors import CorruptFile, InvalidRequest, UnsatisfiableRange
from store.artifacts import Artifacts

PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Our reports are one page with inline styles, SVG and data images; nothing in them may load or run anything."""
LINK_SECONDS = 900.0
LONGEST_LINK_SECONDS = 7 * 86_400.0
"""S3 signs for no longer."""
_LONGEST_RANGE_HEADER = 200


@dataclass(frozen=True)
class Presigning:
    """Whether clients are sent to S3 for the bytes, and how long the address that they are given is good for.

    Off unless it is asked for: an S3 server of one's own often cannot be reached by those who use the service.
    """

    seconds: float | None = None
    """None: every byte comes from the API."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read DISTILLERY_PRESIGNED_DOWNLOADS (1 switches them on) and DISTILLERY_PRESIGNED_SECONDS.

        Raises:
            InvalidRequest: one of them cannot be read, or the time is out of bounds.
        """
        given = os.environ if environment is None else environment
        wanted = given.get("DISTILLERY_PRESIGNED_DOWNLOADS", "").strip().lower()
        if wanted in ("", "0", "false", "no"):
            return cls()
        if wanted not in ("1", "true", "yes"):
            raise InvalidRequest(f"DISTILLERY_PRESIGNED_DOWNLOADS is '{wanted}'.", hint="Write 1, or leave it out.")
        return cls(_link_seconds(given.get("DISTILLERY_PRESIGNED_SECONDS", "").strip()))


def _link_seconds(text: str) -> float:
    try:
        seconds = float(text or LINK_SECONDS)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= LONGEST_LINK_SECONDS:
        raise InvalidRequest(
            f"DISTILLERY_PRESIGNED_SECONDS is '{text}'; it must be 1 to {LONGEST_LINK_SECONDS:.0f} seconds.",
            hint=f"Leave it out for {LINK_SECONDS:.0f}.",
        )
    return seconds


@dataclass(frozen=True)
class Stored:
    """A file as the database knows it."""

    key: str
    name: str
    media_type: str
    size_bytes: int
    sha256: str

    @property
    def etag(self) -> str:
        """Strong, and the same on every replica: made of the bytes, not of a file's time."""
        return f'"sha256-{self.sha256}"'


@dataclass(frozen=True)
class Span:
    """Bytes `start` to `end` of a file, `end` not included."""

    start: int
    end: int


def deliver(
    request: Request,
    stored: Stored,
    artifacts: Artifacts,
    *,
    presigning: Presigning = Presigning(),
    inline: bool = False,
) -> Response:
    """The answer to GET or HEAD of a file.

    A file that is sent whole is hashed on its way; when the hash is wrong, the connection breaks before the last piece.

    Raises:
        UnsatisfiableRange: the range lies outside the file, or there are several.
        NotFound: the object is gone from the store.
        CorruptFile: the object has another size than was recorded, or is small and has another sha256.
        Unavailable: the store is out of reach.
    """
    headers = _headers(stored, inline=inline)
    if not_modified(request.headers.get("if-none-match"), stored.etag):
        return Response(status_code=304, headers={name: headers[name] for name in ("ETag", "Cache-Control")})
    _check_size(stored, artifacts)
    if request.method == "HEAD":
        return Response(headers=headers | {"Content-Length": str(stored.size_bytes)}, media_type=stored.media_type)
    span = _wanted(request, stored)
    # S3 does not know our ETag: it would send the range although the file is not the one that the client began with.
    if presigning.seconds is not None and (span is not None or "if-range" not in request.headers):
        address = artifacts.presigned(stored.key, seconds=presigning.seconds)
        if address is not None:
            return _elsewhere(address, stored)
    whole = span is None
    start, end = (0, stored.size_bytes) if span is None else (span.start, span.end)
    headers["Content-Length"] = str(end - start)
    if not whole:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{stored.size_bytes}"
    pieces = _pieces(artifacts, stored, start=start, end=end)
    return _Sending(pieces, 200 if whole else 206, headers=headers, media_type=stored.media_type)


def _pieces(artifacts: Artifacts, stored: Stored, *, start: int, end: int) -> Iterator[bytes]:
    if end - start == stored.size_bytes:
        return artifacts.verified(stored.key, sha256=stored.sha256)
    return artifacts.stream(stored.key, start=start, end=end)


def _elsewhere(address: str, stored: Stored) -> Response:
    """Send the client to the store. The digest goes along, for it is the client who must verify now."""
    headers = {name: _headers(stored, inline=False)[name] for name in ("ETag", "Repr-Digest")}
    # Whoever has the address has the file, so no cache may keep it and no page may pass it on.
    headers |= {"Cache-Control": "private, no-store", "Referrer-Policy": "no-referrer", "Location": address}
    return Response(status_code=307, headers=headers)


def span_of(header: str, *, size: int) -> Span | None:
    """What a `Range` header asks of a file of `size` bytes; None when it is to be ignored (RFC 9110 §14.2).

    Raises:
        UnsatisfiableRange: it lies outside the file, or names more than one range.
    """
    unit, _, wanted = header.partition("=")
    if unit.strip().lower() != "bytes":
        return None
    if "," in wanted or len(header) > _LONGEST_RANGE_HEADER:
        raise UnsatisfiableRange("Several ranges were asked for; one at a time is served.", size=size)
    match = re.fullmatch(r"\s*(\d*)\s*-\s*(\d*)\s*", wanted, re.ASCII)
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if not first:
        start, end = max(size - int(last), 0), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    if start >= size or start == end:
        raise UnsatisfiableRange(f"The range '{header}' lies outside the {size} bytes of the file.", size=size)
    return Span(start, end)


def _wanted(request: Request, stored: Stored) -> Span | None:
    header = request.headers.get("range")
    condition = request.headers.get("if-range")
    if header is None or (condition is not None and condition.strip() != stored.etag):
        return None
    return span_of(header, size=stored.size_bytes)


def _headers(stored: Stored, *, inline: bool) -> dict[str, str]:
    digest = base64.b64encode(bytes.fromhex(stored.sha256)).decode()
    headers = {
        "ETag": stored.etag,
        "Repr-Digest": f"sha-256=:{digest}:",
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": "inline" if inline else f'attachment; filename="{quote(stored.name)}"',
    }
    if stored.media_type.startswith("text/html"):
        headers["Content-Security-Policy"] = PAGE_POLICY
        headers["Referrer-Policy"] = "no-referrer"
    return headers


def _check_size(stored: Stored, artifacts: Artifacts) -> None:
    size = artifacts.size(stored.key)
    if size != stored.size_bytes:
        raise CorruptFile(
            f"{stored.name} has {size} bytes in the artifact store, and {stored.size_bytes} were recorded.",
            hint="The file was changed or cut after it was delivered; restore it, or run the job again.",
        )


class _Sending(StreamingResponse):
    """Sends pieces, the first already fetched: what fails, fails while a problem can still be the answer.

    When the client leaves, the file is closed at once. Else it would stay open until the next garbage collection.
    """

    def __init__(self, pieces: Iterator[bytes], status: int, *, headers: Mapping[str, str], media_type: str) -> None:
        first = next(pieces, b"")
        super().__init__(itertools.chain([first], pieces), status, headers=headers, media_type=media_type)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            if isinstance(self._pieces, Generator):
                with contextlib.suppress(ValueError):  # a thread that was left behind at a shutdown is in it
                    self._pieces.close()
