"""The live streams of jobs' events (server-sent events), replayed from the database from any point on.

All streams of this process wait for one `Feed`: it asks the database now and then how far every job that is followed
has come, in one statement, however many listen. What has happened is read once for all who have heard as much.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from fastapi.sse import format_sse_event
from starlette.concurrency import run_in_threadpool

from distillery.errors import Unavailable
from distillery.views import TERMINAL, Event
from store.events import Standing

COMMENT_SECONDS = 15.0
"""A silent connection is cut by proxies; a comment keeps it alive and is ignored by clients."""
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 0.25
"""One look serves all who listen, so it can be taken often: four a second cost half a hundredth of a core."""
_LENGTHENING = 1.5
_READS_KEPT = 4
"""Of one job, for those who are about to ask for the same; a long history is not kept for ever."""

Look = Callable[[Sequence[str]], Mapping[str, Standing]]
"""How far each of these jobs has come; of those that are gone, nothing."""
Read = Callable[[str, int], Sequence[Event]]
"""The next events of a job after a number; none at the end."""


@dataclass(frozen=True)
class News:
    """Events as they are sent, and the number of the last one."""

    frames: bytes
    last: int


@dataclass
class Topic:
    """A job that is followed, for all who follow it."""

    job_id: str
    standing: Standing | None
    """As of the last look; None when the job is gone."""
    followers: int = 0
    failure: Exception | None = None
    _reads: dict[int, asyncio.Task[News | None]] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, standing: Standing | None, *, failure: Exception | None = None) -> bool:
        """Wake all who wait, if this is news; whether it was."""
        if standing == self.standing and failure is None:
            return False
        self.standing, self.failure = standing, failure
        self._reads.clear()
        self._changed.set()
        self._changed = asyncio.Event()
        return True

    async def change(self, *, within: float) -> bool:
        """Whether something has changed within so many seconds; returns as soon as it has."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._changed.wait()
                return True
        return False

    async def after(self, seq: int, read: Read) -> News | None:
        """What follows event number `seq`, read once for all who ask; None while the database is away."""
        task = self._reads.get(seq)
        if task is None:
            while len(self._reads) >= _READS_KEPT:
                del self._reads[next(iter(self._reads))]
            task = self._reads[seq] = asyncio.create_task(run_in_threadpool(_news, read, self.job_id, seq))
        news = await asyncio.shield(task)  # one who leaves must not take it from the others
        if news is None and self._reads.get(seq) is task:
            del self._reads[seq]
        return news


def _news(read: Read, job_id: str, seq: int) -> News | None:
    try:
        events = read(job_id, seq)
    except Unavailable:
        return None
    frames = (format_sse_event(id=str(event.seq), data_str=event.model_dump_json()) for event in events)
    return News(b"".join(frames), events[-1].seq if events else seq)


class Feed:
    """Looks at the database for all streams, as long as there are any; more often while something happens."""

    def __init__(
        self,
        look: Look,
        read: Read,
        *,
        first_pause_seconds: float = FIRST_PAUSE_SECONDS,
        longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
    ) -> None:
        self._look, self._read = look, read
        self._first, self._longest = first_pause_seconds, longest_pause_seconds
        self._pause = first_pause_seconds
        self._topics: dict[str, Topic] = {}
        self._watch: asyncio.Task[None] | None = None

    @contextmanager
    def follow(self, job_id: str, standing: Standing) -> Iterator[Topic]:
        """A job's topic until the block ends; `standing` is as of just now."""
        topic = self._topics.setdefault(job_id, Topic(job_id, standing))
        topic.followers += 1
        self._pause = self._first
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._keep_looking())
        try:
            yield topic
        finally:
            topic.followers -= 1
            if not topic.followers:
                self._topics.pop(job_id, None)

    async def stream(
        self, job_id: str, standing: Standing, *, after: int, comment_seconds: float = COMMENT_SECONDS
    ) -> AsyncIterator[bytes]:
        """Everything that happens after event number `after`, until the job has ended and all of it is told.

        While the database is away the stream waits for it: the client has nothing better to do.
        """
        yield format_sse_event(comment="the events of a job")
        spoke = time.monotonic()
        with self.follow(job_id, standing) as topic:
            while (now := topic.standing) is not None:
                news = await topic.after(after, self._read) if now.seq > after else None
                if news is not None:
                    yield news.frames
                    after, spoke = news.last, time.monotonic()
                    continue
                if now.seq <= after and now.status in TERMINAL:
                    yield format_sse_event(event="end", data_str=f'{{"status": "{now.status}"}}')
                    return
                silent = spoke + comment_seconds - time.monotonic()
                if silent <= 0:
                    yield format_sse_event(comment="still there")
                    spoke = time.monotonic()
                    continue
                away = now.seq > after
                await topic.change(within=min(silent, self._first) if away else silent)
                if topic.failure is not None:
                    raise topic.failure

    async def _keep_looking(self) -> None:
        try:
            while self._topics:
                await asyncio.sleep(self._pause)
                await self._look_once()
        except Exception as error:  # told to all who wait, each of whom raises it
            for topic in self._topics.values():
                topic.put(topic.standing, failure=error)

    async def _look_once(self) -> None:
        asked = list(self._topics)
        try:
            found = await run_in_threadpool(self._look, asked)
        except Unavailable:
            return
        topics = (self._topics.get(job_id) for job_id in asked)
        changed = [topic.put(found.get(topic.job_id)) for topic in topics if topic is not None]
        self._pause = self._first if any(changed) else min(self._pause * _LENGTHENING, self._longest)

    async def close(self) -> None:
        """Look no more."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
