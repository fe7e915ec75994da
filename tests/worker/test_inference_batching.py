"""The batcher, with computing that a test lets begin and end: what goes together, what waits, what is refused."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from distillery.errors import TooBusy, UnusableWeights
from worker.inference.batching import Batcher, Line


class Network:
    """Computes when it is let: answers each piece with itself, doubled."""

    def __init__(self, clock: list[float], seconds: float = 1.0) -> None:
        self.batches: list[list[Any]] = []
        self.may_go = asyncio.Semaphore(0)
        self.failure: Exception | None = None
        self._clock, self._seconds = clock, seconds

    async def run(self, works: Sequence[Any]) -> Sequence[Any]:
        self.batches.append(list(works))
        await self.may_go.acquire()
        self._clock[0] += self._seconds
        if self.failure is not None:
            raise self.failure
        return [work * 2 for work in works]


class Bench:
    """A batcher at work, and the time that it sees."""

    def __init__(self, *, batch: int = 64, waiting_images: int = 64) -> None:
        self.clock = [100.0]
        self.batcher = Batcher(batch=batch, waiting_images=waiting_images, clock=lambda: self.clock[0])
        self.serving = asyncio.create_task(self.batcher.serve())

    def network(self, **options: Any) -> tuple[Network, Line[Any, Any]]:
        network = Network(self.clock, **options)
        return network, Line(network.run)

    def ask(self, line: Line[Any, Any], work: Any, *, images: int = 1) -> "asyncio.Task[Any]":
        return asyncio.create_task(self.batcher.ask(line, work, images=images))


async def settled() -> None:
    """Everything that can go on has gone on."""
    for _ in range(20):
        await asyncio.sleep(0)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(whole())


def test_the_first_goes_at_once_and_those_that_come_meanwhile_go_together() -> None:
    async def test() -> None:
        bench = Bench()
        network, line = bench.network()
        first = bench.ask(line, 1)
        await settled()
        assert network.batches == [[1]]
        others = [bench.ask(line, work) for work in (2, 3, 4)]
        await settled()
        assert network.batches == [[1]]
        network.may_go.release()
        await settled()
        assert network.batches == [[1], [2, 3, 4]]
        network.may_go.release()
        answers = [await each for each in (first, *others)]
        assert [each.answer for each in answers] == [2, 4, 6, 8]
        assert [each.batch_size for each in answers] == [1, 3, 3, 3]
        assert [each.queue_seconds for each in answers] == [0, 1, 1, 1]
        assert [each.compute_seconds for each in answers] == [1, 1, 1, 1]
        assert bench.batcher.batches == {1: 1, 3: 1}

    run(test)


def test_a_batch_is_never_larger_than_it_may_be_and_nothing_is_cut_or_overtaken() -> None:
    async def test() -> None:
        bench = Bench(batch=4, waiting_images=64)
        network, line = bench.network()
        asked = [bench.ask(line, work, images=images) for work, images in ((1, 1), (2, 3), (3, 2), (4, 1), (5, 4))]
        for _ in asked:
            network.may_go.release()
        await asyncio.gather(*asked)
        assert network.batches == [[1, 2], [3, 4], [5]]

    run(test)


def test_networks_take_turns() -> None:
    async def test() -> None:
        bench = Bench(batch=1)
        (busy, busy_line), (other, other_line) = bench.network(), bench.network()
        order: list[str] = []
        tasks = [bench.ask(busy_line, work) for work in range(3)]
        tasks.append(bench.ask(other_line, 9))
        for task, name in zip(tasks, ("busy", "busy", "busy", "other"), strict=True):
            task.add_done_callback(lambda _, name=name: order.append(name))  # type: ignore[misc]
        for _ in range(3):
            busy.may_go.release()
        other.may_go.release()
        await asyncio.gather(*tasks)
        assert order == ["busy", "other", "busy", "busy"]

    run(test)


def test_more_than_may_wait_is_refused_with_the_time_that_those_before_will_take() -> None:
    async def test() -> None:
        bench = Bench(waiting_images=64)
        network, line = bench.network(seconds=4.0)
        measured = bench.ask(line, 0, images=16)
        network.may_go.release()
        await measured
        assert line.images_per_second == pytest.approx(4.0)
        computed = bench.ask(line, 1, images=64)
        await settled()
        waiting = bench.ask(line, 2, images=40)
        await settled()
        with pytest.raises(TooBusy, match="40 images wait") as caught:
            await bench.batcher.ask(line, 3, images=25)
        assert caught.value.retry_after_seconds == 10
        fitting = bench.ask(line, 4, images=24)
        await settled()
        assert line.images == 64
        network.may_go.release()
        network.may_go.release()
        assert [each.answer for each in await asyncio.gather(computed, waiting, fitting)] == [2, 4, 8]
        assert line.images == 0

    run(test)


@pytest.mark.parametrize(("images", "rate", "seconds"), [(0, None, 1), (10, None, 1), (10, 1e9, 1), (64, 1e-9, 60)])
def test_the_time_to_ask_again_is_from_a_second_to_a_minute(images: int, rate: float | None, seconds: int) -> None:
    async def test() -> None:
        bench = Bench()
        _, line = bench.network()
        bench.serving.cancel()
        if images:
            bench.ask(line, 1, images=images)
        await settled()
        line.images_per_second = rate
        assert line.retry_seconds == seconds

    run(test)


def test_whoever_leaves_gives_the_place_up_at_once_and_is_not_computed() -> None:
    async def test() -> None:
        bench = Bench(waiting_images=64)
        network, line = bench.network()
        computed = bench.ask(line, 1)
        await settled()
        leaving, staying = bench.ask(line, 2, images=63), bench.ask(line, 3)
        await settled()
        assert line.images == 64
        leaving.cancel()
        await settled()
        assert line.images == 1
        network.may_go.release()
        network.may_go.release()
        await asyncio.gather(computed, staying)
        assert network.batches == [[1], [3]]

    run(test)


def test_one_who_leaves_while_it_is_computed_takes_no_other_along() -> None:
    async def test() -> None:
        bench = Bench()
        network, line = bench.network()
        bench.ask(line, 0)
        await settled()
        leaving, staying = bench.ask(line, 1), bench.ask(line, 2)
        network.may_go.release()
        await settled()
        assert network.batches[-1] == [1, 2]
        leaving.cancel()
        network.may_go.release()
        assert (await staying).answer == 4

    run(test)


def test_a_failure_is_told_to_all_of_the_batch_and_the_next_is_computed() -> None:
    async def test() -> None:
        bench = Bench()
        network, line = bench.network()
        network.failure = UnusableWeights("broken")
        tasks = [bench.ask(line, work) for work in (1, 2)]
        network.may_go.release()
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [str(each) for each in found] == ["broken", "broken"]
        network.failure = None
        network.may_go.release()
        assert (await bench.ask(line, 3)).answer == 6

    run(test)
