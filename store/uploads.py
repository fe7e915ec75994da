"""Files that are sent in parts: which there are, which parts have come, and when they are forgotten.

A part is a file of the artifact store before it is a row here, so a part that is listed is whole. Nothing else of an
upload can be seen or used before its last part has come.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Text, cast, delete, func, insert, select, update
from sqlalchemy.orm import Session

from distillery.errors import InvalidRequest, NotFound, QuotaExceeded, WrongState
from distillery.ids import new_id
from distillery.spec.imports import UploadSpec
from distillery.views import TERMINAL, Upload
from store import outbox
from store.present import moment
from store.tables import ArtifactRow, JobRow, UploadPartRow, UploadRow, now_seconds

KEPT_SECONDS = 86_400.0
"""After the last part, or the last use."""
_SHOWN = 1000
_SWEPT_AT_ONCE = 100


@dataclass(frozen=True)
class Part:
    """One part of a whole upload, as it lies in the artifact store."""

    key: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Whole:
    """An upload whose parts have all come, in their order."""

    id: str
    name: str
    sha256: str
    size_bytes: int
    parts: tuple[Part, ...]


def begin(session: Session, spec: UploadSpec, *, quota_bytes: int) -> Upload:
    """Announce a file. The same bytes are the same upload: parts of it that have come need not come again.

    Raises:
        QuotaExceeded: with it there would be more than `quota_bytes` in the service.
    """
    same = (UploadRow.sha256 == spec.sha256, UploadRow.size_bytes == spec.size_bytes)
    known = select(UploadRow.id).where(*same, UploadRow.name == spec.name, UploadRow.part_bytes == spec.part_bytes)
    if found := session.scalar(known.order_by(UploadRow.id).limit(1)):
        _touch(session, [found])
        return get(session, found)
    kept = kept_bytes(session)
    if kept + spec.size_bytes > quota_bytes:
        raise QuotaExceeded(
            f"The file has {spec.size_bytes:,} bytes; {kept:,} of {quota_bytes:,} are in use.",
            hint="Delete data sets, models or jobs that are not needed, or ask the operator to raise "
            "DISTILLERY_QUOTA_BYTES.",
            pointer="/size_bytes",
        )
    values = {"id": new_id("upl"), **spec.model_dump(mode="json")}
    row = session.scalars(
        insert(UploadRow).values(**values, created_at=now_seconds(), used_at=now_seconds()).returning(UploadRow)
    ).one()
    return _view(row, arrived=())


def kept_bytes(session: Session) -> int:
    """Bytes of what users brought and jobs delivered, uploads that are still to come included."""
    sums = (func.coalesce(func.sum(column), 0) for column in (UploadRow.size_bytes, ArtifactRow.size_bytes))
    return sum(int(session.scalar(select(each)) or 0) for each in sums)


def get(session: Session, upload_id: str) -> Upload:
    """The upload as it is now.

    Raises:
        NotFound: there is none, or it was forgotten.
    """
    row = _find(session, upload_id)
    arrived = session.scalars(select(UploadPartRow.number).where(UploadPartRow.upload_id == row.id)).all()
    return _view(row, arrived=arrived)


def expected_bytes(session: Session, upload_id: str, *, number: int) -> int:
    """How long the part of this number must be.

    Raises:
        NotFound: there is no such upload, or it has no part of this number.
    """
    row = _find(session, upload_id)
    count = _count(row)
    if not 1 <= number <= count:
        raise NotFound(
            f"{upload_id} has no part {number}: its {row.size_bytes:,} bytes are {count} parts of {row.part_bytes:,}.",
            hint="Number the parts from 1.",
        )
    return row.part_bytes if number < count else row.size_bytes - (count - 1) * row.part_bytes


def add_part(session: Session, upload_id: str, *, number: int, key: str, sha256: str, size_bytes: int) -> Upload:
    """Record a part whose bytes are in the artifact store; the same part once more takes the place of the first.

    Raises:
        NotFound: there is no such upload.
        InvalidRequest: a part of another length than it must have.
    """
    needed = expected_bytes(session, upload_id, number=number)
    if size_bytes != needed:
        raise InvalidRequest(
            f"Part {number} must have {needed:,} bytes and has {size_bytes:,}.",
            hint="Every part but the last has `part_bytes`.",
        )
    row = _find(session, upload_id, locked=True)
    before = session.get(UploadPartRow, (upload_id, number), populate_existing=True)
    if before is not None:
        if before.key != key:
            outbox.delete_file(session, before.key)
        session.execute(
            delete(UploadPartRow).where(UploadPartRow.upload_id == upload_id, UploadPartRow.number == number)
        )
    session.execute(
        insert(UploadPartRow).values(upload_id=upload_id, number=number, key=key, sha256=sha256, size_bytes=size_bytes)
    )
    _touch(session, [row.id])
    return get(session, upload_id)


def whole(session: Session, upload_id: str, *, pointer: str = "") -> Whole:
    """An upload that can be read.

    Raises:
        NotFound: there is no such upload.
        WrongState: parts of it are missing.
    """
    view = get(session, upload_id) if "\x00" not in upload_id else None
    if view is None:
        raise NotFound(f"There is no upload '{upload_id[:60]}'.", pointer=pointer)
    if not view.complete:
        raise WrongState(
            f"{upload_id} ('{view.name}') is not complete: {len(view.missing)} of {view.parts} parts are missing.",
            hint=f"Send part {view.missing[0]} with PUT /v1/uploads/{upload_id}/parts/{view.missing[0]}.",
            pointer=pointer,
        )
    rows = session.scalars(
        select(UploadPartRow).where(UploadPartRow.upload_id == upload_id).order_by(UploadPartRow.number)
    )
    parts = tuple(Part(row.key, row.sha256, row.size_bytes) for row in rows)
    return Whole(view.id, view.name, view.sha256, view.size_bytes, parts)


def use(session: Session, upload_ids: Sequence[str]) -> None:
    """Keep these uploads for another while: something is about to be made of them.

    Raises:
        NotFound: there is no such upload.
        WrongState: parts of it are missing.
    """
    for place, upload_id in enumerate(upload_ids):
        whole(session, upload_id, pointer=f"/uploads/{place}")
    _touch(session, upload_ids)


def spoil(session: Session, upload_id: str) -> None:
    """Let go of every part: together they are not the file that was announced. They can be sent again."""
    for key in session.scalars(select(UploadPartRow.key).where(UploadPartRow.upload_id == upload_id)):
        outbox.delete_file(session, key)
    session.execute(delete(UploadPartRow).where(UploadPartRow.upload_id == upload_id))


def forget(session: Session, upload_id: str) -> None:
    """Delete an upload with its parts.

    Raises:
        NotFound: there is no such upload.
        WrongState: something that has not ended is being made of it.
    """
    row = _find(session, upload_id, locked=True)
    if users := _users(session, row.id):
        raise WrongState(f"{upload_id} is being read for {users[0]}.", hint="Wait until that has ended.")
    _delete(session, row.id)


def sweep(session: Session) -> int:
    """Forget uploads that nothing has used for a day; how many there were."""
    old = select(UploadRow.id).where(UploadRow.used_at <= now_seconds() - KEPT_SECONDS).limit(_SWEPT_AT_ONCE)
    gone = [each for each in session.scalars(old.with_for_update(skip_locked=True)) if not _users(session, each)]
    for each in gone:
        _delete(session, each)
    return len(gone)


def _delete(session: Session, upload_id: str) -> None:
    for key in session.scalars(select(UploadPartRow.key).where(UploadPartRow.upload_id == upload_id)):
        outbox.delete_file(session, key)
    session.execute(delete(UploadRow).where(UploadRow.id == upload_id))


def _users(session: Session, upload_id: str) -> list[str]:
    """The imports that have not ended and read it."""
    named = cast(JobRow.sent, Text).contains(upload_id)
    imports = JobRow.kind.in_(("dataset", "model")) & JobRow.status.not_in(sorted(TERMINAL))
    return list(session.scalars(select(JobRow.id).where(imports, named)))


def _touch(session: Session, upload_ids: Sequence[str]) -> None:
    session.execute(update(UploadRow).where(UploadRow.id.in_(upload_ids)).values(used_at=now_seconds()))


def _find(session: Session, upload_id: str, *, locked: bool = False) -> UploadRow:
    statement = select(UploadRow).where(UploadRow.id == upload_id)
    options: dict[str, Any] = {"populate_existing": True}
    row = None
    if "\x00" not in upload_id:
        row = session.scalars(statement.with_for_update() if locked else statement, execution_options=options).first()
    if row is None:
        raise NotFound(
            f"There is no upload '{upload_id[:60]}'.", hint="It may have been forgotten, a day after its last use."
        )
    return row


def _count(row: UploadRow) -> int:
    return math.ceil(row.size_bytes / row.part_bytes)


def _view(row: UploadRow, *, arrived: Sequence[int]) -> Upload:
    count, there = _count(row), set(arrived)
    missing = [number for number in range(1, count + 1) if number not in there]
    return Upload(
        id=row.id,
        name=row.name,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        part_bytes=row.part_bytes,
        parts=count,
        missing=tuple(missing[:_SHOWN]),
        complete=not missing,
        created_at=moment(row.created_at),
        expires_at=moment(row.used_at + KEPT_SECONDS),
    )
