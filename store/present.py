"""Rows become the views that the service answers with."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

from distillery import views
from distillery.report import LatencyReport
from distillery.spec import BenchmarkSpec, JobSpec, LatencySpec
from distillery.spec.imports import DatasetImport, ModelImport
from store.tables import (
    LIVE,
    ArtifactRow,
    AttemptRow,
    BenchmarkRow,
    CheckpointRow,
    DatasetRow,
    EventRow,
    JobRow,
    ModelRow,
    PreflightRow,
)  # fmt: skip


def moment(seconds: float) -> datetime:
    """A time of the database, in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else moment(seconds)


def job(row: JobRow, *, attempts: Sequence[AttemptRow], position: int | None, now: float) -> views.Job:
    """A job whole. `position` is its place in the queue, `now` the database's clock in seconds."""
    return views.Job(
        id=row.id,
        name=row.name,
        status=cast(views.Status, row.status),
        status_reason=row.status_reason,
        spec=JobSpec.model_validate(row.sent),
        resolved_spec=JobSpec.model_validate(row.resolved),
        labels=row.labels,
        priority=row.priority,
        phase=_phase(row),
        phases=_phases(row, attempts),
        progress=_progress(row),
        queue=None if position is None else _place(row, position),
        attempt=row.attempt,
        attempts=tuple(_attempt(each) for each in attempts),
        worker=row.owner,
        metrics=row.latest_metrics,
        checkpoint_id=row.checkpoint_id,
        student_model_id=row.student_model_id,
        adjustments=views.Adjustments.model_validate(row.adjustments),
        retry_of=row.retry_of,
        cloned_from=row.cloned_from,
        estimate=None if row.estimate is None else views.Estimate.model_validate(row.estimate),
        error=_error(row),
        usage=_usage(row, now=now),
        created_at=moment(row.created_at),
        started_at=_moment(row.started_at),
        finished_at=_moment(row.finished_at),
        links=_links(row.id),
    )


def summary(row: JobRow) -> views.JobSummary:
    """A job as it stands in a list; reads few columns of the row."""
    return views.JobSummary(
        id=row.id,
        name=row.name,
        status=cast(views.Status, row.status),
        phase=_phase(row),
        teacher=row.teacher,
        student=row.student,
        progress=_progress(row),
        labels=row.labels,
        created_at=moment(row.created_at),
        finished_at=_moment(row.finished_at),
    )


def _place(row: JobRow, position: int) -> views.QueuePlace:
    return views.QueuePlace(name=row.queue, position=min(position, views.FARTHEST_PLACE))


def _phase(row: JobRow) -> views.PhaseName | None:
    return row.phases[-1]["name"] if row.status in LIVE and row.phases else None


def _phases(row: JobRow, attempts: Sequence[AttemptRow]) -> tuple[views.Phase, ...]:
    """The latest entry into each phase; it ended when its attempt went on to the next one, or ended."""
    over = {each.attempt: each.ended_at for each in attempts}
    latest: dict[str, views.Phase] = {}
    following = [*row.phases[1:], {"attempt": None, "started_at": None}]
    for entry, after in zip(row.phases, following, strict=False):
        ended = after["started_at"] if after["attempt"] == entry["attempt"] else over.get(entry["attempt"])
        latest.pop(entry["name"], None)  # so that the order is that of the latest entries
        latest[entry["name"]] = views.Phase(
            name=entry["name"], started_at=moment(entry["started_at"]), ended_at=_moment(ended)
        )
    return tuple(latest.values())


def _progress(row: JobRow) -> views.Progress | None:
    return None if row.progress is None else views.Progress.model_validate(row.progress)


def _error(row: JobRow) -> views.JobError | None:
    return None if row.error is None else views.JobError.model_validate(row.error)


def _attempt(row: AttemptRow) -> views.Attempt:
    return views.Attempt(
        attempt=row.attempt,
        worker=row.worker,
        started_at=moment(row.started_at),
        ended_at=_moment(row.ended_at),
        outcome=row.outcome,
        exit_code=row.exit_code,
        first_step=row.first_step,
        last_step=row.last_step,
        refused_writes=row.refused_writes,
    )


def _usage(row: JobRow, *, now: float) -> views.Usage:
    """The sums so far, with the time since the last change added to the one it belongs to."""
    open_seconds = max(0.0, now - row.since)
    return views.Usage(
        queued_seconds=row.queued_seconds + (open_seconds if row.status == "queued" else 0.0),
        running_seconds=row.running_seconds + (open_seconds if row.status in LIVE else 0.0),
    )


def _links(job_id: str) -> views.Links:
    own = f"/v1/jobs/{job_id}"
    return views.Links(
        self=own,
        events=f"{own}/events",
        metrics=f"{own}/metrics",
        checkpoints=f"{own}/checkpoints",
        artifacts=f"{own}/artifacts",
        report=f"{own}/report",
        latency=f"{own}/latency",
    )


def event(row: EventRow) -> views.Event:
    """One thing that happened."""
    return views.Event(
        seq=row.seq,
        type=cast(views.EventType, row.type),
        at=moment(row.at),
        attempt=row.attempt,
        message=row.message,
        data=row.data,
    )


def checkpoint(row: CheckpointRow) -> views.Checkpoint:
    """A resumable state, with where to download it."""
    return views.Checkpoint(
        id=row.id,
        attempt=row.attempt,
        step=row.step,
        phase=cast(views.PhaseName, row.phase),
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        created_at=moment(row.created_at),
        url=f"/v1/jobs/{row.job_id}/checkpoints/{row.id}/content",
    )


def artifact(row: ArtifactRow) -> views.Artifact:
    """A delivered file, with where to download it."""
    return views.Artifact(
        name=row.name,
        media_type=row.media_type,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        created_at=moment(row.created_at),
        url=f"/v1/jobs/{row.job_id}/artifacts/{row.name}",
    )


def model(work: JobRow, row: ModelRow) -> views.Model:
    """A network that the service keeps; `work` is the job that made it, or what took it in."""
    brought = row.role == "uploaded"
    facts = None if row.facts is None else views.ModelFacts.model_validate(row.facts)
    return views.Model(
        id=row.id,
        name=row.name or work.name,
        status=cast(views.Status, work.status) if brought else "succeeded",
        format=facts.format if facts else "safetensors",
        architecture=row.architecture,
        role=cast(Any, row.role),  # pydantic checks it against the roles
        job_id=None if brought else row.job_id,
        classes=tuple(row.classes),
        preprocessing=facts.preprocessing if facts else None,
        image_size=row.image_size,
        channels=row.channels,
        mean=tuple(row.mean),
        std=tuple(row.std),
        accuracy=row.accuracy,
        measured=tuple(views.Measured.model_validate(each) for each in row.measured),
        facts=facts,
        source=None if row.source is None else ModelImport.model_validate(row.source),
        sha256=row.sha256,
        error=_error(work) if brought else None,
        created_at=moment(row.created_at),
    )


def dataset(work: JobRow, row: DatasetRow) -> views.Dataset:
    """A data set: its state from the work that packs it, what was found from its own row."""
    return views.Dataset(
        id=row.id,
        name=work.name,
        status=cast(views.Status, work.status),
        source=DatasetImport.model_validate(work.sent),
        facts=None if row.facts is None else views.DatasetFacts.model_validate(row.facts),
        progress=_progress(work) if work.status in LIVE else None,
        error=_error(work),
        created_at=moment(work.created_at),
        finished_at=_moment(work.finished_at),
    )


def preflight(work: JobRow, row: PreflightRow) -> views.Preflight:
    """A trial of a job."""
    return views.Preflight(
        id=row.id,
        status=cast(views.Status, work.status),
        result=None if row.result is None else views.Rehearsal.model_validate(row.result),
        error=_error(work),
    )


def benchmark(row: JobRow, asked: BenchmarkRow) -> views.Benchmark:
    """A latency comparison: its state from the work, its question and answer from its own row."""
    of_models = row.kind == "benchmark"
    return views.Benchmark(
        id=row.id,
        job_id=asked.job_id,
        name=row.name,
        status=cast(views.Status, row.status),
        labels=row.labels,
        spec=LatencySpec.model_validate(asked.spec),
        asked=BenchmarkSpec.model_validate(row.sent) if of_models else None,
        models=tuple(views.BenchmarkedModel.model_validate(each) for each in asked.models),
        progress=_progress(row) if row.status in LIVE else None,
        result=None if asked.result is None else LatencyReport.model_validate(asked.result),
        error=_error(row),
        created_at=moment(row.created_at),
        finished_at=_moment(row.finished_at),
    )


def benchmark_summary(row: Any) -> views.BenchmarkSummary:
    """A benchmark as it stands in a list; `row` has few columns of the work, and of the question."""
    return views.BenchmarkSummary(
        id=row.id,
        job_id=row.job_id,
        name=row.name,
        status=cast(views.Status, row.status),
        labels=row.labels,
        models=tuple(each["name"] for each in row.models) or ("teacher", "student"),
        fingerprint=row.fingerprint or "",
        created_at=moment(row.created_at),
        finished_at=_moment(row.finished_at),
    )
