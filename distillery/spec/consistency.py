"""What no single field can be wrong about: strategy, teachers, terms and recipe that do not go together."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic_core import InitErrorDetails, PydanticCustomError

from distillery.spec.methods import DataFreeMethod, OnlineMethod, SelfDistillationMethod
from distillery.spec.objectives import AnyTerm
from distillery.spec.teacher import TeacherEnsemble, TeacherSpec

if TYPE_CHECKING:
    from distillery.spec.job import JobSpec

Place = tuple[str | int, ...]


def faults(spec: "JobSpec") -> Iterator[InitErrorDetails]:
    """One line for each contradiction, in pydantic's form, with its place in the spec and how to mend it."""
    yield from _teachers(spec)
    yield from _assistants(spec)
    yield from _batch_size(spec)
    yield from _data_free(spec)
    yield from _unlabelled(spec)
    yield from _seeds(spec)
    yield from _answers(spec)


def _fault(place: Place, code: str, detail: str, hint: str, *, value: Any = None) -> InitErrorDetails:
    # The words go in as context: a brace in a user's text must not be read as a place to fill.
    kind = PydanticCustomError(code, "{detail}", {"detail": detail, "hint": hint})
    return InitErrorDetails(type=kind, loc=place, input=value)


def _placed(spec: "JobSpec") -> Iterator[tuple[Place, TeacherSpec]]:
    several = isinstance(spec.teacher, TeacherEnsemble)
    for number, teacher in enumerate(spec.teachers):
        yield (("teacher", "members", number) if several else ("teacher",)), teacher


def _teachers(spec: "JobSpec") -> Iterator[InitErrorDetails]:
    strategy = spec.method.strategy
    if isinstance(spec.method, SelfDistillationMethod):
        if spec.teacher is not None:
            hint = "Leave 'teacher' out, or choose the strategy offline."
            yield _fault(("teacher",), "teacher_not_used", "In self-distillation the student teaches itself.", hint)
        return
    if spec.teacher is None:
        example = (
            "{architecture: resnet56}" if strategy == "online" else "{architecture: resnet56, train: {epochs: 20}}"
        )
        if strategy == "data_free":
            example = "{architecture: resnet56, weights: resnet56.safetensors}"
        hint = f"Add 'teacher', such as {example}."
        yield _fault(("teacher",), "missing", f"The strategy {strategy} needs a teacher.", hint)
    for place, teacher in _placed(spec):
        yield from _source(spec, place, teacher)


def _source(spec: "JobSpec", place: Place, teacher: TeacherSpec) -> Iterator[InitErrorDetails]:
    published = (teacher.weights or "").startswith("torchvision:")
    if not teacher.architecture and (published or teacher.source in (None, "train")):
        yield _fault((*place, "architecture"), "missing", "This teacher needs an architecture.", "Add this field.")
    if isinstance(spec.method, OnlineMethod):
        if teacher.source is not None:
            detail = f"An online teacher is trained beside the student, so that it has no '{teacher.source}'."
            yield _fault((*place, teacher.source), "source_not_used", detail, "Leave it out, or use offline.")
    elif teacher.source is None:
        detail = "A teacher needs exactly one of 'train', 'job', 'model' or 'weights'; got none."
        hint = "Add 'train: {epochs: 20}', for one, to train it in this job."
        if isinstance(spec.method, DataFreeMethod):
            hint = "Name a 'job', a 'model' or a file of 'weights'."
        yield _fault(place, "value_error", detail, hint)
    elif isinstance(spec.method, DataFreeMethod) and teacher.train is not None:
        detail = "A data-free job reads no training data, so that it cannot train its teacher."
        hint = "Train the teacher in a job of its own, and name that as 'job'."
        yield _fault((*place, "train"), "reads_data", detail, hint)


def _assistants(spec: "JobSpec") -> Iterator[InitErrorDetails]:
    if spec.assistants and spec.method.strategy != "offline":
        detail = (
            f"Assistants stand between a frozen teacher and the student; the strategy {spec.method.strategy} has none."
        )
        yield _fault(("assistants",), "assistants_not_used", detail, "Leave 'assistants' out, or use offline.")


def _batch_size(spec: "JobSpec") -> Iterator[InitErrorDetails]:
    """Whether the terms find enough samples in a batch to compare them with each other."""
    asked = spec.training.batch_size
    needy = max(spec.method.terms, key=lambda term: term.smallest_batch, default=None)
    if needy is not None and needy.smallest_batch > asked:
        detail = f"The term {needy.term} compares the samples of a batch: it needs {needy.smallest_batch} or more."
        hint = f"Set training.batch_size to {needy.smallest_batch} or more; 64 is usual."
        yield _fault(("training", "batch_size"), "batch_too_small", detail, hint, value=asked)


def _data_free(spec: "JobSpec") -> Iterator[InitErrorDetails]:
    """What a job without labels and training images cannot do."""
    if not isinstance(spec.method, DataFreeMethod):
        return
    for number, term in enumerate(spec.method.terms):
        yield from _without_data(("method", "objective", number), term)
    if isinstance(spec.teacher, TeacherEnsemble) and spec.teacher.merge == "confidence":
        detail = "The merge 'confidence' weighs each teacher by the label, and a data-free job has none."
        yield _fault(("teacher", "merge"), "no_labels", detail, "Use mean_logits or mean_probabilities.")
    for number, form in enumerate(spec.export):
        if form == "onnx-int8":
            detail = "Eight bits are calibrated on training images, and a data-free job reads none."
            yield _fault(("export", number), "reads_data", detail, f"Leave '{form}' out.")
    for number, name in enumerate(spec.latency.runtimes if spec.latency else ()):
        if name.endswith("-int8"):
            detail = "Eight bits are calibrated on training images, and a data-free job reads none."
            yield _fault(("latency", "runtimes", number), "reads_data", detail, f"Leave '{name}' out.")


def _without_data(place: Place, term: AnyTerm) -> Iterator[InitErrorDetails]:
    if term.needs_sample_ids:
        detail = f"The term {term.term} remembers every training image, and made-up images have no number."
        yield _fault(place, "no_sample_ids", detail, "Use soft_targets, similarity or relational.")
    elif term.needs_labels:
        detail = f"The term {term.term} needs labels, and a data-free job has none."
        yield _fault(place, "no_labels", detail, "Use soft_targets, dist or a term of features.")


def _unlabelled(spec: "JobSpec") -> Iterator[InitErrorDetails]:
    """Images without labels need somebody who knows them before the student sees them: a frozen teacher."""
    why = {
        "online": "the teacher of an online job is still learning, and so cannot label images",
        "self_distillation": "in self-distillation there is no teacher to label them",
        "data_free": "a data-free job reads no images",
    }.get(spec.method.strategy)
    if spec.dataset.unlabelled is not None and why is not None:
        hint = "Leave 'unlabelled' out, or use the strategy offline."
        yield _fault(("dataset", "unlabelled"), "unlabelled_not_used", f"Unlabelled images are not used: {why}.", hint)


def _seeds(spec: "JobSpec") -> Iterator[InitErrorDetails]:
    seed = spec.training.seed
    if seed is not None and seed + spec.seeds > 2**32:
        detail = f"{spec.seeds} seeds from {seed} on pass the largest, {2**32 - 1}."
        hint = f"Use a seed of {2**32 - spec.seeds} or less."
        yield _fault(("training", "seed"), "seeds_overflow", detail, hint, value=seed)


def _answers(spec: "JobSpec") -> Iterator[InitErrorDetails]:
    """Only what a frozen teacher says of given images can be kept."""
    if spec.training.teacher_answers in ("cached", "packed") and spec.method.strategy != "offline":
        detail = f"In the strategy {spec.method.strategy} no frozen teacher answers the same images twice."
        hint = "Use 'auto' or 'live', or the strategy offline."
        yield _fault(
            ("training", "teacher_answers"), "answers_not_kept", detail, hint, value=spec.training.teacher_answers
        )
