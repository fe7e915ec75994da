"""One request from its bytes to its answer: read, load what is not loaded, decode, wait for a batch, tell.

Networks are computed by one thread, loaded by another, and images are decoded by two: what is slow holds nothing else
up, and no two batches compete for the same cores.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from distillery.predictions import JobPrediction, ModelPrediction, NetworkPrediction, PredictionTimings
from store.artifacts import Artifacts
from store.servable import Asked, Servable
from worker.inference import inputs, loading
from worker.inference.batching import Batcher, Computed, Line
from worker.inference.inputs import Given
from worker.inference.settings import InferenceConfig
from worker.inference.shelf import Held, Shelf

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from engine.answering import Answering

T = TypeVar("T")
MOST_LOGITS = 1_000_000
"""In one answer."""
_DECODERS = 2


@dataclass(frozen=True)
class Loaded:
    """A network on the shelf, and what waits for it."""

    line: "Line[torch.Tensor, NDArray[np.float32]]"


class Service:
    """Answers what the API asks."""

    def __init__(self, config: InferenceConfig, artifacts: Artifacts, folder: Path) -> None:
        self._config, self._artifacts, self._folder = config, artifacts, folder
        self.batcher = Batcher(batch=config.batch, waiting_images=config.waiting_images)
        self.shelf: Shelf[Loaded] = Shelf(self._load, most_bytes=config.memory_bytes)
        self._computing = ThreadPoolExecutor(1, thread_name_prefix="computing")
        self._loading = ThreadPoolExecutor(1, thread_name_prefix="loading")
        self._decoding = ThreadPoolExecutor(_DECODERS, thread_name_prefix="decoding")

    def close(self) -> None:
        """Let the threads go when they are done."""
        for pool in (self._computing, self._loading, self._decoding):
            pool.shutdown(wait=False, cancel_futures=True)

    async def predict(self, asked: Asked, body: bytes, *, arrived: float) -> ModelPrediction | JobPrediction:
        """The answer; `arrived` is when the request did, by the monotonic clock. Cancelled, it gives up its places.

        Raises:
            InvalidInput: what was sent cannot be predicted.
            TooBusy: too much waits already.
            WrongState: the networks are larger than what may be held.
            distillery.errors.DistilleryError: a network cannot be loaded.
        """
        self.shelf.require_fit(*asked.networks)
        for wanted in asked.networks:
            if (there := self.shelf.ready(wanted)) is not None:
                self.batcher.require_room(there.line, 1)  # before anything is decoded in vain
        given = await self._in(
            self._decoding,
            lambda: inputs.read(body, media_type=asked.media_type, top_k=asked.top_k, logits=asked.logits),
        )
        async with AsyncExitStack() as stack:
            held = [await stack.enter_async_context(self.shelf.held(wanted)) for wanted in asked.networks]
            began = time.monotonic()
            first = asked.networks[0]
            pixels = await self._in(
                self._decoding, lambda: inputs.pixels(given, channels=first.channels, size=first.image_size)
            )
            decode = time.monotonic() - began
            _require_few_logits(given, len(pixels), classes=len(first.classes))
            answers = await _together(
                [
                    self._answer(wanted, there, pixels, given, decode=decode, arrived=arrived)
                    for wanted, there in zip(asked.networks, held, strict=True)
                ]
            )
        return _composed(asked, answers)

    async def _answer(
        self,
        wanted: Servable,
        held: Held[Loaded],
        pixels: "torch.Tensor",
        given: Given,
        *,
        decode: float,
        arrived: float,
    ) -> NetworkPrediction:
        from worker.inference import answers

        line = held.network.line
        size = self._config.batch
        pieces = [pixels[start : start + size] for start in range(0, len(pixels), size)]
        computed: list[Computed[Any]] = await _together(
            [self.batcher.ask(line, piece, images=len(piece)) for piece in pieces]
        )
        predictions = await self._in(
            self._decoding,
            lambda: tuple(
                told
                for each in computed
                for told in answers.told(
                    each.answer, classes=wanted.classes, top_k=given.top_k, with_logits=given.logits
                )
            ),
        )
        return NetworkPrediction(
            role=wanted.role,
            architecture=wanted.architecture,
            runtime=wanted.runtime,
            sha256=wanted.sha256,
            predictions=predictions,
            timings=PredictionTimings(
                decode=decode,
                load=held.load_seconds,
                queue=computed[0].queue_seconds,
                compute=sum(each.compute_seconds for each in computed),
                total=time.monotonic() - arrived,
            ),
            batch_size=max(each.batch_size for each in computed),
            cold=held.cold,
        )

    async def _load(self, wanted: Servable) -> Loaded:
        answering = await self._in(
            self._loading,
            lambda: loading.load(wanted, artifacts=self._artifacts, folder=self._folder, threads=self._config.threads),
        )

        async def run(works: "Sequence[torch.Tensor]") -> "Sequence[NDArray[np.float32]]":
            return await self._in(self._computing, lambda: _computed(answering, works))

        return Loaded(Line(run))

    async def _in(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(pool, work)


def _computed(answering: "Answering", works: "Sequence[torch.Tensor]") -> "Sequence[NDArray[np.float32]]":
    """One forward for all, cut up again."""
    import torch

    alike = works if len({each.dtype for each in works}) == 1 else [each.float() for each in works]
    logits = answering.logits(torch.cat(list(alike)))
    found, start = [], 0
    for each in works:
        found.append(logits[start : start + len(each)])
        start += len(each)
    return found


async def _together(work: Sequence[Any]) -> list[Any]:
    """All results; when one fails, or nobody waits any more, the others are given up."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _require_few_logits(given: Given, images: int, *, classes: int) -> None:
    if given.logits and images * classes > MOST_LOGITS:
        raise inputs.refused(
            "/logits",
            f"{images} images of {classes:,} classes have more than {MOST_LOGITS:,} logits.",
            "Ask about fewer images at a time, or for the most probable classes only.",
        )


def _composed(asked: Asked, answers: Sequence[NetworkPrediction]) -> ModelPrediction | JobPrediction:
    from worker.inference.answers import agreement

    first = answers[0]
    if asked.job_id is None:
        return ModelPrediction(**dict(first), model=asked.networks[0].id)
    teacher = answers[1] if len(answers) > 1 else None
    agree = None if teacher is None else agreement(first.predictions, teacher.predictions)
    return JobPrediction(job=asked.job_id, student=first, teacher=teacher, agree=agree, note=asked.note)
