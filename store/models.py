"""Networks that the service keeps: students and teachers that jobs delivered, and those that were brought along."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from distillery import views
from distillery.errors import NotFound, WrongState
from distillery.ids import new_id
from distillery.spec.imports import ModelImport
from distillery.spec.teacher import TeacherSpec
from distillery.views import Model, Page
from store import paging, present, uploads, work
from store.tables import ArtifactRow, JobRow, ModelRow, now_seconds


class ModelFacts(Protocol):
    """What a worker tells of a network; `artifact` names the delivered file that holds its weights."""

    @property
    def role(self) -> Literal["student", "teacher"]: ...
    @property
    def artifact(self) -> str: ...
    @property
    def architecture(self) -> str: ...
    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def image_size(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def mean(self) -> Sequence[float]: ...
    @property
    def std(self) -> Sequence[float]: ...
    @property
    def accuracy(self) -> float: ...
    @property
    def sha256(self) -> str: ...


def get(session: Session, model_id: str) -> Model:
    """The model.

    Raises:
        NotFound: there is no such model.
    """
    return present.model(*_found(session, model_id))


def weights_key(session: Session, model_id: str) -> str:
    """Where its weights lie in the artifact store.

    Raises:
        NotFound: there is no such model, or it is not checked yet.
    """
    key = _find(session, model_id).weights_key
    if key is None:
        raise NotFound(f"The model {model_id} has no weights yet.", hint="Wait until it is checked.")
    return key


def job_of(session: Session, model_id: str) -> str:
    """The job that delivered it, or the work that took it in.

    Raises:
        NotFound: there is no such model.
    """
    return _find(session, model_id).job_id


def _find(session: Session, model_id: str) -> ModelRow:
    return _found(session, model_id)[1]


def _found(session: Session, model_id: str) -> tuple[JobRow, ModelRow]:
    statement = select(JobRow, ModelRow).join(JobRow, JobRow.id == ModelRow.job_id)
    known = "\x00" not in model_id
    found = session.execute(statement.where(ModelRow.id == model_id)).one_or_none() if known else None
    if found is None:
        raise NotFound(f"There is no model '{model_id[:60]}'.", hint="GET /v1/models lists them.")
    return found[0], found[1]


def page(session: Session, *, page_size: int = 50, token: str | None = None) -> Page[Model]:
    """One page of the models, newest first.

    Raises:
        InvalidPageToken: the token belongs to another query.
        InvalidRequest: a page size outside 1 to 200.
    """
    paging.check_size(page_size)
    query = {"list": "models"}
    statement = (
        select(JobRow, ModelRow)
        .join(JobRow, JobRow.id == ModelRow.job_id)
        .order_by(ModelRow.created_at.desc(), ModelRow.id.desc())
        .limit(page_size + 1)
    )
    if token:
        position = paging.decode(token, query=query)
        statement = statement.where(paging.after(position, ModelRow.created_at, ModelRow.id))
    rows = session.execute(statement).all()
    data = tuple(present.model(*row) for row in rows[:page_size])
    last = None
    if len(rows) > page_size:
        last = paging.Position(rows[page_size - 1][1].created_at, rows[page_size - 1][1].id)
    return Page[Model](data=data, next_page_token=paging.encode(last, query=query) if last else None)


def for_teacher(session: Session, teacher: TeacherSpec, *, pointer: str = "/teacher") -> Model | None:
    """The kept model whose weights the teacher is to have; None when they come from elsewhere.

    `pointer` is the teacher's place in the spec, for the errors.

    Raises:
        NotFound: there is no such job or model; the pointer says which field named it.
        WrongState: the job has not delivered a student.
    """
    if teacher.model is not None:
        return usable(session, teacher.model, pointer=f"{pointer}/model")
    if teacher.job is None:
        return None
    row = session.get(JobRow, teacher.job)
    if row is None or row.kind != "distillation":
        detail = f"There is no job '{teacher.job}'."
        raise NotFound(detail, hint="GET /v1/jobs lists them.", pointer=f"{pointer}/job")
    if row.student_model_id is None:
        detail = f"{teacher.job} is {row.status} and has delivered no student that could teach."
        raise WrongState(detail, hint="Wait until it has succeeded, or name another one.", pointer=f"{pointer}/job")
    return get(session, row.student_model_id)


def usable(session: Session, model_id: str, *, pointer: str) -> Model:
    """A model whose weights are there and checked.

    Raises:
        NotFound: there is no such model; the pointer is that of the field that named it.
        WrongState: it is not checked yet, or was refused.
    """
    try:
        view = get(session, model_id)
    except NotFound as error:
        raise NotFound(error.detail, hint=error.hint, pointer=pointer) from None
    if view.status != "succeeded":
        why = f": {view.error.detail}" if view.error else "."
        hint = "Mend its file and add it again." if view.error else "Wait until it is checked."
        raise WrongState(f"The model {model_id} is {view.status}{why}", hint=hint, pointer=pointer)
    return view


def request(session: Session, asked: ModelImport) -> Model:
    """Queue the check of a model that is brought along.

    Raises:
        NotFound: there is no such upload.
        WrongState: an upload is not complete.
    """
    uploads.use(session, asked.uploads)
    model_id, source = new_id("mdl"), asked.model_dump(mode="json")
    row = work.add(session, model_id, kind="model", name=asked.name, asked=source)
    read = asked.preprocessing
    values: dict[str, Any] = {
        "id": model_id, "job_id": model_id, "name": asked.name, "role": "uploaded", "source": source, "measured": [],
        "architecture": asked.architecture or "", "classes": list(asked.classes or ()),
        "image_size": read.image_size if read else 0, "channels": read.channels if read else 0,
        "mean": list(read.mean) if read else [], "std": list(read.std) if read else [], "sha256": "",
        "created_at": now_seconds(),
    }  # fmt: skip
    return present.model(row, session.scalars(insert(ModelRow).values(**values).returning(ModelRow)).one())


def keep(session: Session, model_id: str, facts: views.ModelFacts) -> None:
    """Record what was found, in the transaction that ends the check.

    Raises:
        WrongState: the file of weights was not delivered.
    """
    key = session.scalar(select(ArtifactRow.key).where(ArtifactRow.job_id == model_id, ArtifactRow.name == facts.file))
    if key is None:
        raise WrongState(f"{model_id} tells of weights in {facts.file}, which it has not delivered.")
    read, measured = facts.preprocessing, facts.measured
    session.execute(
        update(ModelRow)
        .where(ModelRow.id == model_id)
        .values(
            facts=facts.model_dump(mode="json"), architecture=facts.architecture, classes=list(facts.classes),
            image_size=read.image_size, channels=read.channels, mean=list(read.mean), std=list(read.std),
            sha256=facts.sha256, weights_key=key, accuracy=measured.top1.value if measured else None,
            measured=[measured.model_dump(mode="json")] if measured else [],
        )
    )  # fmt: skip


def register(session: Session, model_id: str, *, job_id: str, facts: ModelFacts) -> None:
    """Keep a network whose weights the job has delivered.

    Raises:
        WrongState: the artifact with its weights was not delivered.
    """
    key = session.scalar(
        select(ArtifactRow.key).where(ArtifactRow.job_id == job_id, ArtifactRow.name == facts.artifact)
    )
    if key is None:
        raise WrongState(f"{job_id} tells of a {facts.role} in {facts.artifact}, which it has not delivered.")
    session.execute(
        insert(ModelRow).values(
            id=model_id, job_id=job_id, role=facts.role, architecture=facts.architecture, classes=list(facts.classes),
            image_size=facts.image_size, channels=facts.channels, mean=list(facts.mean), std=list(facts.std),
            accuracy=facts.accuracy, sha256=facts.sha256, weights_key=key, created_at=now_seconds(),
        )
    )  # fmt: skip
