"""The loaded networks: those used last are kept, within a bound on memory, and each is loaded once however many ask."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from distillery.errors import TooBusy, WrongState
from store.servable import Servable

T = TypeVar("T")
Key = tuple[str, str, str]


@dataclass(frozen=True)
class Held(Generic[T]):
    """A loaded network, for as long as the block lasts that holds it."""

    network: T
    cold: bool
    """Whether this request had to wait for its loading."""
    load_seconds: float


@dataclass(eq=False)
class _Place(Generic[T]):
    """What the memory is counted for from the moment its loading begins."""

    loading: asyncio.Task[T]
    size_bytes: int
    users: int = 0


class Shelf(Generic[T]):
    """Networks by the sha256 of their file and the runtime they are in.

    Counted are the bytes of the files. A network in use is never dropped, so the bound holds at every moment.
    """

    def __init__(self, load: Callable[[Servable], Awaitable[T]], *, most_bytes: int) -> None:
        self._load = load
        self._most = most_bytes
        self._places: OrderedDict[Key, _Place[T]] = OrderedDict()

    @property
    def taken_bytes(self) -> int:
        """Of all networks that are loaded or being loaded."""
        return sum(place.size_bytes for place in self._places.values())

    @property
    def keys(self) -> tuple[Key, ...]:
        """What is there, the one used last at the end."""
        return tuple(self._places)

    def require_fit(self, *wanted: Servable) -> None:
        """Refuse what could never be held at once.

        Raises:
            WrongState: it is larger than all the memory there may be.
        """
        size = sum({_key(each): each.size_bytes for each in wanted}.values())
        if size > self._most:
            what = f"{wanted[0].id} needs" if len(wanted) == 1 else f"Student and teacher of {wanted[0].id} need"
            raise WrongState(
                f"{what} {size:,} bytes, and the inference worker may hold {self._most:,}.",
                hint="Start it with a larger DISTILLERY_INFERENCE_MEMORY, in bytes.",
            )

    def ready(self, wanted: Servable) -> T | None:
        """The network, where it is loaded already."""
        place = self._places.get(_key(wanted))
        if place is None or not place.loading.done() or place.loading.cancelled() or place.loading.exception():
            return None
        return place.loading.result()

    @asynccontextmanager
    async def held(self, wanted: Servable) -> AsyncIterator[Held[T]]:
        """The network, loaded now where it was not; it stays for the length of the block.

        Raises:
            TooBusy: every network that would have to make room is in use.
            distillery.errors.DistilleryError: it cannot be loaded; whoever asks next tries again.
        """
        key, began = _key(wanted), time.monotonic()
        place = self._places.get(key)
        if place is None:
            place = self._begin(key, wanted)
        self._places.move_to_end(key)
        place.users += 1
        cold = not place.loading.done()
        try:
            # One who leaves does not take the loading from the others who wait for it.
            network = await asyncio.shield(place.loading)
            yield Held(network, cold, time.monotonic() - began if cold else 0.0)
        finally:
            place.users -= 1

    def _begin(self, key: Key, wanted: Servable) -> _Place[T]:
        self._make_room(wanted.size_bytes)
        place = _Place(asyncio.ensure_future(self._loaded(wanted)), wanted.size_bytes)
        self._places[key] = place

        def forget_failure(task: "asyncio.Task[T]") -> None:
            if (task.cancelled() or task.exception()) and self._places.get(key) is place:
                del self._places[key]

        place.loading.add_done_callback(forget_failure)
        return place

    async def _loaded(self, wanted: Servable) -> T:
        return await self._load(wanted)

    def _make_room(self, size: int) -> None:
        idle = [key for key, place in self._places.items() if not place.users and place.loading.done()]
        while self.taken_bytes + size > self._most:
            if not idle:
                raise TooBusy(
                    "All memory for networks is taken by those that are being asked.",
                    retry_after_seconds=1,
                    hint="Ask again in a moment, or give the worker a larger DISTILLERY_INFERENCE_MEMORY.",
                )
            del self._places[idle.pop(0)]


def _key(wanted: Servable) -> Key:
    # The form besides: a foreign graph and an export of ours are run in different ways.
    return wanted.sha256, wanted.form, wanted.runtime
