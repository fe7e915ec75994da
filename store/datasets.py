"""Data sets that the service keeps: asked for, packed by a worker, named by jobs."""

from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from distillery.errors import NotFound, WrongState
from distillery.ids import new_id
from distillery.spec.imports import DatasetImport
from distillery.views import Dataset, DatasetFacts, Page
from store import outbox, paging, present, uploads, work
from store.tables import ArtifactRow, DatasetRow, JobRow

PACKED = "packed.dstl"
"""The artifact that holds the packed form."""


def request(session: Session, asked: DatasetImport) -> Dataset:
    """Queue the import of a data set.

    Raises:
        NotFound: there is no such upload.
        WrongState: an upload is not complete.
    """
    uploads.use(session, asked.uploads)
    row = work.add(session, new_id("dts"), kind="dataset", name=asked.name, asked=asked.model_dump(mode="json"))
    kept = session.scalars(insert(DatasetRow).values(id=row.id, size_bytes=0).returning(DatasetRow)).one()
    return present.dataset(row, kept)


def get(session: Session, dataset_id: str) -> Dataset:
    """The data set as it is now.

    Raises:
        NotFound: there is none.
    """
    return present.dataset(*_find(session, dataset_id))


def page(session: Session, *, page_size: int = 50, token: str | None = None) -> Page[Dataset]:
    """One page of them, newest first.

    Raises:
        InvalidPageToken: the token belongs to another query.
        InvalidRequest: a page size outside 1 to 200.
    """
    paging.check_size(page_size)
    query = {"list": "datasets"}
    statement = (
        select(JobRow, DatasetRow)
        .join(DatasetRow, DatasetRow.id == JobRow.id)
        .order_by(JobRow.created_at.desc(), JobRow.id.desc())
        .limit(page_size + 1)
    )
    if token:
        position = paging.decode(token, query=query)
        statement = statement.where(paging.after(position, JobRow.created_at, JobRow.id))
    rows = session.execute(statement).all()
    data = tuple(present.dataset(*row) for row in rows[:page_size])
    last = None
    if len(rows) > page_size:
        last = paging.Position(rows[page_size - 1][0].created_at, rows[page_size - 1][0].id)
    return Page[Dataset](data=data, next_page_token=paging.encode(last, query=query) if last else None)


def usable(session: Session, dataset_id: str, *, pointer: str = "/dataset/id") -> Dataset:
    """A data set that a job can learn from.

    Raises:
        NotFound: there is none of this id; the pointer is that of the field that named it.
        WrongState: it is not packed, or its import failed.
    """
    try:
        view = get(session, dataset_id)
    except NotFound as error:
        raise NotFound(error.detail, hint=error.hint, pointer=pointer) from None
    if view.status != "succeeded":
        why = f": {view.error.detail}" if view.error else "."
        hint = "Mend its files and add it again." if view.error else "Wait until it is ready."
        raise WrongState(f"The data set {dataset_id} is {view.status}{why}", hint=hint, pointer=pointer)
    return view


def packed_file(session: Session, dataset_id: str) -> tuple[str, str]:
    """Key and sha256 of its packed form.

    Raises:
        NotFound: there is no such data set, or it is not packed.
    """
    _, row = _find(session, dataset_id)
    if row.key is None or row.sha256 is None:
        raise NotFound(f"The data set {dataset_id} is not packed.", hint="Wait until it is ready.")
    return row.key, row.sha256


def keep(session: Session, dataset_id: str, facts: DatasetFacts) -> None:
    """Record what was found, in the transaction that ends the import. The same bytes are kept once.

    Raises:
        WrongState: the packed form was not delivered.
    """
    own = session.scalar(select(ArtifactRow.key).where(ArtifactRow.job_id == dataset_id, ArtifactRow.name == PACKED))
    if own is None:
        raise WrongState(f"{dataset_id} tells of a packed form that it has not delivered.")
    # Whoever deletes the other one locks its row first, and then sees that its file is named here too.
    same = (
        select(DatasetRow.key)
        .join(JobRow, JobRow.id == DatasetRow.id)
        .where(DatasetRow.sha256 == facts.sha256, DatasetRow.key.is_not(None), DatasetRow.id != dataset_id)
        .order_by(JobRow.id)
        .limit(1)
        .with_for_update(read=True, key_share=True, of=JobRow)
    )
    key = session.scalar(same) or own
    if key != own:
        _share(session, dataset_id, own=own, other=key)
    values: dict[str, Any] = {"facts": facts.model_dump(mode="json"), "sha256": facts.sha256, "key": key}
    session.execute(update(DatasetRow).where(DatasetRow.id == dataset_id).values(**values, size_bytes=facts.size_bytes))


def _share(session: Session, dataset_id: str, *, own: str, other: str) -> None:
    session.execute(
        update(ArtifactRow).where(ArtifactRow.job_id == dataset_id, ArtifactRow.name == PACKED).values(key=other)
    )
    outbox.delete_file(session, own)


def _find(session: Session, dataset_id: str) -> tuple[JobRow, DatasetRow]:
    statement = select(JobRow, DatasetRow).join(DatasetRow, DatasetRow.id == JobRow.id)
    known = "\x00" not in dataset_id
    found = session.execute(statement.where(DatasetRow.id == dataset_id)).one_or_none() if known else None
    if found is None:
        raise NotFound(f"There is no data set '{dataset_id[:60]}'.", hint="GET /v1/datasets lists them.")
    return found[0], found[1]
