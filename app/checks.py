"""What a well-formed spec may still be refused for, before any worker sees it."""

from collections.abc import Iterator, Sequence

from app import networks
from app.known_data import known_side
from app.layers import unknown_layers
from distillery.errors import FieldProblem, InvalidSpec, UnknownName
from distillery.spec import JobSpec
from models import catalog
from store import jobs, webhooks
from store.db import Database


def check(spec: JobSpec, database: Database) -> JobSpec:
    """Refuse what cannot run: unknown architectures, layers and receivers, a teacher that is not there or another.

    Gives the spec with the architectures of kept teachers filled in.

    Raises:
        InvalidSpec: with a pointer and a hint for each fault.
        Unavailable: the database is out of reach.
    """
    spec, missing = _with_teachers(spec, database)
    problems = [*_networks(spec), *_foreign_weights(spec), *unknown_layers(spec), *missing]
    problems += _unknown_receivers(spec, database)
    if problems:
        raise InvalidSpec(problems)
    return spec


def _networks(spec: JobSpec) -> Iterator[FieldProblem]:
    rows = {}
    for named in networks.of(spec):
        try:
            rows[named.architecture] = named.row
        except UnknownName as error:
            yield from error.problems
    for row in rows.values():
        yield from _too_small_images(spec, row)


def _too_small_images(spec: JobSpec, row: catalog.Row) -> Iterator[FieldProblem]:
    side = known_side(spec)
    if side is not None and side < row.smallest:
        detail = f"{row.name} cannot take images of {side}x{side} pixels."
        yield FieldProblem("/dataset/image_size", "IMAGES_TOO_SMALL", detail, f"Use {row.smallest} or more.")


def _foreign_weights(spec: JobSpec) -> Iterator[FieldProblem]:
    for teacher, pointer in zip(spec.teachers, spec.teacher_pointers, strict=True):
        if (teacher.weights or "").startswith("torchvision:") and not teacher.architecture.startswith("torchvision/"):
            yield FieldProblem(
                f"{pointer}/weights",
                "UNUSABLE_WEIGHTS",
                f"torchvision has no weights for '{teacher.architecture}'.",
                "Name an architecture that begins with torchvision/, or train the teacher in the job.",
            )


def _with_teachers(spec: JobSpec, database: Database) -> tuple[JobSpec, Sequence[FieldProblem]]:
    try:
        with database.read() as session:
            return jobs.with_architectures(session, spec), ()
    except InvalidSpec as error:
        return spec, error.problems


def _unknown_receivers(spec: JobSpec, database: Database) -> Iterator[FieldProblem]:
    if not spec.notify:
        return
    with database.read() as session:
        hints = webhooks.unfit(session, {each.url for each in spec.notify})
    for place, each in enumerate(spec.notify):
        if each.url in hints:
            detail = "No enabled webhook has this URL."
            yield FieldProblem(f"/notify/{place}/url", "UNKNOWN_WEBHOOK", detail, hints[each.url])
