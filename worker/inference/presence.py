"""Tells the database where this process answers, again and again, until it leaves."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from distillery.errors import DistilleryError
from store import inference
from store.db import Database
from store.inference import InferenceWorker

_log = logging.getLogger(__name__)


class Presence:
    """The word of one process that it is there. It is given from the event loop: one that hangs is soon forgotten."""

    def __init__(
        self, database: Database, worker: InferenceWorker, *, heartbeat_seconds: float, alive_seconds: float
    ) -> None:
        self._database, self._worker = database, worker
        self._every, self._alive = heartbeat_seconds, alive_seconds
        self._left = False

    @asynccontextmanager
    async def told(self) -> AsyncIterator[None]:
        """Be known for as long as the block lasts.

        Raises:
            Unavailable: the database is out of reach at the start.
        """
        await asyncio.to_thread(self._announce)
        beating = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
            await self.leave()

    async def leave(self) -> None:
        """Let nobody come any more. A database that is away forgets by itself."""
        self._left = True
        try:
            await asyncio.to_thread(self._withdraw)
        except DistilleryError as error:
            _log.warning("This worker could not withdraw. %s", error)

    async def _beat(self) -> None:
        while not self._left:
            await asyncio.sleep(self._every)
            try:
                await asyncio.to_thread(self._announce)
            except DistilleryError as error:
                _log.warning("This worker could not tell that it is there. %s", error)

    def _announce(self) -> None:
        with self._database.transaction() as session:
            if not self._left:
                inference.announce(session, self._worker, alive_seconds=self._alive)

    def _withdraw(self) -> None:
        with self._database.transaction() as session:
            inference.withdraw(session, self._worker.id)
