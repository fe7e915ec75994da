"""Compressed bytes read little by little, every byte that comes out counted before the next is made."""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

from distillery.errors import HostileFile, UnreadableData
from engine.intake.limits import Budget

CHUNK_BYTES = 1 << 16
_MOST_LZMA_MEMORY = 80 << 20
"""`xz -9` needs 65 MiB to be read."""
_CUT = "Send the file again; it may have been cut short."


class _Decompressor(Protocol):
    """What bz2 and lzma have, and `_Zlib` gives zlib."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Zlib:
    """zlib's decompressor with the manners of the other two."""

    def __init__(self, wbits: int) -> None:
        self._inner = zlib.decompressobj(wbits)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


_MAKERS: dict[str, Callable[[], _Decompressor]] = {
    "deflate": lambda: _Zlib(-zlib.MAX_WBITS),
    "gzip": lambda: _Zlib(zlib.MAX_WBITS | 16),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_MOST_LZMA_MEMORY),
}
COMPRESSIONS = ("gzip", "bzip2", "xz")


class Unpacked(io.RawIOBase):
    """The content of `packed`, which is `packed_bytes` long, compressed as `how` or, of `stored`, not at all.

    Args:
        name: shown in errors.
        budget: counts what comes out; None where it was counted before.

    Reading raises HostileFile when it swells out of proportion, UnreadableData when it is damaged or cut short.
    """

    def __init__(
        self,
        packed: BinaryIO,
        *,
        how: str,
        packed_bytes: int,
        name: str,
        budget: Budget | None,
        own_member: bool = True,
    ) -> None:
        self._packed, self._left, self._name, self._budget = packed, packed_bytes, name, budget
        self._packed_bytes, self._own_member = packed_bytes, own_member
        self._make = _MAKERS.get(how)
        self._several = how in COMPRESSIONS
        self._inner = self._make() if self._make else None
        self._waiting = b""
        self.unpacked_bytes = 0

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            self._packed.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        wanted = memoryview(buffer).nbytes
        content = self._some(min(wanted, CHUNK_BYTES))
        memoryview(buffer).cast("B")[: len(content)] = content
        return len(content)

    def _some(self, most: int) -> bytes:
        """One to `most` bytes; none at the end."""
        content = self._inflated(most) if self._inner else self._raw(most)
        if self._inner is None and not content and self._left:
            raise self._damaged("is cut short")
        self.unpacked_bytes += len(content)
        if self._budget is not None:
            self._budget.spend(len(content))
            if self._own_member:
                self._budget.check_member(self._name, unpacked=self.unpacked_bytes, packed=self._packed_bytes)
        return content

    def _raw(self, most: int) -> bytes:
        content = self._packed.read(min(most, self._left))
        self._left -= len(content)
        return content

    def _inflated(self, most: int) -> bytes:
        while True:
            if self._inner is None or (self._inner.eof and not self._next_stream()):
                return b""
            given = b""
            if self._inner.needs_input:
                given = self._waiting or self._raw(CHUNK_BYTES)
                self._waiting = b""
                if not given:
                    raise self._damaged("is cut short")
            content = self._inflated_by(given, most=most)
            if content:
                return content

    def _inflated_by(self, given: bytes, *, most: int) -> bytes:
        assert self._inner is not None  # noqa: S101 - asked just before
        try:
            return self._inner.decompress(given, most)
        except MemoryError:
            raise HostileFile(
                f"'{self._name}' needs more memory to unpack than may be.", hint="Pack it again."
            ) from None
        except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
            if isinstance(error, lzma.LZMAError) and "limit" in str(error).lower():
                raise HostileFile(
                    f"'{self._name}' needs more memory to unpack than may be.", hint="Pack it again with 'xz -6'."
                ) from None
            raise self._damaged(f"is damaged ({error})") from None

    def _next_stream(self) -> bool:
        """Begin the next of several compressed streams in a row; False where nothing, or only padding, follows."""
        assert self._inner is not None and self._make is not None  # noqa: S101 - asked just before
        rest = self._inner.unused_data or self._waiting or self._raw(CHUNK_BYTES)
        while rest and not rest.strip(b"\0") and self._several:
            rest = self._raw(CHUNK_BYTES)
        if not rest:
            return False
        if not self._several:
            raise self._damaged("has something behind its end")
        self._inner, self._waiting = self._make(), rest.lstrip(b"\0") if self._several else rest
        return True

    def _damaged(self, what: str) -> UnreadableData:
        return UnreadableData(f"'{self._name}' {what}.", hint=_CUT)


def buffered(stream: Unpacked) -> BinaryIO:
    """The same with readline and exact reads."""
    return io.BufferedReader(stream, CHUNK_BYTES)
