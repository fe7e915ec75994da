"""The networks of a job: what each is for, and where in the spec it stands."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from distillery.spec import JobSpec
from distillery.spec.teacher import BLACK_BOXES, TeacherSpec
from models import catalog


@dataclass(frozen=True)
class Named:
    """One network of a job, by the name that the spec gives."""

    role: Literal["teacher", "assistant", "student"]
    architecture: str
    pointer: str
    """To its part of the spec: `/assistants/0`."""

    @property
    def row(self) -> catalog.Row:
        """What the catalogue knows of it.

        Raises:
            UnknownName: nothing; the error points at the architecture.
        """
        return catalog.find(self.architecture, pointer=f"{self.pointer}/architecture")

    @property
    def known(self) -> bool:
        """Whether the catalogue has it."""
        return any(row.name == self.architecture for row in catalog.ROWS)


def of(spec: JobSpec) -> Iterator[Named]:
    """All of them: teachers, assistants, student."""
    yield from teachers(spec)
    yield from assistants(spec)
    yield student(spec)


def teachers(spec: JobSpec) -> tuple[Named, ...]:
    """In the order of the spec, without those whose layers nobody can see; none in self-distillation."""
    placed = zip(spec.teachers, spec.teacher_pointers, strict=True)
    return tuple(Named("teacher", each.architecture, pointer) for each, pointer in placed if not unseen(each))


def unseen(teacher: TeacherSpec) -> bool:
    """Whether it is a black box, or a file whose metadata only the worker can read."""
    return teacher.architecture in ("", *BLACK_BOXES)


def assistants(spec: JobSpec) -> tuple[Named, ...]:
    """From the one that the teachers teach on to the one that teaches the student."""
    return tuple(
        Named("assistant", each.architecture, f"/assistants/{place}") for place, each in enumerate(spec.assistants)
    )


def student(spec: JobSpec) -> Named:
    """The one that is delivered."""
    return Named("student", spec.student.architecture, "/student")
