"""Turns what the trainer tells into files of the artifact store and rows, each write guarded by the attempt.

The order is always file, then artifact, then row: a row never names bytes that are not there.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from distillery.errors import Fenced, StorageFull, Unavailable
from store import leases
from store.artifacts import Artifacts
from store.db import Database
from store.leases import Claim
from worker.lease import Lease
from worker.messages import (
    Answered,
    Benchmarked,
    Delivered,
    Estimated,
    Failed,
    Finished,
    FormChosen,
    Halted,
    Ingested,
    Inspected,
    Measured,
    Message,
    PhaseBegan,
    Progressed,
    Rehearsed,
    Resolved,
    Saved,
    Warned,
)
from worker.patience import Patience

T = TypeVar("T")
Verdict = Finished | Failed | Halted | Ingested | Inspected | Rehearsed | Benchmarked
_log = logging.getLogger(__name__)


@dataclass
class Recorder:
    """Records the messages of one attempt. `verdict` is the message that ended it, once there is one.

    Every method raises `Fenced` when another attempt owns the job, and `Unavailable` when it is time to leave and the
    database is still away.
    """

    claim: Claim
    database: Database
    artifacts: Artifacts
    lease: Lease
    patiently: Patience
    verdict: Verdict | None = None
    ended: bool = False
    """Whether the end of the attempt is recorded; a beat that is refused after that is none that came too late."""

    def write(self, action: Callable[[Any], T]) -> T:
        """Run `action` with a session, in a transaction of its own, as soon as the database answers."""

        def once() -> T:
            try:
                with self.database.transaction() as session:
                    return action(session)
            except StorageFull as error:  # of the database: what is to be recorded can wait for space, the lease too
                raise Unavailable(error.detail, hint=error.hint) from error

        return self.patiently(once)

    def end(self, action: Callable[[Any], None], *, outcome: str) -> None:
        """Record the end of the attempt, by whatever `action` writes; `outcome` is what its row will say.

        When the answer to a commit was lost, the same word again comes too late: then the row is asked.
        """
        try:
            self.write(action)
        except Fenced:
            if self.write(lambda s: leases.outcome(s, self.claim)) != outcome:
                raise
        self.ended = True

    def record(self, messages: Sequence[Message]) -> None:
        """Make them durable, in order; metrics that come together in one transaction.

        Raises:
            StorageFull: an artifact has no room; the job cannot be delivered now.
        """
        measured: list[Measured] = []
        for message in messages:
            if isinstance(message, Measured):
                measured.append(message)
            elif isinstance(message, Progressed):
                self.lease.tell(message.step, message.progress)
            else:
                self._metrics(measured)
                measured = []
                self._one(message)
        self._metrics(measured)

    def _metrics(self, measured: Sequence[Measured]) -> None:
        def write(session: Any) -> None:
            for each in measured:
                leases.metrics(session, self.claim, step=each.step, values=each.values)

        if measured:
            self.write(write)

    def _one(self, message: Message) -> None:
        match message:
            case PhaseBegan():
                self.write(lambda s: leases.phase(s, self.claim, message.phase))
            case Resolved():
                self.write(lambda s: leases.resolved(s, self.claim, message.spec))
            case Saved():
                self._checkpoint(message)
            case Delivered():
                self.artifact(Path(message.path), name=message.name, media_type=message.media_type)
            case Warned():
                self._warn(message.message, **message.data)
            case Estimated():
                self.write(lambda s: leases.estimated(s, self.claim, message.estimate))
            case Answered():
                facts = message.model_dump(mode="json", exclude={"kind"})
                self.write(lambda s: leases.event(s, self.claim, "answers", message.sentence, data=facts))
            case FormChosen():
                told = message.choice
                data = told.model_dump(mode="json")
                self.write(lambda s: leases.event(s, self.claim, "form", told.message, data=data))
            case Finished() | Failed() | Halted() | Ingested() | Inspected() | Rehearsed() | Benchmarked():
                self.verdict = message

    def artifact(self, path: Path, *, name: str, media_type: str) -> None:
        """Store a file as an artifact of the job.

        Raises:
            StorageFull: no room is left for it.
        """
        sha256, size = _sha256_of(path), path.stat().st_size
        # With the hash, so that a file told twice never takes the place of bytes that a row names already.
        key = f"jobs/{self.claim.id}/a{self.claim.attempt}/{sha256[:8]}/{name}"
        self.patiently(lambda: self.artifacts.put(key, path))
        self.write(
            lambda s: leases.artifact(
                s, self.claim, name=name, key=key, media_type=media_type, sha256=sha256, size_bytes=size
            )
        )

    def _checkpoint(self, saved: Saved) -> None:
        """A checkpoint that cannot be stored costs its steps and not the job: the one before it stays."""
        path = Path(saved.path)
        # The hash tells apart two states of the same step, such as the end of a phase and of its last epoch.
        key = f"jobs/{self.claim.id}/a{self.claim.attempt}/step-{saved.step}-{saved.sha256[:8]}.ckpt"
        try:
            self.patiently(lambda: self.artifacts.put(key, path))
        except (StorageFull, Unavailable) as error:
            self._warn(f"The checkpoint of step {saved.step} could not be stored: {error.detail}")
            return
        finally:
            path.unlink()  # the trainer leaves its files to us, and a work folder must not grow with every epoch

        def write(session: Any) -> None:
            leases.checkpoint(
                session,
                self.claim,
                key=key,
                sha256=saved.sha256,
                size_bytes=saved.size_bytes,
                step=saved.step,
                phase=saved.phase,
            )

        self.write(write)

    def _warn(self, message: str, **data: Any) -> None:
        self.write(lambda s: leases.event(s, self.claim, "warning", message, data=data))


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
