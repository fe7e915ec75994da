"""Networks that can be asked: which file, in which form, for images of which kind. The API finds them, a worker loads
them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict
from sqlalchemy import select
from sqlalchemy.orm import Session

from distillery.errors import NotFound, WrongState
from distillery.predictions import TOP_K, RuntimeChoice
from distillery.spec.preprocessing import Preprocessing
from store import jobs, models
from store.tables import ArtifactRow, ModelRow

_TEACHERS = ("teacher.safetensors", "teacher.onnx")
_NO_TEACHER = "The job has delivered no teacher that answers images."
_SELF_TAUGHT = "The student taught itself: there is no teacher to ask."


class Servable(BaseModel):
    """One network. What is told of images holds for all networks of a job."""

    model_config = ConfigDict(frozen=True)

    id: str
    """What it was asked for by: a model's id, or a job's."""
    role: Literal["student", "teacher", "model"]
    architecture: str
    form: Literal["safetensors", "export", "graph"]
    """Weights of a network of ours; our own ONNX export of one, which reads normalised images; a foreign ONNX graph,
    which normalises by itself."""
    key: str
    """Of the file in the artifact store."""
    sha256: str
    size_bytes: int
    classes: tuple[str, ...]
    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    preprocessing: Preprocessing | None = None
    """Of a foreign graph; None where its file tells it."""
    outputs: Literal["auto", "logits", "probabilities"] = "auto"

    @property
    def runtime(self) -> Literal["eager", "onnxruntime"]:
        """What runs it."""
        return "eager" if self.form == "safetensors" else "onnxruntime"


class Asked(BaseModel):
    """What a worker is asked: the networks, and how to read the bytes that follow."""

    model_config = ConfigDict(frozen=True)

    job_id: str | None
    """None where a single model is asked."""
    networks: tuple[Servable, ...]
    """Of a job the student, and the teacher where there is one."""
    note: str = ""
    """Why there is no teacher."""
    media_type: str = ""
    top_k: int = TOP_K
    logits: bool = False


def of_job(session: Session, job_id: str, *, runtime: RuntimeChoice = "auto") -> tuple[tuple[Servable, ...], str]:
    """The student of a job and its teacher, or why there is no teacher.

    Raises:
        NotFound: there is no such job.
        WrongState: it has not succeeded, or its student was forgotten.
    """
    row = jobs.find(session, job_id)
    if row.status != "succeeded":
        raise WrongState(f"The job {job_id} is {row.status} and has no student to ask.", hint=_hint_on(row.status))
    kept = session.get(ModelRow, row.student_model_id) if row.student_model_id else None
    if kept is None or kept.weights_key is None:
        raise WrongState(
            f"The student of {job_id} was deleted as a model.", hint=f"Run the job again: distillery clone {job_id}"
        )
    files = _files(session, job_id)
    student = _of_file(_student_file(files, kept.weights_key, runtime), kept, id_=job_id, role="student")
    teacher = next((files[name] for name in _TEACHERS if name in files), None)
    if teacher is None:
        return (student,), _SELF_TAUGHT if not row.teacher else _NO_TEACHER
    taught = _of_file(teacher, kept, id_=job_id, role="teacher").model_copy(update={"architecture": row.teacher})
    return (student, taught), ""


def of_model(session: Session, model_id: str, *, runtime: RuntimeChoice = "auto") -> Servable:
    """A kept model.

    Raises:
        NotFound: there is no such model.
        WrongState: it is not checked, or is a table of answers.
    """
    view = models.get(session, model_id)
    if view.status != "succeeded":
        why = f": {view.error.detail}" if view.error else "."
        hint = "Mend its file and add it again." if view.error else "Wait until it is checked."
        raise WrongState(f"The model {model_id} is {view.status}{why}", hint=hint)
    row = session.get_one(ModelRow, model_id)  # read already
    file = _student_file(_files(session, row.job_id), row.weights_key, runtime)
    if view.format == "table" or file.name.endswith((".npz", ".parquet")):
        raise WrongState(
            f"The model {model_id} is a table of answers, which knows samples by their ids and reads no images.",
            hint="Ask a network: a student, or a teacher in safetensors or ONNX.",
        )
    found = _of_file(file, row, id_=model_id, role="model")
    if view.facts is None or found.form != "graph":
        return found
    return found.model_copy(update={"preprocessing": view.facts.preprocessing, "outputs": view.facts.outputs})


def _files(session: Session, job_id: str) -> dict[str, ArtifactRow]:
    rows = session.scalars(select(ArtifactRow).where(ArtifactRow.job_id == job_id))
    return {row.name: row for row in rows}


def _student_file(files: dict[str, ArtifactRow], weights_key: str | None, runtime: RuntimeChoice) -> ArtifactRow:
    """The file of weights, or its export where there is one and it may be taken."""
    weights = next((row for row in files.values() if row.key == weights_key), None)
    if weights is None:
        raise NotFound("The file of its weights is gone.", hint="Run the job, or add the model, again.")
    export = files.get(weights.name.removesuffix(".safetensors") + ".onnx")
    return weights if export is None or runtime == "eager" else export


def _of_file(file: ArtifactRow, facts: ModelRow, *, id_: str, role: Literal["student", "teacher", "model"]) -> Servable:
    form: Literal["safetensors", "export", "graph"] = "safetensors"
    if file.name.endswith(".onnx"):
        form = "graph" if file.name == "teacher.onnx" or facts.role == "uploaded" else "export"
    return Servable(
        id=id_,
        role=role,
        architecture=facts.architecture,
        form=form,
        key=file.key,
        sha256=file.sha256,
        size_bytes=file.size_bytes,
        classes=tuple(facts.classes),
        image_size=facts.image_size,
        channels=facts.channels,
        mean=tuple(facts.mean),
        std=tuple(facts.std),
    )


def _hint_on(status: str) -> str:
    if status in ("failed", "crashed", "cancelled"):
        return "Retry it, or ask the student of another job."
    return "Wait until it has succeeded."
