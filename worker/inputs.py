"""What a claim needs on disk before its program can start: the spec, weights, the checkpoint to go on from."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from distillery.errors import CorruptFile, NotFound, UnreadableData, UnusableWeights
from distillery.spec import BenchmarkSpec
from distillery.spec.benchmark import BenchmarkModel
from distillery.spec.dataset import StoredData
from distillery.spec.imports import DatasetImport, ModelImport
from distillery.spec.teacher import TeacherSpec
from distillery.views import Model
from store import datasets, files, leases, models
from store.artifacts import Artifacts
from store.benchmark_models import WEIGHTS
from store.db import Database
from store.leases import Claim
from worker import sources
from worker.benchmark_plan import Plan, Planned
from worker.patience import Patience


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
        match self.claim.kind:
            case "latency":
                return self._of_latency()
            case "dataset" | "model":
                return self._of_import()
            case "preflight":
                return [str(self._spec()), "--out", str(self.out), *self._brought()]
            case "distillation":
                return self._of_trainer()
            case "benchmark":
                return self._of_benchmark()

    def _of_trainer(self) -> list[str]:
        given = [str(self._spec()), "--out", str(self.out), "--attempt", str(self.claim.attempt)]
        if checkpoint := self._checkpoint():
            given += ["--resume", str(checkpoint)]
        adjusted = self.claim.adjustments
        if adjusted.micro_batches > 1:
            given += ["--micro-batches", str(adjusted.micro_batches)]
        for run in adjusted.rate_halved:
            given += ["--halve-rate", run]
        return given + self._brought()

    def _brought(self) -> list[str]:
        """What a job learns from: the kept teachers and data sets that its spec names."""
        given: list[str] = []
        spec = self.claim.spec
        for place, (teacher, pointer) in enumerate(zip(spec.teachers, spec.teacher_pointers, strict=True)):
            given += self._teacher(teacher, place=place, pointer=pointer)
        return given + self._data()

    def _data(self) -> list[str]:
        """The packed files of the data sets that the spec names by their ids."""
        given: list[str] = []
        data = self.claim.spec.dataset
        if isinstance(data, StoredData):
            given += ["--dataset", str(self._packed(data.id, to="dataset", pointer="/dataset/id"))]
        more = data.unlabelled
        if more is not None and more.id is not None:
            packed = self._packed(more.id, to="unlabelled", pointer="/dataset/unlabelled/id")
            given += ["--unlabelled", str(packed)]
        return given

    def _of_import(self) -> list[str]:
        asked = self.claim.asked
        if not isinstance(asked, DatasetImport | ModelImport):
            raise AssertionError("This is no import.")
        path = self.folder / "import.json"
        path.write_text(asked.model_dump_json())
        given = [str(path), "--out", str(self.out)]
        if asked.path is None:
            found = sources.from_uploads(
                asked.uploads, folder=self.folder, database=self.database, artifacts=self.artifacts,
                patiently=self.patiently,
            )  # fmt: skip
        else:
            found = self.patiently(partial(sources.from_path, asked.path, folder=self.folder))
        for source, name in found:
            given += ["--source", str(source), "--named", name]
        measured_on = asked.dataset if isinstance(asked, ModelImport) else None
        if isinstance(measured_on, StoredData):
            given += ["--dataset", str(self._packed(measured_on.id, to="dataset", pointer="/dataset/id"))]
        return given

    def _packed(self, dataset_id: str, *, to: str, pointer: str) -> Path:
        """The packed form, read where it lies when that is a folder of this machine."""

        def find() -> tuple[str, str]:
            with self.database.read() as session:
                return datasets.packed_file(session, dataset_id)

        try:
            key, sha256 = self.patiently(find)
            local = self.patiently(lambda: self.artifacts.local(key))
            return local or self._fetch(key, f"{to}.dstl", sha256=sha256)
        except (CorruptFile, NotFound) as error:
            detail = f"The data set {dataset_id} cannot be fetched: {error.detail}"
            raise UnreadableData(detail, hint="Add it again.", pointer=pointer) from error

    def _of_latency(self) -> list[str]:
        teachers = self.claim.spec.teachers
        graph = len(teachers) == 1 and teachers[0].architecture == "onnx"
        names = ("teacher.onnx" if graph else "teacher.safetensors", "student.safetensors")
        teacher, student = (self._delivered(str(self.claim.subject_id), name, to=name) for name in names)
        given = ["--job", str(self._spec()), "--teacher", str(teacher), "--student", str(student)]
        return [*given, *self._data(), "--out", str(self.out)]

    def _of_benchmark(self) -> list[str]:
        asked = self.claim.asked
        if not isinstance(asked, BenchmarkSpec):
            raise AssertionError("This is no benchmark.")
        planned = []
        for place, model in enumerate(asked.models):
            try:
                planned.append(self._benchmarked(model, place=place))
            except (CorruptFile, NotFound) as error:
                detail = f"The weights of '{model.called}' cannot be fetched: {error.detail}"
                raise UnusableWeights(detail, hint="Leave it out.", pointer=f"/models/{place}") from error
        path = self.folder / "plan.json"
        path.write_text(Plan(spec=asked, models=tuple(planned)).model_dump_json())
        given = [str(path), "--out", str(self.out)]
        if isinstance(asked.dataset, StoredData):
            given += ["--dataset", str(self._packed(asked.dataset.id, to="dataset", pointer="/dataset/id"))]
        return given

    def _benchmarked(self, asked: BenchmarkModel, *, place: int) -> Planned:
        """One model of a benchmark, with its file fetched."""
        if asked.model is not None:
            model_id = asked.model
            key, model = self.patiently(lambda: self._kept(model_id))
            ending = Path(model.facts.file).suffix if model.facts else ".safetensors"
            file = self._fetch(key, f"model{place}{ending}", sha256=model.sha256)
            return Planned(name=asked.called, file=file, architecture=model.architecture, facts=model.facts)
        names = WEIGHTS[asked.role]
        for name in names:
            try:
                file = self._delivered(str(asked.job), name, to=f"model{place}{Path(name).suffix}")
            except NotFound:
                if name == names[-1]:
                    raise
            else:
                return Planned(name=asked.called, file=file)
        raise AssertionError("Every role has a file.")

    def _kept(self, model_id: str) -> tuple[str, Model]:
        with self.database.read() as session:
            return models.weights_key(session, model_id), models.get(session, model_id)

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

    def _teacher(self, teacher: TeacherSpec, *, place: int, pointer: str) -> list[str]:
        """The arguments of one teacher of the spec; none where its weights come from elsewhere."""
        try:
            if teacher.model is not None:
                return self._model(teacher.model, place=place)
            if teacher.job is not None:
                found = self._delivered(teacher.job, "student.safetensors", to=f"given-teacher{place}.safetensors")
                return ["--teacher-weights", f"{place}={found}"]
        except (CorruptFile, NotFound) as error:
            raise UnusableWeights(
                f"The teacher's weights cannot be fetched: {error.detail}",
                hint="Name a job that succeeded, or a model that GET /v1/models lists.",
                pointer=f"{pointer}/{teacher.source}",
            ) from error
        return []

    def _model(self, model_id: str, *, place: int) -> list[str]:
        key, model = self.patiently(lambda: self._kept(model_id))
        ending = Path(model.facts.file).suffix if model.facts else ".safetensors"
        weights = self._fetch(key, f"given-teacher{place}{ending}", sha256=model.sha256)
        given = ["--teacher-weights", f"{place}={weights}"]
        if model.facts is not None:
            path = self.folder / f"given-teacher{place}.json"
            path.write_text(model.facts.model_dump_json())
            given += ["--teacher-facts", f"{place}={path}"]
        return given

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
