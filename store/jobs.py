"""Jobs as a user sees them: submitted, looked at, found."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import Executable, and_, bindparam, case, func, literal, literal_column, or_, select, tuple_
from sqlalchemy.orm import Session, aliased
from sqlalchemy.sql.elements import ColumnElement

from distillery.errors import FieldProblem, InvalidRequest, InvalidSpec, NotFound, WrongState
from distillery.ids import new_id
from distillery.spec import JobSpec
from distillery.spec.dataset import StoredData
from distillery.spec.teacher import TeacherEnsemble, TeacherSpec
from distillery.views import FARTHEST_PLACE, Job, JobSummary, Page, Status
from store import datasets, models, paging, present, work
from store.tables import AttemptRow, JobRow, ModelRow, has_status, now_seconds

_BETWEEN_TEACHERS = " + "
"""No architecture's name holds it."""
_IN_LISTS = (
    JobRow.id, JobRow.name, JobRow.status, JobRow.phases, JobRow.teacher, JobRow.student, JobRow.progress,
    JobRow.labels, JobRow.created_at, JobRow.finished_at,
)  # fmt: skip


def submit(session: Session, *, sent: JobSpec, resolved: JobSpec) -> Job:
    """Queue a job: its row, its first event and the hint for a worker, in one transaction.

    Raises:
        InvalidSpec: a teacher is to come from a job or model that does not exist or has no weights.
    """
    hold_references(session, resolved)
    job_id = new_id("job")
    row = add_row(session, job_id, kind="distillation", sent=sent, resolved=resolved)
    position = session.execute(_PLACE, {"job_id": job_id}).scalar_one()
    return present.job(row, attempts=(), position=position, now=row.created_at)


def check_references(session: Session, spec: JobSpec) -> None:
    """Make sure that every job or model named as a teacher's source can teach, and that all text can be stored.

    Raises:
        InvalidSpec: one cannot; the pointers tell of which teachers.
    """
    if "\\u0000" in spec.model_dump_json():
        raise InvalidSpec([FieldProblem("/", "NUL_CHARACTER", "A text holds the character NUL.", "Leave it out.")])
    placed = zip(spec.teachers, spec.teacher_pointers, strict=True)
    problems = [each for teacher, pointer in placed for each in _unfit(session, teacher, pointer=pointer)]
    problems += [each for id_, pointer in kept_data(spec) for each in unusable(session, id_, pointer=pointer)]
    if problems:
        raise InvalidSpec(problems)


def kept_data(spec: JobSpec) -> Iterator[tuple[str, str]]:
    """Id and pointer of each kept data set that the spec names."""
    if isinstance(spec.dataset, StoredData):
        yield spec.dataset.id, "/dataset/id"
    if spec.dataset.unlabelled is not None and spec.dataset.unlabelled.id is not None:
        yield spec.dataset.unlabelled.id, "/dataset/unlabelled/id"


def unusable(session: Session, dataset_id: str, *, pointer: str) -> Iterator[FieldProblem]:
    """Why images cannot be read from a kept data set, if they cannot."""
    try:
        found = datasets.usable(session, dataset_id, pointer=pointer)
    except (NotFound, WrongState) as error:
        yield from error.problems
        return
    if found.facts is not None and found.facts.task != "image-classification":
        detail = f"The data set {dataset_id} holds texts; jobs learn from images so far."
        yield FieldProblem(pointer, "WRONG_TASK", detail, "Name a data set of images.")


def hold_references(session: Session, spec: JobSpec) -> None:
    """Check the references, and keep what they name from being deleted until this transaction has ended.

    Whoever deletes a job locks its row, waits for this one, and then finds the job that is being written here.

    Raises:
        InvalidSpec: a teacher is to come from a job or model that does not exist or has no weights.
    """
    named = [each.job for each in spec.teachers if each.job]
    kept = [each.model for each in spec.teachers if each.model]
    named += [id_ for id_, _ in kept_data(spec)]
    if named or kept:
        models_of = select(ModelRow.job_id).where(ModelRow.id.in_(kept))
        rows = select(JobRow.id).where(or_(JobRow.id.in_(named), JobRow.id.in_(models_of))).order_by(JobRow.id)
        session.execute(rows.with_for_update(read=True, key_share=True, of=JobRow)).all()
    check_references(session, spec)


def with_architectures(session: Session, spec: JobSpec) -> JobSpec:
    """The spec with the architecture of each teacher that is kept here filled in, where it was left out.

    Raises:
        InvalidSpec: a teacher is to come from a job or model that does not exist or has no weights.
    """
    check_references(session, spec)
    members = tuple(_named(session, each) for each in spec.teachers)
    if members == spec.teachers:
        return spec
    several = isinstance(spec.teacher, TeacherEnsemble)
    teacher = spec.teacher.model_copy(update={"members": members}) if several and spec.teacher else members[0]
    return spec.model_copy(update={"teacher": teacher})


def _named(session: Session, teacher: TeacherSpec) -> TeacherSpec:
    if teacher.architecture or (found := models.for_teacher(session, teacher)) is None:
        return teacher
    return teacher.model_copy(update={"architecture": found.architecture})


def _unfit(session: Session, teacher: TeacherSpec, *, pointer: str) -> Iterator[FieldProblem]:
    try:
        found = models.for_teacher(session, teacher, pointer=pointer)
    except (NotFound, WrongState) as error:
        yield from error.problems
        return
    if found is not None and teacher.architecture and found.architecture != teacher.architecture:
        detail = f"The weights of {found.id} are those of '{found.architecture}', not of '{teacher.architecture}'."
        place = f"{pointer}/architecture"
        hint = f"Set {place.strip('/').replace('/', '.')} to '{found.architecture}'."
        yield FieldProblem(place, "WRONG_ARCHITECTURE", detail, hint)


def add_row(
    session: Session,
    row_id: str,
    *,
    kind: str,
    sent: JobSpec,
    resolved: JobSpec,
    priority: int | None = None,
    **more: Any,
) -> JobRow:
    """Queue work that a job spec describes; `more` are further columns of its row.

    Of the spec as sent, what was not sent is left out.
    """
    return work.add(
        session,
        row_id,
        kind=kind,
        name=resolved.name,
        asked={},
        task=resolved.task,
        strategy=resolved.method.strategy,
        labels=resolved.labels,
        teacher=_BETWEEN_TEACHERS.join(each.architecture for each in resolved.teachers),
        student=resolved.student.architecture,
        queue=resolved.resources.queue,
        priority=resolved.resources.priority if priority is None else priority,
        sent=sent.model_dump(mode="json", exclude_unset=True),
        resolved=resolved.model_dump(mode="json"),
        **more,
    )


def get(session: Session, job_id: str) -> Job:
    """The job with its attempts and its place in the queue.

    Raises:
        NotFound: there is no such job.
    """
    return edition_of(session, job_id)[0]


def edition_of(session: Session, job_id: str) -> tuple[Job, int]:
    """The job, and the edition of what a user may change of it.

    Raises:
        NotFound: there is no such job.
    """
    found = _found(session, _WITH_PLACE, job_id)
    if found is None:
        raise _unknown(job_id)
    row, position, now = found
    mine = select(AttemptRow).where(AttemptRow.job_id == row.id).order_by(AttemptRow.attempt)
    attempts = session.scalars(mine).all() if row.attempt else ()
    return present.job(row, attempts=attempts, position=position, now=now), row.edition


def sent(session: Session, job_id: str) -> dict[str, Any]:
    """The spec of a job as it was sent, without the defaults that were filled in.

    Raises:
        NotFound: there is no such job.
    """
    return find(session, job_id).sent


def find(session: Session, job_id: str, *, locked: bool = False) -> JobRow:
    """The row of a distillation.

    Raises:
        NotFound: there is none.
    """
    found = _found(session, _ROW.with_for_update() if locked else _ROW, job_id)
    if found is None:
        raise _unknown(job_id)
    row: JobRow = found[0]
    return row


def _found(session: Session, statement: Executable, job_id: str) -> Sequence[Any] | None:
    if "\x00" in job_id:  # Postgres takes none in a text, not even to say that it finds nothing
        return None
    return session.execute(statement, {"job_id": job_id}).one_or_none()


def _unknown(job_id: str) -> NotFound:
    return NotFound(f"There is no job '{job_id[:60]}'.", hint="GET /v1/jobs lists them.")


def _place() -> ColumnElement[int | None]:
    """How many queued ones will be claimed before a row, plus one; NULL when it does not wait.

    Two counts, each of one stretch of the index, and neither goes on beyond `FARTHEST_PLACE`: where ten thousand wait,
    to count them all is most of what a look at a job costs the database.
    """
    other = aliased(JobRow)
    waiting = select(literal(1)).where(has_status("queued", of=other), other.queue == JobRow.queue)
    older = tuple_(other.created_at, other.id) < tuple_(JobRow.created_at, JobRow.id)
    before = other.priority > JobRow.priority, and_(other.priority == JobRow.priority, older)
    first, second = (waiting.where(each).correlate(JobRow).limit(FARTHEST_PLACE).subquery() for each in before)
    counts = (select(func.count()).select_from(each).correlate(JobRow).scalar_subquery() for each in (first, second))
    return case((has_status("queued"), next(counts) + next(counts) + 1), else_=None)


# Made once: to put such a statement together takes as long as to run it.
_IS_JOB = and_(JobRow.id == bindparam("job_id"), JobRow.kind == literal_column("'distillation'"))
_ROW = select(JobRow).where(_IS_JOB).execution_options(populate_existing=True)
_WITH_PLACE = select(JobRow, _place(), now_seconds()).where(_IS_JOB).execution_options(populate_existing=True)
_PLACE = select(_place()).where(JobRow.id == bindparam("job_id"))


def page(
    session: Session,
    *,
    page_size: int = 50,
    token: str | None = None,
    status: Status | None = None,
    task: str | None = None,
    strategy: str | None = None,
    architecture: str | None = None,
    label: str | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    q: str | None = None,
) -> Page[JobSummary]:
    """One page of the jobs that meet every filter, newest first.

    `architecture` is that of the student, the teacher or one of several teachers, `label` is `key=value` or `key`, `q`
    a part of the name in any case, and the two times bound `created_at` (from inclusive, to exclusive).

    Raises:
        InvalidPageToken: the token belongs to another query.
        InvalidRequest: a page size outside 1 to 200, or a filter that holds NUL.
    """
    paging.check_size(page_size)
    query = {
        "status": status, "task": task, "strategy": strategy, "architecture": architecture, "label": label,
        "created_after": created_after, "created_before": created_before, "q": q,
    }  # fmt: skip
    conditions = [JobRow.kind == "distillation", *conditions_of(query)]
    if token:
        conditions.append(paging.after(paging.decode(token, query=query), JobRow.created_at, JobRow.id))
    statement = (
        select(*_IN_LISTS).where(*conditions).order_by(JobRow.created_at.desc(), JobRow.id.desc()).limit(page_size + 1)
    )
    rows = session.execute(statement).all()
    data = tuple(present.summary(cast(JobRow, row)) for row in rows[:page_size])
    last = paging.Position(rows[page_size - 1].created_at, rows[page_size - 1].id) if len(rows) > page_size else None
    return Page[JobSummary](data=data, next_page_token=paging.encode(last, query=query) if last else None)


def conditions_of(query: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    """What the filters of a list, each None or a wish, demand of a row.

    Raises:
        InvalidRequest: a filter holds NUL.
    """
    for name, value in query.items():
        if isinstance(value, str) and "\x00" in value:
            raise InvalidRequest(f"'{name}' holds the character NUL.", pointer=f"/{name}")
    equal = [getattr(JobRow, name) == query[name] for name in ("status", "task", "strategy") if query[name] is not None]
    return [*equal, *_text_conditions(query), *_time_conditions(query)]


def _text_conditions(query: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if (name := query["architecture"]) is not None:
        fence = literal(_BETWEEN_TEACHERS)
        teaches = (fence + JobRow.teacher + fence).contains(
            f"{_BETWEEN_TEACHERS}{name}{_BETWEEN_TEACHERS}", autoescape=True
        )
        conditions.append(or_(teaches, JobRow.student == name))
    if query["label"] is not None:
        key, given, value = query["label"].partition("=")
        stored = JobRow.labels[key].as_string()
        conditions.append(stored == value if given else stored.is_not(None))
    if query["q"]:
        conditions.append(JobRow.name.icontains(query["q"], autoescape=True))
    return conditions


def _time_conditions(query: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if query["created_after"] is not None:
        conditions.append(JobRow.created_at >= _seconds(query["created_after"]))
    if query["created_before"] is not None:
        conditions.append(JobRow.created_at < _seconds(query["created_before"]))
    return conditions


def _seconds(time: datetime) -> float:
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
