"""Latency measurements of finished jobs: claimable work like any other, with its own question and answer."""

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from distillery.errors import NotFound, WrongState
from distillery.ids import new_id
from distillery.spec import JobSpec, LatencySpec
from distillery.spec.teacher import BLACK_BOXES
from distillery.views import Benchmark
from store import present
from store.jobs import add_row, find
from store.tables import BenchmarkRow, JobRow


def request(session: Session, job_id: str, *, spec: LatencySpec) -> Benchmark:
    """Queue a measurement of the job's student against its teacher.

    Raises:
        NotFound: there is no such job.
        WrongState: it has not succeeded, or its student had no teacher that can be timed.
    """
    subject = find(session, job_id, locked=True)  # so that nobody deletes it meanwhile
    if subject.status != "succeeded":
        raise WrongState(
            f"{job_id} is {subject.status}; there is a student to measure once it has succeeded.",
            hint="Wait for the job, or measure another one.",
        )
    resolved = JobSpec.model_validate(subject.resolved)
    if not resolved.teachers:
        raise WrongState(
            f"The student of {job_id} taught itself: there is no teacher to time it against.",
            hint="Its report tells the speed of its early exits; measure a job that had a teacher.",
        )
    opaque = [each.architecture for each in resolved.teachers if each.architecture in BLACK_BOXES]
    if "table" in opaque or (opaque and len(resolved.teachers) > 1):
        taught_by = " + ".join(each.architecture for each in resolved.teachers)
        raise WrongState(
            f"The teacher of {job_id} is {taught_by}, which cannot be timed as one network.",
            hint="Measure a job whose teacher is a network, or a graph of ONNX.",
        )
    row = add_row(session, new_id("bmk"), kind="latency", sent=resolved, resolved=resolved, subject_id=subject.id)
    asked = insert(BenchmarkRow).values(id=row.id, job_id=subject.id, spec=spec.model_dump(mode="json"))
    return present.benchmark(row, session.scalars(asked.returning(BenchmarkRow)).one())


def latest(session: Session, job_id: str) -> Benchmark:
    """The measurement that was asked for last, whatever its state.

    Raises:
        NotFound: there is no such job, or none was asked for.
    """
    find(session, job_id)
    statement = (
        select(JobRow, BenchmarkRow)
        .join(BenchmarkRow, BenchmarkRow.id == JobRow.id)
        .where(BenchmarkRow.job_id == job_id)
        .order_by(JobRow.created_at.desc(), JobRow.id.desc())
        .limit(1)
    )
    found = session.execute(statement).one_or_none()
    if found is None:
        raise NotFound(f"No latency measurement of {job_id} was asked for.", hint="POST to the same address asks.")
    return present.benchmark(*found)


def get(session: Session, benchmark_id: str) -> Benchmark:
    """One measurement, by the id that the request for it was answered with.

    Raises:
        NotFound: there is no such measurement.
    """
    statement = select(JobRow, BenchmarkRow).join(BenchmarkRow, BenchmarkRow.id == JobRow.id)
    known = "\x00" not in benchmark_id
    found = session.execute(statement.where(BenchmarkRow.id == benchmark_id)).one_or_none() if known else None
    if found is None:
        raise NotFound(f"There is no latency measurement '{benchmark_id[:60]}'.", hint="See those of a job instead.")
    return present.benchmark(*found)
