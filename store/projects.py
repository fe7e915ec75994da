"""The students of a project, which is a label: the jobs that made them, and where their measurements lie."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import ColumnElement

from distillery.errors import InvalidRequest
from distillery.pareto import Known, Source
from distillery.report import LatencyReport
from distillery.views import BenchmarkedModel
from store.jobs import conditions_of
from store.tables import ArtifactRow, BenchmarkRow, JobRow, ModelRow

MOST_MEASUREMENTS = 500
"""Of jobs, and as many benchmarks: each is read whole."""
LATENCY = "latency.json"
_NO_FILTER = dict.fromkeys(("task", "strategy", "architecture", "created_after", "created_before", "q"))
_STUDENTS = ("student", "uploaded")


@dataclass(frozen=True)
class MeasuredJob:
    """A job that measured its student at its end: the report lies in the artifact store."""

    student: Known
    key: str
    sha256: str
    finished_at: float


@dataclass(frozen=True)
class Measured:
    """A benchmark whose report the database holds."""

    source: Source
    finished_at: float


def measured_jobs(session: Session, *, label: str) -> list[MeasuredJob]:
    """The jobs with this label, `key=value` or `key`, that succeeded and measured their student.

    Raises:
        InvalidRequest: there are too many, or the label holds NUL.
    """
    statement = (
        select(
            JobRow.id, JobRow.name, JobRow.student, JobRow.student_model_id, JobRow.finished_at, ModelRow.accuracy,
            ArtifactRow.key, ArtifactRow.sha256,
        )
        .join(ArtifactRow, (ArtifactRow.job_id == JobRow.id) & (ArtifactRow.name == LATENCY))
        .outerjoin(ModelRow, ModelRow.id == JobRow.student_model_id)
        .where(JobRow.kind == "distillation", *_labelled(label))
        .limit(MOST_MEASUREMENTS + 1)
    )  # fmt: skip
    rows = session.execute(statement).all()
    _refuse_too_many(len(rows), label)
    return [
        MeasuredJob(
            Known(row.name, row.id, row.student_model_id, row.student, row.accuracy),
            key=row.key,
            sha256=row.sha256,
            finished_at=row.finished_at,
        )
        for row in rows
    ]


def measured_benchmarks(session: Session, *, label: str) -> list[Measured]:
    """The benchmarks with this label that succeeded, of jobs and of any models.

    Raises:
        InvalidRequest: there are too many, or the label holds NUL.
    """
    statement = (
        select(JobRow.id, JobRow.name, JobRow.student, JobRow.finished_at, BenchmarkRow.job_id, BenchmarkRow.models,
               BenchmarkRow.result)
        .join(BenchmarkRow, BenchmarkRow.id == JobRow.id)
        .where(BenchmarkRow.result.is_not(None), *_labelled(label))
        .limit(MOST_MEASUREMENTS + 1)
    )  # fmt: skip
    rows = session.execute(statement).all()
    _refuse_too_many(len(rows), label)
    accuracies = _accuracies(session, [row.job_id for row in rows if row.job_id])
    return [
        Measured(
            Source(row.id, LatencyReport.model_validate(row.result), _students(row, accuracies)),
            finished_at=row.finished_at,
        )
        for row in rows
    ]


def _students(row: Any, accuracies: dict[str, tuple[str, float | None]]) -> dict[str, Known]:
    """By the names of the rows in the report."""
    if row.job_id is not None:
        model_id, accuracy = accuracies.get(row.job_id, (None, None))
        return {"student": Known(row.name, row.job_id, model_id, row.student, accuracy)}
    told = [BenchmarkedModel.model_validate(each) for each in row.models]
    return {
        each.name: Known(each.name, each.job_id, each.model_id, each.architecture, each.accuracy)
        for each in told
        if each.role in _STUDENTS
    }


def _accuracies(session: Session, job_ids: list[str]) -> dict[str, tuple[str, float | None]]:
    """Of each job its student's id and accuracy."""
    statement = select(JobRow.id, ModelRow.id, ModelRow.accuracy).join(ModelRow, ModelRow.id == JobRow.student_model_id)
    rows = session.execute(statement.where(JobRow.id.in_(job_ids))).all()
    return {job_id: (model_id, accuracy) for job_id, model_id, accuracy in rows}


def _labelled(label: str) -> list[ColumnElement[bool]]:
    return conditions_of({**_NO_FILTER, "status": "succeeded", "label": label})


def _refuse_too_many(count: int, label: str) -> None:
    if count > MOST_MEASUREMENTS:
        raise InvalidRequest(
            f"More than {MOST_MEASUREMENTS} measurements have the label '{label}'.",
            hint="Name a narrower one, such as project=flowers.",
            pointer="/label",
        )
