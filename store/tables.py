"""The tables. All times are seconds since 1970, and every one of them is read from the database's clock."""

from typing import Any, cast

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    Index,
    Insert,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    bindparam,
    insert,
    literal_column,
)  # fmt: skip
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.sql.functions import FunctionElement

CONVENTION = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
LIVE = ("running", "pausing", "cancelling")
"""A worker holds the job."""
_Json = JSON(none_as_null=True)
_Id = String(30)
_Key = String(1024)
_Sha256 = String(64)
# SQLite holds a text of any length in any column, so that there was nothing to widen.
_Names = Text().with_variant(String(100), "sqlite")
# SQLite counts up by itself only in a column of exactly this type.
_Counted = BigInteger().with_variant(Integer(), "sqlite")


class now_seconds(FunctionElement[float]):  # noqa: N801 - reads as an SQL function, which it is
    """The database's clock, in seconds since 1970; moves on within a transaction."""

    type = Double()
    inherit_cache = True


@compiles(now_seconds, "postgresql")
def _now_on_postgres(element: now_seconds, compiler: SQLCompiler, **options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


@compiles(now_seconds, "sqlite")
def _now_on_sqlite(element: now_seconds, compiler: SQLCompiler, **options: Any) -> str:
    # unixepoch('subsec') is NULL before SQLite 3.42.
    return "((julianday('now') - 2440587.5) * 86400.0)"


class Stored(DeclarativeBase):
    """What all tables share: one metadata, and names for every constraint so that migrations can address them."""

    metadata = MetaData(naming_convention=CONVENTION)


class JobRow(Stored):
    """Work that a worker can claim: a distillation, a measurement of an earlier one, an import, or a trial."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    subject_id: Mapped[str | None] = mapped_column(_Id, ForeignKey("jobs.id"))
    """The job that a latency measurement is about."""
    name: Mapped[str] = mapped_column(String(200))
    task: Mapped[str] = mapped_column(String(40))
    strategy: Mapped[str] = mapped_column(String(40))
    teacher: Mapped[str] = mapped_column(_Names)
    """Architectures with ` + ` between them; empty when the student teaches itself."""
    student: Mapped[str] = mapped_column(String(100))
    labels: Mapped[dict[str, str]] = mapped_column(_Json)
    queue: Mapped[str] = mapped_column(String(63))
    priority: Mapped[int] = mapped_column(Integer)
    sent: Mapped[dict[str, Any]] = mapped_column(_Json)
    resolved: Mapped[dict[str, Any]] = mapped_column(_Json)

    status: Mapped[str] = mapped_column(String(20))
    status_reason: Mapped[str] = mapped_column(Text, default="")
    not_before: Mapped[float] = mapped_column(Double, default=0.0)
    hinted_at: Mapped[float] = mapped_column(Double, default=0.0)
    """When a hint was last written for it."""
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    """The fence: one more at every claim, never reused."""
    owner: Mapped[str | None] = mapped_column(String(255))
    lease_expires_at: Mapped[float | None] = mapped_column(Double)
    crashes: Mapped[int] = mapped_column(Integer, default=0)
    stalled_crashes: Mapped[int] = mapped_column(Integer, default=0)
    """Crashes in a row, of which none but the first got further than any before it."""
    preemptions: Mapped[int] = mapped_column(Integer, default=0)
    furthest_crash_step: Mapped[int] = mapped_column(BigInteger, default=0)

    step: Mapped[int] = mapped_column(BigInteger, default=0)
    """Optimizer steps of the whole job that the present attempt stands at."""
    phases: Mapped[list[dict[str, Any]]] = mapped_column(_Json)
    """Every entry into a phase, in order: name, attempt, started_at."""
    progress: Mapped[dict[str, Any] | None] = mapped_column(_Json)
    latest_metrics: Mapped[dict[str, float]] = mapped_column(_Json)
    checkpoint_id: Mapped[str | None] = mapped_column(_Id)
    student_model_id: Mapped[str | None] = mapped_column(_Id)
    estimate: Mapped[dict[str, Any] | None] = mapped_column(_Json)
    error: Mapped[dict[str, Any] | None] = mapped_column(_Json)
    edition: Mapped[int] = mapped_column(Integer, server_default="1")
    """Of what a user may change: one more at every change."""
    adjustments: Mapped[dict[str, Any]] = mapped_column(_Json, server_default="{}")
    """See `distillery.views.Adjustments`."""
    retry_of: Mapped[str | None] = mapped_column(_Id, ForeignKey("jobs.id", ondelete="SET NULL"))
    """The job whose checkpoints this one goes on from while it has none of its own."""
    cloned_from: Mapped[str | None] = mapped_column(_Id)
    last_seq: Mapped[int] = mapped_column(Integer, default=0)
    """Number of the latest event: taken under the row's lock, so there are no gaps."""

    created_at: Mapped[float] = mapped_column(Double)
    started_at: Mapped[float | None] = mapped_column(Double)
    finished_at: Mapped[float | None] = mapped_column(Double)
    since: Mapped[float] = mapped_column(Double)
    """Since when the job waits, or runs; the two sums below hold what went before."""
    queued_seconds: Mapped[float] = mapped_column(Double, default=0.0)
    running_seconds: Mapped[float] = mapped_column(Double, default=0.0)

    __table_args__ = (
        CheckConstraint(
            "kind IN ('distillation', 'latency', 'dataset', 'model', 'preflight', 'benchmark')", name="kind"
        ),
        CheckConstraint(
            "status IN ('queued', 'running', 'pausing', 'paused', 'cancelling', 'succeeded', 'failed', 'crashed', "
            "'cancelled')",
            name="status",
        ),
        # A live job without a lease would never be reaped: NULL < now() is not true.
        CheckConstraint(
            "status NOT IN ('running', 'pausing', 'cancelling') "
            "OR (owner IS NOT NULL AND lease_expires_at IS NOT NULL)",
            name="lease",
        ),
        CheckConstraint("(kind = 'latency') = (subject_id IS NOT NULL)", name="subject"),
        Index("ix_jobs_newest", "created_at", "id"),
        Index("ix_jobs_subject_id", "subject_id"),
        Index("ix_jobs_retry_of", "retry_of"),
    )


def insert_into(table: type[Stored], *given: str, **computed: ColumnElement[Any]) -> Insert:
    """An INSERT that takes a value for each column in `given` when it is run; `computed` are SQL, always the same.

    Make it once: to put a statement together takes SQLAlchemy about as long as to run it.
    """
    values: dict[str, ColumnElement[Any]] = {name: bindparam(name) for name in given}
    return insert(cast(Table, table.__table__)).values(values | computed)


def has_status(*names: str, of: type["JobRow"] | None = None) -> ColumnElement[bool]:
    """A condition on the status with the names written out: a bound one would keep SQLite off the partial indexes."""
    column = of.status if of else JobRow.__table__.c.status
    literals: list[ColumnElement[str]] = [literal_column(f"'{name}'") for name in names]
    return column == literals[0] if len(literals) == 1 else column.in_(literals)


Index(
    "ix_jobs_claimable", JobRow.queue, JobRow.priority.desc(), JobRow.created_at, JobRow.id,
    postgresql_where=has_status("queued"), sqlite_where=has_status("queued"),
)  # fmt: skip
Index(
    "ix_jobs_leases", JobRow.lease_expires_at,
    postgresql_where=has_status(*LIVE), sqlite_where=has_status(*LIVE),
)  # fmt: skip


class AttemptRow(Stored):
    """One claim of a job by one worker."""

    __tablename__ = "attempts"

    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    worker: Mapped[str] = mapped_column(String(255))
    started_at: Mapped[float] = mapped_column(Double)
    ended_at: Mapped[float | None] = mapped_column(Double)
    outcome: Mapped[str | None] = mapped_column(String(20))
    exit_code: Mapped[int | None] = mapped_column(Integer)
    first_step: Mapped[int | None] = mapped_column(BigInteger)
    last_step: Mapped[int | None] = mapped_column(BigInteger)
    refused_writes: Mapped[int] = mapped_column(Integer, server_default="0")
    """Writes that came after the attempt had lost the job."""


class EventRow(Stored):
    """One thing that happened to a job; written in the transaction that made it happen."""

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    type: Mapped[str] = mapped_column(String(30))
    at: Mapped[float] = mapped_column(Double)
    attempt: Mapped[int] = mapped_column(Integer)
    message: Mapped[str] = mapped_column(Text)
    data: Mapped[dict[str, Any]] = mapped_column(_Json)


class MetricRow(Stored):
    """One value of one series; an attempt that repeats a step overwrites it."""

    __tablename__ = "metrics"

    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(200), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    value: Mapped[float | None] = mapped_column(Double)
    """NULL where the number was not finite."""


class CheckpointRow(Stored):
    """A saved state of the training; its file lies in the artifact store under `key`."""

    __tablename__ = "checkpoints"

    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt: Mapped[int] = mapped_column(Integer)
    step: Mapped[int] = mapped_column(BigInteger)
    seq: Mapped[int] = mapped_column(Integer)
    """Of its event: the order of commits, whatever the clock says."""
    phase: Mapped[str] = mapped_column(String(20))
    key: Mapped[str] = mapped_column(_Key)
    sha256: Mapped[str] = mapped_column(_Sha256)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[float] = mapped_column(Double)

    __table_args__ = (UniqueConstraint("job_id", "attempt", "step"),)


class ArtifactRow(Stored):
    """A file that a job delivered."""

    __tablename__ = "artifacts"

    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    attempt: Mapped[int] = mapped_column(Integer)
    key: Mapped[str] = mapped_column(_Key)
    media_type: Mapped[str] = mapped_column(String(200))
    sha256: Mapped[str] = mapped_column(_Sha256)
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[float] = mapped_column(Double)


class ModelRow(Stored):
    """A network worth keeping; its weights are an artifact of its job, or of the work that took it in."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    job_id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id", ondelete="CASCADE"))
    """Of a model that was brought along, the row of `jobs` with the model's own id."""
    name: Mapped[str] = mapped_column(String(200), server_default="")
    role: Mapped[str] = mapped_column(String(20))
    source: Mapped[dict[str, Any] | None] = mapped_column(_Json)
    """The `ModelImport` that it was brought along with."""
    facts: Mapped[dict[str, Any] | None] = mapped_column(_Json)
    """The `views.ModelFacts` of a model that was brought along, once they are known."""
    measured: Mapped[list[dict[str, Any]]] = mapped_column(_Json, server_default="[]")
    architecture: Mapped[str] = mapped_column(String(100))
    classes: Mapped[list[str]] = mapped_column(_Json)
    image_size: Mapped[int] = mapped_column(Integer)
    channels: Mapped[int] = mapped_column(Integer)
    mean: Mapped[list[float]] = mapped_column(_Json)
    std: Mapped[list[float]] = mapped_column(_Json)
    accuracy: Mapped[float | None] = mapped_column(Double)
    sha256: Mapped[str] = mapped_column(_Sha256)
    weights_key: Mapped[str | None] = mapped_column(_Key)
    """None until a model that was brought along is checked."""
    created_at: Mapped[float] = mapped_column(Double)

    __table_args__ = (UniqueConstraint("job_id", "weights_key"), Index("ix_models_newest", "created_at", "id"))


class DatasetRow(Stored):
    """A data set; its state is the row of `jobs` with the same id, its packed file an artifact of that."""

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    facts: Mapped[dict[str, Any] | None] = mapped_column(_Json)
    """`views.DatasetFacts`, once it is packed."""
    sha256: Mapped[str | None] = mapped_column(_Sha256)
    """Of the packed file."""
    key: Mapped[str | None] = mapped_column(_Key)
    """Of the packed file: that of the first data set with the same bytes."""
    size_bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")

    __table_args__ = (Index("ix_datasets_sha256", "sha256"),)


class UploadRow(Stored):
    """A file that is sent in parts."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(255))
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(_Sha256)
    part_bytes: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[float] = mapped_column(Double)
    used_at: Mapped[float] = mapped_column(Double)

    __table_args__ = (Index("ix_uploads_used_at", "used_at"), Index("ix_uploads_sha256", "sha256"))


class UploadPartRow(Stored):
    """A part that arrived whole; its bytes lie in the artifact store under `key`."""

    __tablename__ = "upload_parts"

    upload_id: Mapped[str] = mapped_column(_Id, ForeignKey("uploads.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    key: Mapped[str] = mapped_column(_Key)
    sha256: Mapped[str] = mapped_column(_Sha256)
    size_bytes: Mapped[int] = mapped_column(Integer)


class PreflightRow(Stored):
    """What a trial of a job found; its state is the row of `jobs` with the same id."""

    __tablename__ = "preflights"

    id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    result: Mapped[dict[str, Any] | None] = mapped_column(_Json)


class BenchmarkRow(Stored):
    """What a latency measurement was asked for and found; its state is the row of `jobs` with the same id."""

    __tablename__ = "benchmarks"

    id: Mapped[str] = mapped_column(_Id, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    job_id: Mapped[str | None] = mapped_column(_Id, ForeignKey("jobs.id", ondelete="CASCADE"))
    """None of a benchmark of any models."""
    models: Mapped[list[dict[str, Any]]] = mapped_column(_Json, server_default="[]")
    """The `views.BenchmarkedModel` of such a one."""
    spec: Mapped[dict[str, Any]] = mapped_column(_Json)
    """The `LatencySpec`: what to measure."""
    result: Mapped[dict[str, Any] | None] = mapped_column(_Json)

    __table_args__ = (Index("ix_benchmarks_job_id", "job_id"),)


class InferenceWorkerRow(Stored):
    """A process that answers predictions, as it announced itself last."""

    __tablename__ = "inference_workers"

    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    url: Mapped[str] = mapped_column(String(300))
    token: Mapped[str] = mapped_column(String(100))
    """What it demands of whoever asks it: drawn when it starts, and told nowhere but here."""
    alive_seconds: Mapped[float] = mapped_column(Double)
    """So long after `seen_at` it counts as alive."""
    seen_at: Mapped[float] = mapped_column(Double)


class OutboxEntry(Stored):
    """Something to be done outside the database because of what was committed: a hint, a file to delete, a webhook."""

    __tablename__ = "outbox"

    id: Mapped[int] = mapped_column(_Counted, primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    job_id: Mapped[str | None] = mapped_column(_Id)
    payload: Mapped[dict[str, Any]] = mapped_column(_Json)
    next_try_at: Mapped[float] = mapped_column(Double)
    tries: Mapped[int] = mapped_column(Integer, default=0)
    created_at: Mapped[float] = mapped_column(Double)

    __table_args__ = (
        CheckConstraint("kind IN ('hint', 'delete', 'webhook')", name="kind"),
        Index("ix_outbox_due", "kind", "next_try_at"),
        Index("ix_outbox_job_id", "job_id"),
    )


class IdempotencyRow(Stored):
    """The answer that a request with an `Idempotency-Key` was given; written in the transaction of what it did."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    request_sha256: Mapped[str] = mapped_column(_Sha256)
    """Of method, path and body."""
    status: Mapped[int] = mapped_column(Integer)
    location: Mapped[str] = mapped_column(String(200))
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[float] = mapped_column(Double)

    __table_args__ = (Index("ix_idempotency_keys_created_at", "created_at"),)


class WebhookRow(Stored):
    """An endpoint that is told what becomes of jobs."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    url: Mapped[str] = mapped_column(String(2048))
    scope: Mapped[str] = mapped_column(String(10))
    """`all` jobs, or only those that `named` it in their spec."""
    types: Mapped[list[str]] = mapped_column(_Json)
    """The event types it is told of."""
    secret: Mapped[str] = mapped_column(String(120))
    previous_secret: Mapped[str | None] = mapped_column(String(120))
    """Signs too, until `previous_until`: the receiver changes keys without losing a message."""
    previous_until: Mapped[float | None] = mapped_column(Double)
    disabled_reason: Mapped[str | None] = mapped_column(Text)
    """Not null: nothing more is sent."""
    created_at: Mapped[float] = mapped_column(Double)

    __table_args__ = (
        CheckConstraint("scope IN ('all', 'named')", name="scope"),
        Index("ix_webhooks_newest", "created_at", "id"),
        Index("ix_webhooks_url", "url"),
    )


class DeliveryRow(Stored):
    """One message to one endpoint, and every try to bring it there. While it waits, the outbox holds a row for it."""

    __tablename__ = "deliveries"

    id: Mapped[str] = mapped_column(_Id, primary_key=True)
    """The message's id, the same on each try."""
    webhook_id: Mapped[str] = mapped_column(_Id, ForeignKey("webhooks.id", ondelete="CASCADE"))
    job_id: Mapped[str | None] = mapped_column(_Id, ForeignKey("jobs.id", ondelete="CASCADE"))
    """None of a ping."""
    seq: Mapped[int] = mapped_column(Integer)
    """Of the event it tells of; 0 of a ping."""
    type: Mapped[str] = mapped_column(String(40))
    body: Mapped[str] = mapped_column(Text)
    """As signed and sent."""
    status: Mapped[str] = mapped_column(String(10))
    tries: Mapped[list[dict[str, Any]]] = mapped_column(_Json)
    """Each with at, seconds, status_code and error."""
    created_at: Mapped[float] = mapped_column(Double)
    ended_at: Mapped[float | None] = mapped_column(Double)

    __table_args__ = (
        CheckConstraint("status IN ('waiting', 'delivered', 'failed')", name="status"),
        Index("ix_deliveries_webhook_id", "webhook_id", "created_at", "id"),
        Index("ix_deliveries_job_id", "job_id"),
    )
