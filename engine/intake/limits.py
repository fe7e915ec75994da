"""How much one import may read, counted on the bytes that really come out, never on what a header promises."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from distillery.errors import HostileFile, UnreadableData
from distillery.zip_directory import MOST_ENTRIES

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """The bounds of one import."""

    entries: int = MOST_ENTRIES
    total_bytes: int = 50 << 30
    """Of all that is unpacked and read."""
    overall_ratio: int = 20
    """Unpacked bytes for each packed one, over all sources."""
    member_ratio: int = 200
    overall_from_bytes: int = 4 * MIB
    member_from_bytes: int = 32 * MIB
    """Ratios are looked at once so much has been unpacked: sorted labels shrink a thousandfold and harm nobody."""
    seconds: float = 1800.0


LIMITS = Limits()


@dataclass
class Budget:
    """What one import has read so far, held against its limits.

    Args:
        packed_bytes: the length of all sources together, as they lie on the disk.
    """

    packed_bytes: int
    limits: Limits = LIMITS
    clock: Callable[[], float] = time.monotonic
    spent_bytes: int = 0
    _ends_at: float = field(init=False)

    def __post_init__(self) -> None:
        self._ends_at = self.clock() + self.limits.seconds

    def spend(self, count: int) -> None:
        """Note that `count` more bytes came out.

        Raises:
            HostileFile: more than may be, in all or for what went in.
            UnreadableData: the time is over.
        """
        self.spent_bytes += count
        self.foresee(self.spent_bytes)
        self.check_time()

    def foresee(self, total: int) -> None:
        """Refuse a total of so many unpacked bytes, whether they came out already or are promised.

        Raises:
            HostileFile: more than may be, in all or for what went in.
        """
        limits = self.limits
        if total > limits.total_bytes:
            raise HostileFile(
                f"The files unpack to more than {limits.total_bytes >> 30} GiB.",
                hint="Split the data set, or scale its images down.",
            )
        if total > limits.overall_from_bytes and total > limits.overall_ratio * self.packed_bytes:
            raise HostileFile(
                f"The files unpack to more than {limits.overall_ratio} times their size, as zip bombs do.",
                hint="Data of real images or texts does not. Send it less tightly packed if it is what it should be.",
            )

    def check_member(self, name: str, *, unpacked: int, packed: int) -> None:
        """Refuse a member of `packed` bytes that unpacks, or promises to, to so many.

        Raises:
            HostileFile: it is out of proportion.
        """
        limits = self.limits
        if unpacked > limits.member_from_bytes and unpacked > limits.member_ratio * max(packed, 1):
            raise HostileFile(
                f"'{name}' unpacks to more than {limits.member_ratio} times its size, as zip bombs do.",
                hint="Remove it from the archive, or store it uncompressed if it is what it should be.",
            )

    def check_time(self) -> None:
        """Raise UnreadableData once the time is over."""
        if self.clock() > self._ends_at:
            raise UnreadableData(
                f"Reading took longer than {self.limits.seconds / 60:.0f} minutes.",
                hint="Split the data set, or scale its images down.",
            )
