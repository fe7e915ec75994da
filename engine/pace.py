"""Real time in a training run: it decides when to tell and when to save, never what is learned."""

import time
from collections.abc import Callable

from engine.loop_state import LoopState

PROGRESS_SECONDS = 1.0


class Clock:
    """Adds up the seconds of a run in its state, and says when something is due.

    `tell` is called about once a second with the images per second of training since it was called last, or, where
    nothing was trained in between, those it was told last (None before the first).
    """

    def __init__(self, state: LoopState, *, save_seconds: float, tell: Callable[[float | None], None]) -> None:
        self._state, self._save_seconds, self._tell = state, save_seconds, tell
        self._lap_began = self._last_told = self._last_saved = time.monotonic()
        self._recent_images, self._recent_seconds = 0, 0.0
        self._speed: float | None = None
        self.start_epoch()

    def start_epoch(self) -> None:
        """What follows is training."""
        self.lap()
        self._epoch_began = self._state.images, self._state.training_seconds

    def lap(self) -> float:
        """Seconds since the last call, added to those of the run."""
        now = time.monotonic()
        seconds, self._lap_began = now - self._lap_began, now
        self._state.seconds += seconds
        return seconds

    def count(self, images: int) -> bool:
        """A step over so many images is done; tell about it when the time has come. Whether it had."""
        state, seconds = self._state, self.lap()
        state.images += images
        state.training_seconds += seconds
        self._recent_images += images
        self._recent_seconds += seconds
        return self._tell_if_due()

    def pause(self) -> None:
        """What was done since the last call was no step; tell that the run goes on when the time has come."""
        self.lap()
        self._tell_if_due()

    def _tell_if_due(self) -> bool:
        due = self._lap_began - self._last_told >= PROGRESS_SECONDS
        if due:
            self.tell()
        return due

    def tell(self) -> None:
        """Tell how fast the run goes, now."""
        if self._recent_seconds:
            self._speed = self._recent_images / self._recent_seconds
        self._tell(self._speed)
        self._recent_images, self._recent_seconds = 0, 0.0
        self.lap()
        self._last_told = self._lap_began

    def epoch_pace(self) -> dict[str, float]:
        """Images per second of training since the epoch began; nothing when no step of it was left to do."""
        images, seconds = self._epoch_began
        seconds = self._state.training_seconds - seconds
        return {"images_per_second": (self._state.images - images) / seconds} if seconds else {}

    def save_due(self) -> bool:
        """Whether the last save is longer ago than the recipe allows."""
        return time.monotonic() - self._last_saved >= self._save_seconds

    def saved(self) -> None:
        """A save has ended."""
        self.lap()
        self._last_saved = self._lap_began
