"""The measurements of a project: reports of its jobs, from the artifact store, and benchmarks, from the database."""

from pydantic import ValidationError

from app.service import Service
from distillery.errors import CorruptFile, NotFound
from distillery.pareto import Source
from distillery.report import LatencyReport
from store import projects
from store.projects import MeasuredJob


def sources(served: Service, *, label: str) -> tuple[list[Source], tuple[str, ...]]:
    """Everything that was measured under the label, newest first, and which reports cannot be read any more.

    Raises:
        InvalidRequest: there is too much of it.
        Unavailable: the artifact store is out of reach.
    """
    with served.database.read() as session:
        jobs = projects.measured_jobs(session, label=label)
        benchmarks = projects.measured_benchmarks(session, label=label)
    found = [(each.finished_at, each.source) for each in benchmarks]
    warnings = []
    for job in jobs:
        try:
            found.append((job.finished_at, _of_job(served, job)))
        except (NotFound, CorruptFile, ValidationError) as error:
            reason = "it was written by another version" if isinstance(error, ValidationError) else error.detail
            warnings.append(f"The measurement of {job.student.job_id} is left out: {reason}")
    newest = sorted(found, key=lambda each: each[0], reverse=True)
    return [source for _, source in newest], tuple(warnings)


def _of_job(served: Service, job: MeasuredJob) -> Source:
    content = b"".join(served.artifacts.verified(job.key, sha256=job.sha256))
    report = LatencyReport.model_validate_json(content)
    return Source(str(job.student.job_id), report, {"student": job.student})
