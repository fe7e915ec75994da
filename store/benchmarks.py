"""Latency measurements, of finished jobs or of any models: claimable work like any other, with question and answer."""

from collections.abc import Sequence

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from distillery.errors import NotFound, WrongState
from distillery.ids import new_id
from distillery.report import LatencyReport
from distillery.spec import BenchmarkSpec, JobSpec, LatencySpec
from distillery.spec.teacher import BLACK_BOXES
from distillery.views import Benchmark, BenchmarkSummary, Page, Status
from store import benchmark_models, paging, present, wishes, work
from store.jobs import add_row, conditions_of, find
from store.tables import BenchmarkRow, JobRow
from store.transitions import lock

_NO_FILTER = dict.fromkeys(("task", "strategy", "architecture", "created_after", "created_before", "q"))
_FINGERPRINT = BenchmarkRow.result["fingerprint"].as_string().label("fingerprint")
_IN_LISTS = (
    JobRow.id, JobRow.name, JobRow.status, JobRow.labels, JobRow.created_at, JobRow.finished_at, BenchmarkRow.job_id,
    BenchmarkRow.models, _FINGERPRINT,
)  # fmt: skip


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


def request_of_models(session: Session, spec: BenchmarkSpec) -> Benchmark:
    """Queue a benchmark of any models.

    Raises:
        InvalidSpec: a model is not there, cannot be loaded, or does not fit the others or the data.
    """
    benchmark_models.hold(session, spec)
    filled, told = benchmark_models.resolved(session, spec)
    row = work.add(
        session, new_id("bmk"), kind="benchmark", name=spec.name, asked={}, labels=spec.labels, queue=spec.queue,
        priority=spec.priority, sent=spec.model_dump(mode="json", exclude_unset=True),
        resolved=filled.model_dump(mode="json"),
    )  # fmt: skip
    question = {"spec": spec.measure.model_dump(mode="json"), "models": [each.model_dump(mode="json") for each in told]}
    asked = insert(BenchmarkRow).values(id=row.id, job_id=None, **question)
    return present.benchmark(row, session.scalars(asked.returning(BenchmarkRow)).one())


def page(
    session: Session,
    *,
    page_size: int = 50,
    token: str | None = None,
    status: Status | None = None,
    label: str | None = None,
) -> Page[BenchmarkSummary]:
    """One page of the benchmarks, of jobs and of any models, newest first; `label` is `key=value` or `key`.

    Raises:
        InvalidPageToken: the token belongs to another query.
        InvalidRequest: a page size outside 1 to 200, or a filter that holds NUL.
    """
    paging.check_size(page_size)
    query = {"list": "benchmarks", "status": status, "label": label}
    conditions = conditions_of({**_NO_FILTER, "status": status, "label": label})
    if token:
        conditions.append(paging.after(paging.decode(token, query=query), JobRow.created_at, JobRow.id))
    statement = (
        select(*_IN_LISTS)
        .join(BenchmarkRow, BenchmarkRow.id == JobRow.id)
        .where(*conditions)
        .order_by(JobRow.created_at.desc(), JobRow.id.desc())
        .limit(page_size + 1)
    )
    rows = session.execute(statement).all()
    data = tuple(present.benchmark_summary(row) for row in rows[:page_size])
    last = paging.Position(rows[page_size - 1].created_at, rows[page_size - 1].id) if len(rows) > page_size else None
    return Page[BenchmarkSummary](data=data, next_page_token=paging.encode(last, query=query) if last else None)


def cancel(session: Session, benchmark_id: str) -> Benchmark:
    """End a waiting benchmark at once; ask a running one to stop.

    Raises:
        NotFound: there is no such benchmark.
        WrongState: it has ended already.
    """
    get(session, benchmark_id)
    row = lock(session, benchmark_id)
    if row is not None:  # else somebody has just deleted it, and the last look says so
        wishes.end(session, row)
    return get(session, benchmark_id)


def keep(session: Session, benchmark_id: str, result: LatencyReport) -> None:
    """Record what was found, in the transaction that ends the benchmark."""
    found = result.model_dump(mode="json")
    session.execute(update(BenchmarkRow).where(BenchmarkRow.id == benchmark_id).values(result=found))


def results(session: Session, benchmark_ids: Sequence[str]) -> dict[str, LatencyReport]:
    """What each of them found, in this order.

    Raises:
        NotFound: there is no such benchmark.
        WrongState: one has not succeeded.
    """
    found = {}
    for benchmark_id in benchmark_ids:
        view = get(session, benchmark_id)
        if view.result is None:
            why = f": {view.error.detail}" if view.error else "."
            raise WrongState(f"{benchmark_id} is {view.status} and has no result{why}", hint="Wait until it succeeds.")
        found[benchmark_id] = view.result
    return found


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
    """One measurement, of a job or of any models, by the id that the request for it was answered with.

    Raises:
        NotFound: there is no such measurement.
    """
    statement = select(JobRow, BenchmarkRow).join(BenchmarkRow, BenchmarkRow.id == JobRow.id)
    known = "\x00" not in benchmark_id
    found = session.execute(statement.where(BenchmarkRow.id == benchmark_id)).one_or_none() if known else None
    if found is None:
        raise NotFound(f"There is no latency measurement '{benchmark_id[:60]}'.", hint="GET /v1/benchmarks lists them.")
    return present.benchmark(*found)
