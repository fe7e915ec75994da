"""Files of a job as the database knows them; their bytes lie in the artifact store."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from distillery.errors import NotFound
from distillery.views import Artifact, Checkpoint
from store import present
from store.tables import ArtifactRow, CheckpointRow, JobRow


def checkpoints(session: Session, job_id: str) -> list[Checkpoint]:
    """The checkpoints that are kept, newest first.

    Raises:
        NotFound: there is no such job.
    """
    _require(session, job_id)
    statement = select(CheckpointRow).where(CheckpointRow.job_id == job_id).order_by(CheckpointRow.seq.desc())
    return [present.checkpoint(row) for row in session.scalars(statement)]


def checkpoint(session: Session, job_id: str, checkpoint_id: str) -> Checkpoint:
    """One checkpoint.

    Raises:
        NotFound: the job has none of this id, or it was deleted to make room for newer ones.
    """
    return present.checkpoint(_checkpoint(session, job_id, checkpoint_id))


def checkpoint_key(session: Session, job_id: str, checkpoint_id: str) -> str:
    """Where its bytes lie in the artifact store.

    Raises:
        NotFound: the job has none of this id.
    """
    return _checkpoint(session, job_id, checkpoint_id).key


def artifacts(session: Session, job_id: str) -> list[Artifact]:
    """The files that the job, or latency measurement, has delivered so far, by name.

    Raises:
        NotFound: there is no such job.
    """
    _require(session, job_id)
    statement = select(ArtifactRow).where(ArtifactRow.job_id == job_id).order_by(ArtifactRow.name)
    return [present.artifact(row) for row in session.scalars(statement)]


def artifact(session: Session, job_id: str, name: str) -> Artifact:
    """One delivered file.

    Raises:
        NotFound: the job has not delivered a file of this name.
    """
    return present.artifact(_artifact(session, job_id, name))


def artifact_key(session: Session, job_id: str, name: str) -> str:
    """Where its bytes lie in the artifact store.

    Raises:
        NotFound: the job has not delivered a file of this name.
    """
    return _artifact(session, job_id, name).key


def _require(session: Session, job_id: str) -> str:
    """The status of the work."""
    known = "\x00" not in job_id
    status = session.scalar(select(JobRow.status).where(JobRow.id == job_id)) if known else None
    if status is None:
        raise NotFound(f"There is no job '{job_id[:60]}'.", hint="GET /v1/jobs lists them.")
    return status


def _checkpoint(session: Session, job_id: str, checkpoint_id: str) -> CheckpointRow:
    status = _require(session, job_id)
    row = None if "\x00" in checkpoint_id else session.get(CheckpointRow, checkpoint_id)
    if row is None or row.job_id != job_id:
        raise NotFound(
            f"{job_id} ({status}) has no checkpoint '{checkpoint_id[:60]}'.",
            hint="Older ones are deleted; the job's list of checkpoints shows those that are left.",
        )
    return row


def _artifact(session: Session, job_id: str, name: str) -> ArtifactRow:
    status = _require(session, job_id)
    row = None if "\x00" in name else session.get(ArtifactRow, (job_id, name))
    if row is None:
        raise NotFound(
            f"{job_id} ({status}) has delivered no file '{name[:60]}'.",
            hint="The job's list of artifacts shows what there is; the last ones come when it succeeds.",
        )
    return row
