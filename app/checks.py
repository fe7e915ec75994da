"""What a well-formed spec may still be refused for, or should be warned of, before any worker sees it."""

from collections.abc import Iterator, Sequence

from app.estimate import known_images, known_side
from distillery.errors import FieldProblem, InvalidSpec, UnknownName
from distillery.spec import JobSpec
from distillery.spec.objectives import SoftTargetsTerm
from distillery.spec.training import AdamW
from models import catalog
from store import jobs
from store.db import Database

_MIRROR_IMAGES_DIFFER = ("digits", "mnist", "svhn")
"""Parts of data set names whose images mean something else in the mirror."""
_HIGHEST_ADAMW_RATE = 0.02


def check(spec: JobSpec, database: Database) -> None:
    """Refuse what cannot run: unknown architectures, a teacher that is not there or is another network.

    Raises:
        InvalidSpec: with a pointer and a hint for each fault.
        Unavailable: the database is out of reach.
    """
    problems = [*_networks(spec), *_foreign_weights(spec), *_missing_teacher(spec, database)]
    if problems:
        raise InvalidSpec(problems)


def warnings_about(spec: JobSpec) -> tuple[str, ...]:
    """What is allowed, and yet seldom meant."""
    return (*_about_networks(spec), *_about_method(spec), *_about_training(spec), *_about_data(spec))


def _networks(spec: JobSpec) -> Iterator[FieldProblem]:
    for role, name in (("teacher", spec.teacher.architecture), ("student", spec.student.architecture)):
        try:
            row = catalog.find(name, pointer=f"/{role}/architecture")
        except UnknownName as error:
            yield from error.problems
        else:
            yield from _too_small_images(spec, row)


def _too_small_images(spec: JobSpec, row: catalog.Row) -> Iterator[FieldProblem]:
    side = known_side(spec)
    if side is not None and side < row.smallest:
        detail = f"{row.name} cannot take images of {side}x{side} pixels."
        yield FieldProblem("/dataset/image_size", "IMAGES_TOO_SMALL", detail, f"Use {row.smallest} or more.")


def _foreign_weights(spec: JobSpec) -> Iterator[FieldProblem]:
    teacher = spec.teacher
    if (teacher.weights or "").startswith("torchvision:") and not teacher.architecture.startswith("torchvision/"):
        yield FieldProblem(
            "/teacher/weights",
            "UNUSABLE_WEIGHTS",
            f"torchvision has no weights for '{teacher.architecture}'.",
            "Name an architecture that begins with torchvision/, or train the teacher in the job.",
        )


def _missing_teacher(spec: JobSpec, database: Database) -> Sequence[FieldProblem]:
    try:
        with database.read() as session:
            jobs.check_references(session, spec)
    except InvalidSpec as error:
        return error.problems
    return ()


def _about_networks(spec: JobSpec) -> Iterator[str]:
    teacher, student = catalog.find(spec.teacher.architecture), catalog.find(spec.student.architecture)
    if student.parameters >= teacher.parameters:
        yield (
            f"The student ({student.name}, {student.parameters:,} parameters) is not smaller than the teacher "
            f"({teacher.name}, {teacher.parameters:,}): distilling it saves nothing."
        )
    for role, row in (("teacher", teacher), ("student", student)):
        side, native = known_side(spec), row.input[1]
        if side is not None and side < native and not row.small_input:
            yield f"The {role} {row.name} was made for {native} pixels; at {side} its accuracy suffers."


def _about_method(spec: JobSpec) -> Iterator[str]:
    soft = [term for term in spec.method.terms if isinstance(term, SoftTargetsTerm) and term.weight > 0]
    if not soft:
        yield "No term with a weight above 0 uses the teacher: the student is trained as the baseline is."
    for term in soft:
        if term.temperature == 1:
            yield (
                "At temperature 1 a sure teacher tells little more than the label; 2 to 8 are usual for small images."
            )
    if not spec.baseline:
        yield "Without the baseline the report cannot say whether the teacher helped."


def _about_training(spec: JobSpec) -> Iterator[str]:
    recipes = [("training", spec.training.epochs, spec.training.optimizer, spec.training.schedule)]
    if (own := spec.teacher.train) is not None:
        recipes.append(
            ("teacher.train", own.epochs, own.optimizer or recipes[0][2], own.schedule or spec.training.schedule)
        )
    for place, epochs, optimizer, schedule in recipes:
        if schedule.warmup_epochs >= epochs:
            yield f"The warm-up of {place} lasts all its {epochs} epochs: the full learning rate is never reached."
        if isinstance(optimizer, AdamW) and optimizer.lr > _HIGHEST_ADAMW_RATE:
            yield f"AdamW at a learning rate of {optimizer.lr:g} ({place}) mostly diverges; try 0.001."
    images = known_images(spec)
    if images is not None and spec.training.batch_size > images.train:
        yield f"A batch of {spec.training.batch_size} holds all {images.train} training images: one step an epoch."


def _about_data(spec: JobSpec) -> Iterator[str]:
    name = getattr(spec.dataset, "name", spec.dataset.kind).lower()
    meant = any(part in name for part in _MIRROR_IMAGES_DIFFER) and "fashion" not in name
    if "flip" in spec.dataset.augment and meant:
        yield f"Mirrored, the characters of '{name}' are other characters: 'flip' in dataset.augment harms here."
