"""What a claim needs on disk before its program can start: the spec, weights, the checkpoint to go on from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from distillery.errors import CorruptFile, NotFound, UnusableWeights
from distillery.spec.teacher import TeacherSpec
from store import files, leases, models
from store.artifacts import Artifacts
from store.db import Database
from store.leases import Claim

T = TypeVar("T")
WEIGHTS = ("teacher.safetensors", "student.safetensors")


class Patience(Protocol):
    """Runs an action, again and again while the service it needs is away, for as long as that makes sense."""

    def __call__(self, action: Callable[[], T]) -> T:
        """The action's result.

        Raises:
            Fenced: the claim was lost meanwhile.
            Unavailable: it is time to leave, and the service is still away.
        """


@dataclass(frozen=True)
class Inputs:
    """Fetches what one claim needs into `folder`."""

    claim: Claim
    database: Database
    artifacts: Artifacts
    folder: Path
    patiently: Patience

    @property
    def out(self) -> Path:
        """Where the program leaves its files."""
        return self.folder / "out"

    def arguments(self) -> list[str]:
        """The arguments of the program for this kind of claim, with everything they name fetched and verified.

        Raises:
            UnusableWeights: a teacher that the spec names is not there, or damaged.
            NotFound: the subject of a latency measurement did not deliver its weights.
        """
        self.out.mkdir()
        return self._of_latency() if self.claim.kind == "latency" else self._of_trainer()

    def _of_trainer(self) -> list[str]:
        given = [str(self._spec()), "--out", str(self.out), "--attempt", str(self.claim.attempt)]
        if checkpoint := self._checkpoint():
            given += ["--resume", str(checkpoint)]
        adjusted = self.claim.adjustments
        if adjusted.micro_batches > 1:
            given += ["--micro-batches", str(adjusted.micro_batches)]
        for run in adjusted.rate_halved:
            given += ["--halve-rate", run]
        for place, teacher in enumerate(self._teachers()):
            if teacher is not None:
                given += ["--teacher-weights", f"{place}={teacher}"]
        return given

    def _of_latency(self) -> list[str]:
        teacher, student = (self._delivered(str(self.claim.subject_id), name, to=name) for name in WEIGHTS)
        given = ["--job", str(self._spec()), "--teacher", str(teacher), "--student", str(student)]
        return [*given, "--out", str(self.out)]

    def _spec(self) -> Path:
        spec = self.claim.spec
        if self.claim.latency is not None:
            spec = spec.model_copy(update={"latency": self.claim.latency})
        path = self.folder / "job.json"
        path.write_text(spec.model_dump_json())
        return path

    def _checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole; each damaged one before it is told as a warning."""
        for reference in self.claim.checkpoints:
            try:
                return self._fetch(reference.key, "resume.ckpt", sha256=reference.sha256)
            except (CorruptFile, NotFound) as error:
                self._warn(
                    f"The checkpoint of step {reference.step} cannot be used ({error.detail}); going on from the one "
                    f"before it, or from the beginning when there is none.",
                    checkpoint=reference.id,
                )
        return None

    def _teachers(self) -> list[Path | None]:
        """Of each teacher of the spec the fetched weights; None for one whose weights come from elsewhere."""
        spec = self.claim.spec
        placed = enumerate(zip(spec.teachers, spec.teacher_pointers, strict=True))
        return [
            self._teacher(each, to=f"given-teacher{place}.safetensors", pointer=pointer)
            for place, (each, pointer) in placed
        ]

    def _teacher(self, teacher: TeacherSpec, *, to: str, pointer: str) -> Path | None:
        try:
            if teacher.model is not None:
                return self._model(teacher.model, to=to)
            if teacher.job is not None:
                return self._delivered(teacher.job, "student.safetensors", to=to)
        except (CorruptFile, NotFound) as error:
            raise UnusableWeights(
                f"The teacher's weights cannot be fetched: {error.detail}",
                hint="Name a job that succeeded, or a model that GET /v1/models lists.",
                pointer=f"{pointer}/{teacher.source}",
            ) from error
        return None

    def _model(self, model_id: str, *, to: str) -> Path:
        def find() -> tuple[str, str]:
            with self.database.read() as session:
                return models.weights_key(session, model_id), models.get(session, model_id).sha256

        key, sha256 = self.patiently(find)
        return self._fetch(key, to, sha256=sha256)

    def _delivered(self, job_id: str, name: str, *, to: str) -> Path:
        def find() -> tuple[str, str]:
            with self.database.read() as session:
                return files.artifact_key(session, job_id, name), files.artifact(session, job_id, name).sha256

        key, sha256 = self.patiently(find)
        return self._fetch(key, to, sha256=sha256)

    def _fetch(self, key: str, name: str, *, sha256: str) -> Path:
        path = self.folder / name
        self.patiently(lambda: self.artifacts.fetch(key, path, sha256=sha256))
        return path

    def _warn(self, message: str, **data: str) -> None:
        def write() -> None:
            with self.database.transaction() as session:
                leases.event(session, self.claim, "warning", message, data=data)

        self.patiently(write)
