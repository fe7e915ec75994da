"""In which form a network computes while a run lasts, how that was chosen, and what else was tried."""

from typing import Literal

from distillery.views import View


class Measured(View):
    """The median of several rounds, with the smallest and the largest."""

    median: float
    low: float
    high: float


class TriedForm(View):
    """One form beside eager."""

    form: str
    refused: str = ""
    """Why it was not taken; empty for the one that was, and for those that another one beat."""
    kl_mean: float | None = None
    """Mean KL(eager in float32‖form) at T = 4 in nats per image; None where it could not be asked."""
    kl_max: float | None = None
    """The same of the image on which they differ most."""
    images_per_second: Measured | None = None
    speedup: Measured | None = None
    """Eager seconds over its seconds, of calls side by side; None where it was not timed."""


class FormChoice(View):
    """What became of one network of a run."""

    role: Literal["teacher", "student"]
    form: str
    """Such as `eager-fp32`, `onnxruntime-fp32`, `openvino-int8` or `compiled-bf16`."""
    reason: str
    place: int = 0
    """Which of several teachers, from 0."""
    run: str = ""
    trial_seconds: float = 0.0
    images: int = 0
    """On so many images of training the answers were compared."""
    batch_size: int = 0
    eager_images_per_second: Measured | None = None
    """Of the network alone: answers of a teacher, forward and backward pass of a student."""
    tried: tuple[TriedForm, ...] = ()

    @property
    def message(self) -> str:
        """A sentence for people."""
        who = f"teacher {self.place + 1}" if self.place else "teacher"
        named = f"In the run {self.run} the {who if self.role == 'teacher' else 'student'} runs as {self.form}"
        took = f" Tried for {self.trial_seconds:.1f} s." if self.tried else ""
        return f"{named}: {self.reason}{took}"
