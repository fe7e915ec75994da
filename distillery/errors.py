"""Every error Distillery raises on purpose, in one tree.

DistilleryError
├── InvalidRequest              what was sent cannot be accepted; the sender can mend it
│   ├── InvalidSpec             a job spec with one or more bad fields
│   │   ├── InvalidWebhook      a webhook endpoint with a bad address, type or scope
│   │   ├── InvalidImport       a data set or model that is described with bad fields
│   │   └── InvalidInput        images or arrays that no network can be asked about
│   ├── UnreadableData          a data set that is missing, truncated or of a foreign format
│   │   └── HostileFile         a file made, or damaged, so that reading it would do harm
│   ├── UnusableWeights         weights that are missing, foreign or do not fit the architecture
│   │   └── UnfitTeacher        a teacher that cannot teach on this data: classes, normalisation, size
│   ├── UnknownName             a name that no catalogue or registry holds
│   ├── TooLarge                more bytes than there may be
│   ├── DigestMismatch          bytes that do not have the digest that was sent with them
│   ├── QuotaExceeded           more would be kept than the service may keep
│   ├── KeyReused               an Idempotency-Key that was used for another request
│   ├── InvalidPageToken        a page token that is not ours, or belongs to another query
│   └── UnsatisfiableRange      a byte range outside the file
├── NotFound                    no such job, artifact, checkpoint or model
├── WrongState                  the thing exists but cannot do that now
│   └── EnvironmentsDiffer      measurements of different machines or versions, which compare nothing
├── Outdated                    the thing was changed since the sender looked at it
├── Fenced                      another attempt owns the job: this one may write nothing more
├── TrainingDiverged            the loss or the weights stopped being finite
├── ExportMismatch              an exported network disagrees with the network it came from
├── RuntimeCrashed              a runtime died, hung or raised while a network was measured in it
│   └── OutOfMemory             a batch and its network did not fit into memory
├── CorruptFile                 bytes that do not match their recorded sha256
├── StorageFull                 no space is left for an artifact
├── Unavailable                 the database, the broker or the service is out of reach; try again
├── TooBusy                     more is asked than can be answered soon; it says when to ask again
├── MissingDependency           an optional package is not installed
├── JobEndedBadly               (client) the job one waits for failed, crashed or was cancelled
├── StillRunning                (client) what one waits for has not ended in the time one was ready to wait
└── ServiceRefused              (client) the service answered with a problem document

No HTTP status stands here: `app.errors` maps classes to codes in one place.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass(frozen=True)
class FieldProblem:
    """One thing wrong with what was sent: where (a JSON pointer), what, and how to mend it."""

    pointer: str
    code: str
    detail: str
    hint: str = ""


@dataclass
class DistilleryError(Exception):
    """The root. `detail` says what and where, `hint` how to mend it, `pointer` which field."""

    detail: str
    hint: str = field(default="", kw_only=True)
    pointer: str = field(default="", kw_only=True)

    code: ClassVar[str] = "DISTILLERY_ERROR"
    title: ClassVar[str] = "Distillery could not do that"
    retryable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__init__(self.detail)

    def __str__(self) -> str:
        return f"{self.detail} {self.hint}".rstrip()

    @property
    def problems(self) -> Sequence[FieldProblem]:
        """The fields at fault; empty when no single field is."""
        if not self.pointer:
            return ()
        return (FieldProblem(self.pointer, self.code, self.detail, self.hint),)


class InvalidRequest(DistilleryError):
    """What was sent cannot be accepted as it is."""

    code = "INVALID_REQUEST"
    title = "The request cannot be accepted"


class InvalidSpec(InvalidRequest):
    """A spec with one or more bad fields, each named in `problems`."""

    code = "INVALID_SPEC"
    title = "The job spec has errors"

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        self._problems = tuple(problems)
        lines = [f"{p.pointer or '/'}: {p.detail}{' ' + p.hint if p.hint else ''}" for p in problems]
        super().__init__("; ".join(lines))

    @property
    def problems(self) -> Sequence[FieldProblem]:
        return self._problems


class InvalidWebhook(InvalidSpec):
    """A webhook endpoint with one or more bad fields, each named in `problems`."""

    code = "INVALID_WEBHOOK"
    title = "The webhook has errors"


class InvalidImport(InvalidSpec):
    """A data set or model whose description has one or more bad fields, each named in `problems`."""

    code = "INVALID_IMPORT"
    title = "What is to be added is described with errors"


class InvalidInput(InvalidSpec):
    """Images or arrays that no network can be asked about, each named in `problems`."""

    code = "INVALID_INPUT"
    title = "What was sent cannot be predicted"


class UnreadableData(InvalidRequest):
    """A data set that is missing, truncated or of a foreign format; the detail names the file."""

    code = "UNREADABLE_DATA"
    title = "The data set cannot be read"


class UnusableWeights(InvalidRequest):
    """Weights that are missing, of a refused format, or do not fit the architecture."""

    code = "UNUSABLE_WEIGHTS"
    title = "The weights cannot be used"


class HostileFile(UnreadableData):
    """A file made, or damaged, so that reading on would do harm: a bomb, a path that leads outside, a lying header."""

    code = "HOSTILE_FILE"
    title = "The file is not safe to read"


class UnfitTeacher(UnusableWeights):
    """A teacher that cannot teach on this data; `code` tells the cause: its classes, its normalisation, its size."""

    title = "The teacher does not fit the data"

    def __init__(
        self,
        detail: str,
        *,
        cause: Literal["CLASSES_DIFFER", "CLASS_ORDER", "TEACHER_TOO_WEAK", "NORMALISATION", "IMAGE_SIZE"],
        hint: str = "",
        pointer: str = "",
    ) -> None:
        super().__init__(detail, hint=hint, pointer=pointer)
        self.code = cause  # type: ignore[misc]  # of the class elsewhere, of the cause here


class UnknownName(InvalidRequest):
    """A name that no catalogue or registry holds; the hint gives the nearest known one."""

    code = "UNKNOWN_NAME"
    title = "No such name"


class KeyReused(InvalidRequest):
    """An `Idempotency-Key` that was used for another request."""

    code = "IDEMPOTENCY_KEY_REUSED"
    title = "The Idempotency-Key belongs to another request"


class InvalidPageToken(InvalidRequest):
    """A page token that this service did not issue for this query."""

    code = "INVALID_PAGE_TOKEN"
    title = "The page token does not fit this query"


class UnsatisfiableRange(InvalidRequest):
    """A byte range outside the file; `size` is the file's length in bytes."""

    code = "RANGE_NOT_SATISFIABLE"
    title = "The requested range lies outside the file"

    def __init__(self, detail: str, *, size: int) -> None:
        super().__init__(detail)
        self.size = size


class NotFound(DistilleryError):
    """No such thing, or none that the caller may see."""

    code = "NOT_FOUND"
    title = "Not found"


class WrongState(DistilleryError):
    """The thing exists, but its state forbids the action; the detail says which state."""

    code = "WRONG_STATE"
    title = "Not possible in this state"


class EnvironmentsDiffer(WrongState):
    """Measurements that were made in different environments: what differs between their figures may be the machine."""

    code = "ENVIRONMENTS_DIFFER"
    title = "The measurements come from different environments"


class Outdated(DistilleryError):
    """The thing was changed since the sender looked at it."""

    code = "PRECONDITION_FAILED"
    title = "It was changed meanwhile"


class Fenced(DistilleryError):
    """Another attempt owns the job: nothing this one writes is accepted any more."""

    code = "FENCED"
    title = "A newer attempt owns this job"


class TrainingDiverged(DistilleryError):
    """The loss or the weights stopped being finite."""

    code = "DIVERGED"
    title = "Training diverged"


class ExportMismatch(DistilleryError):
    """An exported network does not give the answers of the network it came from."""

    code = "EXPORT_MISMATCH"
    title = "The export disagrees with its network"


class RuntimeCrashed(DistilleryError):
    """A runtime died, hung or raised an error while a network was measured in it."""

    code = "RUNTIME_CRASHED"
    title = "The runtime broke down"


class OutOfMemory(RuntimeCrashed):
    """A batch and its network did not fit into memory."""

    code = "OUT_OF_MEMORY"
    title = "Out of memory"


class CorruptFile(DistilleryError):
    """Bytes that do not match their recorded sha256."""

    code = "CORRUPT_FILE"
    title = "The file is damaged"


class QuotaExceeded(InvalidRequest):
    """More would be kept than this service may keep."""

    code = "QUOTA_EXCEEDED"
    title = "The quota is used up"


class TooLarge(InvalidRequest):
    """More bytes were sent than there may be."""

    code = "TOO_LARGE"
    title = "The body is too large"


class DigestMismatch(InvalidRequest):
    """Bytes that do not have the digest that was sent with them."""

    code = "DIGEST_MISMATCH"
    title = "The bytes are not those that were sent"


class StorageFull(DistilleryError):
    """No space is left for an artifact."""

    code = "STORAGE_FULL"
    title = "No space left"
    retryable = True


class Unavailable(DistilleryError):
    """The database, the broker or the service itself is out of reach."""

    code = "UNAVAILABLE"
    title = "Temporarily unavailable"
    retryable = True


class TooBusy(DistilleryError):
    """More is asked than can be answered soon; `retry_after_seconds` is when to ask again."""

    code = "TOO_BUSY"
    title = "Too much is asked at once"
    retryable = True

    def __init__(self, detail: str, *, retry_after_seconds: int, hint: str = "") -> None:
        super().__init__(detail, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class MissingDependency(DistilleryError):
    """An optional package is not installed; the hint says what to install."""

    code = "MISSING_DEPENDENCY"
    title = "A package is missing"


class JobEndedBadly(DistilleryError):
    """The job that the caller waits for failed, crashed or was cancelled."""

    code = "JOB_ENDED_BADLY"
    title = "The job did not succeed"


class StillRunning(DistilleryError):
    """What the caller waits for has not ended within the time given."""

    code = "STILL_RUNNING"
    title = "Not ended yet"
    retryable = True


class ServiceRefused(DistilleryError):
    """The service answered with a problem document (RFC 9457)."""

    code = "SERVICE_REFUSED"
    title = "The service refused"

    def __init__(
        self, detail: str, *, status: int, problem_code: str, problems: Sequence[FieldProblem] = (), hint: str = ""
    ) -> None:
        super().__init__(detail, hint=hint)
        self.status = status
        self.problem_code = problem_code
        self._problems = tuple(problems)

    @property
    def problems(self) -> Sequence[FieldProblem]:
        return self._problems
