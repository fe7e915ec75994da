"""The shelf of loaded networks: what is loaded once, what makes room, what is refused."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from distillery.errors import CorruptFile, TooBusy, WrongState
from store.servable import Servable
from worker.inference.shelf import Shelf


def network(name: str, *, size: int = 10, form: Any = "safetensors") -> Servable:
    return Servable(
        id=f"mdl_{name}", role="model", architecture="resnet8", form=form, key=f"{name}.safetensors", sha256=name,
        size_bytes=size, classes=("0", "1"), image_size=8, channels=1, mean=(0.5,), std=(0.5,),
    )  # fmt: skip


class Loader:
    """Loads when it is let, and remembers what it loaded."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.loaded: list[str] = []
        self.go = asyncio.Event()
        self.failure: Exception | None = None
        if at_once:
            self.go.set()

    async def __call__(self, wanted: Servable) -> str:
        self.loaded.append(wanted.sha256)
        await self.go.wait()
        if self.failure is not None:
            raise self.failure
        return f"network {wanted.sha256}"


async def used(shelf: "Shelf[str]", wanted: Servable) -> tuple[str, bool]:
    async with shelf.held(wanted) as held:
        return held.network, held.cold


def names(shelf: "Shelf[str]") -> list[str]:
    return [key[0] for key in shelf.keys]


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(whole())


def test_the_one_used_longest_ago_makes_room() -> None:
    async def test() -> None:
        loader = Loader()
        shelf = Shelf(loader, most_bytes=20)
        assert await used(shelf, network("a")) == ("network a", True)
        assert await used(shelf, network("b")) == ("network b", True)
        assert await used(shelf, network("a")) == ("network a", False)
        assert await used(shelf, network("c")) == ("network c", True)
        assert names(shelf) == ["a", "c"]
        assert shelf.taken_bytes == 20
        assert await used(shelf, network("b")) == ("network b", True)
        assert loader.loaded == ["a", "b", "c", "b"]

    run(test)


def test_a_dropped_network_is_let_go() -> None:
    import weakref

    class Heavy:
        pass

    async def load(_: Servable) -> Heavy:
        return Heavy()

    async def test() -> None:
        shelf = Shelf(load, most_bytes=10)
        async with shelf.held(network("a")) as held:
            gone = weakref.ref(held.network)
        del held
        async with shelf.held(network("b")):
            assert gone() is None

    run(test)


def test_many_who_ask_at_once_wait_for_one_loading() -> None:
    async def test() -> None:
        loader = Loader(at_once=False)
        shelf = Shelf(loader, most_bytes=100)
        asking = [asyncio.create_task(used(shelf, network("a"))) for _ in range(5)]
        await asyncio.sleep(0)
        assert shelf.ready(network("a")) is None
        loader.go.set()
        assert await asyncio.gather(*asking) == [("network a", True)] * 5
        assert loader.loaded == ["a"]
        assert shelf.ready(network("a")) == "network a"

    run(test)


def test_the_same_file_in_another_form_is_another_network() -> None:
    async def test() -> None:
        loader = Loader()
        shelf = Shelf(loader, most_bytes=100)
        await used(shelf, network("a", form="export"))
        await used(shelf, network("a", form="graph"))
        assert loader.loaded == ["a", "a"]

    run(test)


def test_what_is_in_use_is_never_dropped_and_the_bound_holds() -> None:
    async def test() -> None:
        shelf = Shelf(Loader(), most_bytes=20)
        async with AsyncExitStack() as stack:
            for name in ("a", "b"):
                await stack.enter_async_context(shelf.held(network(name)))
            with pytest.raises(TooBusy) as caught:
                await used(shelf, network("c"))
            assert caught.value.retry_after_seconds == 1
            assert names(shelf) == ["a", "b"]
        assert await used(shelf, network("c", size=20)) == ("network c", True)
        assert names(shelf) == ["c"]

    run(test)


def test_one_who_leaves_does_not_end_the_loading_for_the_others() -> None:
    async def test() -> None:
        loader = Loader(at_once=False)
        shelf = Shelf(loader, most_bytes=10)
        leaving, staying = (asyncio.create_task(used(shelf, network("a"))) for _ in range(2))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        loader.go.set()
        assert await staying == ("network a", True)
        # Nobody uses it any more, so it makes room.
        assert await used(shelf, network("b")) == ("network b", True)

    run(test)


def test_a_loading_that_fails_is_told_to_all_and_tried_again_by_the_next() -> None:
    async def test() -> None:
        loader = Loader(at_once=False)
        loader.failure = CorruptFile("damaged")
        shelf = Shelf(loader, most_bytes=10)
        asking = [asyncio.create_task(used(shelf, network("a"))) for _ in range(2)]
        await asyncio.sleep(0)
        loader.go.set()
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert [str(each) for each in found] == ["damaged", "damaged"]
        assert (names(shelf), shelf.taken_bytes) == ([], 0)
        loader.failure = None
        assert await used(shelf, network("a")) == ("network a", True)

    run(test)


def test_what_could_never_be_held_is_refused_with_the_variable_that_would_mend_it() -> None:
    async def test() -> None:
        shelf = Shelf(Loader(), most_bytes=20)
        shelf.require_fit(network("a", size=20))
        shelf.require_fit(network("a", size=20), network("a", size=20))
        with pytest.raises(WrongState, match=r"mdl_a needs 21 bytes.*20"):
            shelf.require_fit(network("a", size=21))
        with pytest.raises(WrongState, match="Student and teacher of mdl_a need 25") as caught:
            shelf.require_fit(network("a", size=10), network("b", size=15))
        assert "DISTILLERY_INFERENCE_MEMORY" in caught.value.hint

    run(test)
