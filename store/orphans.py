"""Files and rows that have lost each other: files that no row names are swept away, rows without their file are told.

A row never names a file that is not there, because a file is stored before its row is committed, and deleted by the
outbox after its row is gone. What a worker stored and died before it could commit is left over, and swept here.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sqlalchemy import Executable, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from distillery.errors import CorruptFile, NotFound
from store.artifacts import Artifacts, Listed
from store.db import Database
from store.tables import (
    LIVE,
    ArtifactRow,
    CheckpointRow,
    DatasetRow,
    JobRow,
    ModelRow,
    OutboxEntry,
    UploadPartRow,
    has_status,
    now_seconds,
)

ORPHANED_AFTER_SECONDS = 86_400.0
SWEPT = ("jobs", "uploads")
"""The folders of keys that are swept. What lies beside them is not ours to judge."""
MOST_AT_ONCE = 1_000
_OF_ATTEMPT = re.compile(r"jobs/([^/]+)/a([0-9]{1,9})/.+")
_ROWS = 500


@dataclass(frozen=True)
class Missing:
    """A row whose file is not what the row says."""

    row: str
    """Kind and id of the row, such as `checkpoint ckp_…`."""
    key: str
    reason: str

    def __str__(self) -> str:
        return f"The file {self.key} of {self.row} {self.reason}."


def sweep(
    database: Database,
    artifacts: Artifacts,
    *,
    older_than_seconds: float = ORPHANED_AFTER_SECONDS,
    limit: int = MOST_AT_ONCE,
) -> list[str]:
    """Delete up to `limit` files that are older than this and that nothing names; what was deleted, by key.

    Nothing names a file when no checkpoint, artifact, model or waiting deletion does, and no attempt that may still
    commit it is under way. Age is measured by the store's clock, and by the database's where that is behind: a clock
    that is ahead deletes nothing too early. What killed writers left in a local folder goes the same way.

    Safe in several processes at once, and beside workers.

    Raises:
        Unavailable: the database or the store is out of reach; what was deleted so far stays deleted.
        StorageFull: the store takes not even the empty file that shows its clock.
    """
    now = min(artifacts.now(), _now(database))
    gone: list[str] = []
    for page in chain.from_iterable(artifacts.listed(folder) for folder in SWEPT):
        old = [each for each in page if now - each.modified_at >= older_than_seconds]
        if not old:
            continue
        with database.read() as session:
            kept = spoken_for(session, [each.path for each in old])
        for each in _unnamed(old, kept, room=limit - len(gone)):
            artifacts.remove(each)
            gone.append(each.path)
        if len(gone) >= limit:
            break
    return gone


def spoken_for(session: Session, keys: Collection[str]) -> set[str]:
    """Those of the keys that a row names, that the outbox is about to delete, or that may yet be committed."""
    return named(session, keys) | _waiting_to_be_deleted(session, keys) | _of_live_attempts(session, keys)


def named(session: Session, keys: Collection[str]) -> set[str]:
    """Those of the keys that a checkpoint, an artifact, a model, a data set or a part of an upload names."""
    columns: tuple[InstrumentedAttribute[Any], ...] = (
        CheckpointRow.key, ArtifactRow.key, ModelRow.weights_key, DatasetRow.key, UploadPartRow.key
    )  # fmt: skip
    return {key for column in columns for key in session.scalars(select(column).where(column.in_(keys)))}


def missing(session: Session, artifacts: Artifacts, *, verify: bool = False) -> list[Missing]:
    """The rows whose file is missing or has another size than was recorded; with `verify`, or another sha256.

    Files that were let go after the session's snapshot count as missing, so ask while nothing is being deleted.

    Raises:
        Unavailable: the database or the store is out of reach.
    """
    found = []
    for row, key, size_bytes, sha256 in _files(session):
        reason = _wrong(artifacts, key, size_bytes=size_bytes, sha256=sha256 if verify else None)
        if reason:
            found.append(Missing(row, key, reason))
    return found


def _now(database: Database) -> float:
    with database.read() as session:
        return float(session.scalar(select(now_seconds())) or 0.0)


def _unnamed(old: list[Listed], kept: Collection[str], *, room: int) -> list[Listed]:
    return [each for each in old if each.path not in kept][:room]


def _waiting_to_be_deleted(session: Session, keys: Collection[str]) -> set[str]:
    key = OutboxEntry.payload["key"].as_string()
    return set(session.scalars(select(key).where(OutboxEntry.kind == "delete", key.in_(keys))))


def _of_live_attempts(session: Session, keys: Collection[str]) -> set[str]:
    """An attempt that has lost its job can commit nothing more; one that has it may, however old its files look."""
    attempts = {key: (match[1], int(match[2])) for key in keys if (match := _OF_ATTEMPT.fullmatch(key))}
    jobs = {job_id for job_id, _ in attempts.values()}
    statement = select(JobRow.id, JobRow.attempt).where(JobRow.id.in_(jobs), has_status(*LIVE))
    live = {(job_id, attempt) for job_id, attempt in session.execute(statement)}
    return {key for key, attempt in attempts.items() if attempt in live}


def _files(session: Session) -> Iterator[tuple[str, str, int | None, str]]:
    """Row, key, size in bytes and sha256 of every file that has one."""
    checkpoints = select(CheckpointRow.id, CheckpointRow.key, CheckpointRow.size_bytes, CheckpointRow.sha256)
    for id_, key, size_bytes, sha256 in _streamed(session, checkpoints):
        yield f"checkpoint {id_}", key, size_bytes, sha256
    artifacts = select(
        ArtifactRow.job_id, ArtifactRow.name, ArtifactRow.key, ArtifactRow.size_bytes, ArtifactRow.sha256
    )
    for job_id, name, key, size_bytes, sha256 in _streamed(session, artifacts):
        yield f"artifact {name} of {job_id}", key, size_bytes, sha256
    kept = select(ModelRow.id, ModelRow.weights_key, ModelRow.sha256).where(ModelRow.weights_key.is_not(None))
    for id_, key, sha256 in _streamed(session, kept):
        yield f"model {id_}", key, None, sha256
    packed = select(DatasetRow.id, DatasetRow.key, DatasetRow.size_bytes, DatasetRow.sha256)
    for id_, key, size_bytes, sha256 in _streamed(session, packed.where(DatasetRow.key.is_not(None))):
        yield f"data set {id_}", key, size_bytes, sha256
    parts = select(UploadPartRow.upload_id, UploadPartRow.number, UploadPartRow.key)
    for id_, number, key, size_bytes, sha256 in _streamed(
        session, parts.add_columns(UploadPartRow.size_bytes, UploadPartRow.sha256)
    ):
        yield f"part {number} of {id_}", key, size_bytes, sha256


def _streamed(session: Session, statement: Executable) -> Iterator[Any]:
    return iter(session.execute(statement, execution_options={"yield_per": _ROWS}))


def _wrong(artifacts: Artifacts, key: str, *, size_bytes: int | None, sha256: str | None) -> str:
    """What is wrong with a file; empty when nothing is."""
    try:
        size = artifacts.size(key)
        if size_bytes is not None and size != size_bytes:
            return f"has {size} bytes; {size_bytes} were recorded"
        if sha256 is not None:
            for _ in artifacts.verified(key, sha256=sha256):
                pass
    except NotFound:
        return "is missing"
    except CorruptFile:
        return f"does not have its recorded sha256 {sha256}"
    return ""
