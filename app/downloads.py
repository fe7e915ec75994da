"""Files: strong ETag and digest, ranges, resuming. Nothing is promised in a head that the store could not deliver."""

import base64
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from app.negotiate import not_modified
from distillery.errors import CorruptFile, UnsatisfiableRange
from store.artifacts import Artifacts

PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""Our reports are one page with inline styles, SVG and data images; nothing in them may load or run anything."""
_LONGEST_RANGE_HEADER = 200


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


def deliver(request: Request, stored: Stored, artifacts: Artifacts, *, inline: bool = False) -> Response:
    """The answer to GET or HEAD of a file.

    Raises:
        UnsatisfiableRange: the range lies outside the file, or there are several.
        NotFound: the object is gone from the store.
        CorruptFile: the object has another size than was recorded.
        Unavailable: the store is out of reach.
    """
    headers = _headers(stored, inline=inline)
    if not_modified(request.headers.get("if-none-match"), stored.etag):
        return Response(status_code=304, headers={name: headers[name] for name in ("ETag", "Cache-Control")})
    _check_size(stored, artifacts)
    if request.method == "HEAD":
        return Response(headers=headers | {"Content-Length": str(stored.size_bytes)}, media_type=stored.media_type)
    span = _wanted(request, stored)
    whole = span is None
    start, end = (0, stored.size_bytes) if span is None else (span.start, span.end)
    headers["Content-Length"] = str(end - start)
    if not whole:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{stored.size_bytes}"
    content = _opened(artifacts.stream(stored.key, start=start, end=end)) if end > start else iter(())
    return StreamingResponse(content, 200 if whole else 206, headers=headers, media_type=stored.media_type)


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


def _opened(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same chunks, the first already fetched: what fails, fails while a problem can still be the answer."""
    return itertools.chain([next(chunks, b"")], chunks)
