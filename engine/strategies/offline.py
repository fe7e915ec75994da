"""Offline: a frozen teacher answers, the student learns. Without a teacher, plain training on the labels.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015.
"""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from engine.data.views import Batch
from engine.lesson import Lesson
from engine.objectives import Objective
from engine.outputs import Outputs
from engine.taps import heard
from engine.teachers import FrozenTeacher, Teacher, frozen_members


class Offline(Lesson):
    """One student and a teacher that nothing trains."""

    objective: Objective

    def __init__(self, network: nn.Module, *, objective: Objective, teacher: Teacher | None) -> None:
        super().__init__(network, objective=objective)
        self.teacher = teacher
        self._layers = objective.student_layers if teacher is not None else ()
        self._ask: Callable[[Tensor], Tensor] = network

    def forward(self, batch: Batch) -> tuple[Outputs, Outputs | None]:
        """What the student says, and what the teacher says of the same view."""
        knowledge = None if self.teacher is None else self.teacher.knowledge(batch)
        return heard(self.network, self._layers, ask=lambda: self._ask(batch.images)), knowledge

    def frozen_teachers(self) -> tuple[FrozenTeacher, ...]:
        """The teacher, or the members of an ensemble."""
        return frozen_members(self.teacher)

    def never_compiled(self) -> str:
        """Hooks on layers are not heard in what is compiled."""
        return f"the objective reads its layers {', '.join(self._layers)}." if self._layers else ""

    def ask_student_by(self, ask: Callable[[Tensor], Tensor] | None) -> None:
        """As `Lesson.ask_student_by`."""
        if ask is not None and self._layers:
            raise ValueError(self.never_compiled())
        self._ask = self.network if ask is None else ask

    def terms(self, answers: tuple[Outputs, Outputs | None], batch: Batch) -> dict[str, Tensor]:
        """The objective's terms."""
        student, teacher = answers
        raw: dict[str, Tensor] = self.objective(student, teacher, batch)
        return raw

    def weights(self, epoch: int) -> Mapping[str, float]:
        """The objective's weights."""
        return self.objective.weights_in(epoch)
