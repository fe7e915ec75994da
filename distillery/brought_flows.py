"""Bringing something along, over several requests: sending a file in parts, and waiting for what is made of it."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from distillery import brought_calls as calls
from distillery.calls import Call
from distillery.errors import InvalidRequest, JobEndedBadly, StillRunning
from distillery.flows import HELD_SECONDS, POLL_SECONDS, Flow, Patience, Pause, exchange
from distillery.sniff import advice, describe, sniff_file
from distillery.spec import JobSpec
from distillery.spec.imports import MIB, SMALLEST_PART_BYTES, UploadSpec
from distillery.views import TERMINAL, JobError, Preflight, Upload, Validation

OnSent = Callable[[str, int, int], None]
"""Called with the file's name, the bytes that have arrived, and all of them."""
_MOST_PARTS = 10_000


class Made(Protocol):
    """What is made of uploads, by a worker."""

    @property
    def id(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def error(self) -> JobError | None: ...


M = TypeVar("M", bound=Made)


def upload(path: Path, *, server: str, patience: Callable[[], Patience], on_sent: OnSent | None = None) -> Flow[Upload]:
    """Send a file in parts. One that was sent before, or half sent, is not sent again.

    Raises:
        InvalidRequest: there is no such file, or it is empty.
    """
    spec = _announced(path)
    begun: Upload = yield from exchange(calls.begin_upload(spec), server=server, patience=patience())
    sent = begun
    with path.open("rb") as file:
        while sent.missing:
            for number in sent.missing:
                file.seek((number - 1) * sent.part_bytes)
                part = calls.send_part(sent.id, number=number, content=file.read(sent.part_bytes))
                after: Upload = yield from exchange(part, server=server, patience=patience())
                if on_sent is not None:
                    left = len(after.missing) * after.part_bytes
                    on_sent(path.name, max(0, after.size_bytes - left), after.size_bytes)
            sent = after
    return sent


def _announced(path: Path) -> UploadSpec:
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        size = path.stat().st_size
    except OSError as error:
        raise InvalidRequest(f"'{path}' cannot be read: {error.strerror}.", hint="Name a file.") from None
    if not size:
        raise InvalidRequest(f"'{path}' is empty.", hint="Name a file with something in it.")
    part = max(SMALLEST_PART_BYTES, -(-size // _MOST_PARTS // MIB + 1) * MIB if size > _MOST_PARTS * MIB else 0)
    return UploadSpec(name=path.name, size_bytes=size, sha256=sha256, part_bytes=part)


def refuse_foreign(paths: Sequence[Path]) -> None:
    """Refuse models in formats that the service never reads, before a byte is sent.

    Raises:
        InvalidRequest: with what to do about it.
    """
    for path in paths:
        kind = sniff_file(path)
        if mend := advice(kind):
            raise InvalidRequest(f"'{path}' is {describe(kind)}.", hint=mend.replace("FILE", str(path)))


def made(
    call: Call[M], *, look: Callable[[str, int], Call[M]], what: str, server: str, patience: Callable[[], Patience],
    on_look: Callable[[M], None] | None = None,
) -> Flow[M]:  # fmt: skip
    """Ask for something to be made, and wait until it is.

    Raises:
        JobEndedBadly: it could not be made.
    """
    view: M = yield from exchange(call, server=server, patience=Patience(), outage=patience())
    while view.status not in TERMINAL:
        looked = time.monotonic()
        if on_look is not None:
            on_look(view)
        held = 1 if on_look is not None else HELD_SECONDS
        view = yield from exchange(look(view.id, held), server=server, patience=patience())
        yield Pause(max(0.0, POLL_SECONDS - (time.monotonic() - looked)))
    if view.status != "succeeded":
        why = view.error.detail if view.error else view.status
        raise JobEndedBadly(
            f"{what} {view.id} cannot be used: {why}", hint=view.error.hint if view.error else "Add it again."
        )
    return view


def rehearsed(
    spec: JobSpec | Mapping[str, Any], *, timeout_seconds: float, server: str, patience: Callable[[], Patience]
) -> Flow[Validation]:
    """Check a spec and have a worker try it out.

    Raises:
        StillRunning: no worker had time for it.
    """
    began = time.monotonic()
    held = int(min(HELD_SECONDS, timeout_seconds))
    told: Validation = yield from exchange(calls.rehearse(spec, wait_seconds=held), server=server, patience=Patience())
    trial = told.preflight
    while trial is not None and trial.status not in TERMINAL:
        left = began + timeout_seconds - time.monotonic()
        if left <= 0:
            raise StillRunning(
                f"The trial {trial.id} is {trial.status} after {timeout_seconds:g} s.",
                hint="Is a worker free? What the service alone can tell needs none: leave the trial out.",
            )
        after: Preflight = yield from exchange(
            calls.preflight(trial.id, wait_seconds=max(1, int(min(HELD_SECONDS, left)))),
            server=server,
            patience=patience(),
        )
        trial = after
    return told.model_copy(update={"preflight": trial})
