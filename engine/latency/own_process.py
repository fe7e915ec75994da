"""A comparison in a process of its own: what ran before cannot disturb it, and its crash costs nothing but itself."""

import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from distillery.errors import DistilleryError, OutOfMemory, RuntimeCrashed

Made = TypeVar("Made")
Tick = Callable[[], None]

TICK_SECONDS = 0.2
START_SECONDS = 300.0
"""For the process to come up and import what it needs."""
SILENCE_SECONDS = 900.0
"""Without a sign of life the process has hung; a single call of a large network may take minutes."""
_SETTLE_SECONDS = 5.0


def in_own_process(work: Callable[[Tick], Made], *, on_tick: Tick, silence_seconds: float = SILENCE_SECONDS) -> Made:
    """What `work` gives. It runs in a fresh process, which shares nothing with this one, and calls its
    argument every now and then; `on_tick` is called here meanwhile, and what that raises ends the process.

    Raises:
        DistilleryError: what `work` raised.
        OutOfMemory: `work` ran out of memory, or the system killed the process.
        RuntimeCrashed: the process died, hung, or raised anything else.
    """
    # A fork server would start faster, but it listens at a path, which is too long where temporary folders lie deep.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    # Pickled here: multiprocessing would hand each tensor over as a file descriptor, and large networks have too many.
    child = context.Process(target=_child, args=(pickle.dumps(work), theirs), daemon=True)
    child.start()
    theirs.close()
    try:
        outcome = _outcome(ours, on_tick=on_tick, silence_seconds=silence_seconds)
        child.join(timeout=_SETTLE_SECONDS)
    finally:
        child.kill()
        child.join()
        ours.close()
    if outcome is None:
        raise _death(child.exitcode)
    made, error = outcome
    if error is not None:
        raise error
    return made  # type: ignore[no-any-return]  # what came through the pipe is what `work` gave


def _outcome(pipe: Connection, *, on_tick: Tick, silence_seconds: float) -> tuple[Any, Exception | None] | None:
    """What the process sent last, or None where it died first."""
    heard, patience = time.monotonic(), START_SECONDS
    while True:
        on_tick()
        if not pipe.poll(TICK_SECONDS):
            if time.monotonic() - heard > patience:
                raise RuntimeCrashed(f"Nothing was heard of the runtime for {patience:.0f} s: it hung.")
            continue
        try:
            told = pipe.recv()
        except EOFError:
            return None
        heard, patience = time.monotonic(), silence_seconds
        if told is not None:
            return told  # type: ignore[no-any-return]


def _child(pickled: bytes, pipe: Connection) -> None:
    threading.Thread(target=_die_with_parent, daemon=True).start()
    work = pickle.loads(pickled)  # noqa: S301 - made a moment ago by the process that started this one
    pipe.send(None)
    told = time.monotonic()

    def tick() -> None:
        nonlocal told
        if time.monotonic() - told > TICK_SECONDS:
            pipe.send(None)
            told = time.monotonic()

    try:
        pipe.send((work(tick), None))
    except Exception as error:  # whatever a runtime raises: it is told, and costs this comparison alone
        pipe.send((None, _told(error)))


def _die_with_parent() -> None:
    """Wait, without a cost, until the process that wanted this one is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this runs in a child"  # noqa: S101 - ours to keep
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGKILL)


def _told(error: Exception) -> DistilleryError:
    """The error in a form that crosses to another process."""
    if isinstance(error, DistilleryError):
        return error
    first = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return OutOfMemory(first) if is_out_of_memory(error) else RuntimeCrashed(f"{type(error).__name__}: {first}")


def is_out_of_memory(error: Exception) -> bool:
    """Whether a runtime says with it that there is not enough memory."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = str(error).lower()
    return any(each in words for each in ("can't allocate memory", "bad_alloc", "failed to allocate", "out of memory"))


def _death(code: int | None) -> DistilleryError:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        if -code == signal.SIGKILL:
            return OutOfMemory(f"The process of the runtime was killed ({name}), most likely for lack of memory.")
        return RuntimeCrashed(f"The process of the runtime died of {name}.")
    return RuntimeCrashed(f"The process of the runtime ended with code {code} before it had an answer.")
