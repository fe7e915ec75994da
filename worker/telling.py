"""Where the trainer's messages go: down a pipe to the supervisor, or onto the console of a user without a service."""

import os
import sys
import time
from pathlib import Path
from typing import Protocol, TextIO

from worker.messages import (
    Answered,
    Delivered,
    Failed,
    Finished,
    FormChosen,
    Halted,
    Measured,
    Message,
    PhaseBegan,
    Progressed,
    Saved,
    Warned,
    encode,
)

_SECONDS_BETWEEN_LINES = 2.0


class Teller(Protocol):
    """Takes the trainer's messages in order."""

    def tell(self, message: Message) -> None:
        """Pass one message on."""


class Pipe:
    """Writes messages as lines to a file descriptor that the supervisor reads."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def tell(self, message: Message) -> None:
        """Write the whole line; a supervisor that is gone ends the trainer with BrokenPipeError."""
        line = memoryview(encode(message))
        while line:
            line = line[os.write(self._descriptor, line) :]


class Console:
    """Prints what a person wants to know, progress at most every two seconds."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._last_progress = 0.0
        self._last_checkpoint = ""

    def tell(self, message: Message) -> None:
        """Print the message, or nothing when it is for machines only."""
        if isinstance(message, Saved):
            self._last_checkpoint = message.path
        if isinstance(message, Progressed):
            self._progress(message)
        elif isinstance(message, Halted):
            self._stream.write(f"halted: {message.detail}\n{self._way_on(message)}\n")
        elif text := _line_of(message):
            self._stream.write(f"{text}\n")

    def _progress(self, message: Progressed) -> None:
        now = time.monotonic()
        if now - self._last_progress < _SECONDS_BETWEEN_LINES:
            return
        self._last_progress = now
        at = message.progress
        rate = f", {at.images_per_second:,.0f} images/s" if at.images_per_second else ""
        eta = f", {at.eta_seconds:,.0f} s left" if at.eta_seconds is not None else ""
        epoch = f"epoch {at.epoch}/{at.epochs}, " if at.epochs else ""
        self._stream.write(f"  {epoch}step {at.step}/{at.total_steps}{rate}{eta}\n")

    def _way_on(self, message: Halted) -> str:
        """What a supervisor would do next, for a person to do."""
        resume = f"--resume {self._last_checkpoint}" if self._last_checkpoint else ""
        change = {
            "diverged": f"--halve-rate {message.run}",
            "out_of_memory": "--micro-batches 2 (then 4 and 8)",
            "disk_full": "once there is space",
        }[message.reason]
        same = "and the --resume of this run, if it had one, " if not resume else ""
        return f"Go on by running the same command again with {same}{' '.join(filter(None, (resume, change)))}."


def _line_of(message: Message) -> str:
    match message:
        case PhaseBegan():
            return f"{message.phase} ..."
        case Measured():
            accuracies = [(key, value) for key, value in message.values.items() if key.endswith("/accuracy")]
            return "".join(f"  {key} {value:.4f}" for key, value in accuracies if value is not None)
        case FormChosen():
            return f"  {message.choice.message}" if message.choice.tried else ""
        case Warned():
            return f"warning: {message.message}"
        case Saved():
            return f"  checkpoint at step {message.step}: {message.path}"
        case Delivered():
            return f"  {Path(message.path).name}: {message.size_bytes:,} bytes, sha256 {message.sha256[:12]}…"
        case Answered():
            return message.sentence
        case Finished():
            return message.summary
        case Failed():
            return f"failed: {message.error.detail} {message.error.hint}".rstrip()
    return ""
