"""The terms of a distillation objective and the strategies that use them.

A new term is a class here, its name in `Term`, and one file in `engine/objectives/`.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from distillery.spec.frozen import Frozen

Weight = Annotated[float, Field(ge=0, le=10_000)]


class CrossEntropyTerm(Frozen):
    """Cross-entropy with the labels: the hard target."""

    paper: ClassVar[str] = ""
    when_to_use: ClassVar[str] = "Always, with a small weight beside the teacher's terms; alone it is plain training."

    term: Literal["cross_entropy"] = "cross_entropy"
    weight: Weight = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the probability spread evenly over all classes."""


class SoftTargetsTerm(Frozen):
    """T² times the KL divergence from the teacher's to the student's softened answers (Hinton 2015)."""

    paper: ClassVar[str] = "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531"
    when_to_use: ClassVar[str] = (
        "First: it needs only logits and fits any pair. T=4 with weights 0.1 and 0.9 for small images, "
        "T=1 with 0.5 and 0.5 for ImageNet."
    )

    term: Literal["soft_targets"] = "soft_targets"
    weight: Weight = 0.9
    temperature: Annotated[float, Field(gt=0, le=100)] = 4.0
    """Divides the logits of both networks; higher shows more of what the teacher holds likely besides its answer."""


Term = Annotated[CrossEntropyTerm | SoftTargetsTerm, Field(discriminator="term")]

PRESETS: dict[str, tuple[CrossEntropyTerm | SoftTargetsTerm, ...]] = {
    "kd": (CrossEntropyTerm(), SoftTargetsTerm()),
}


class OfflineMethod(Frozen):
    """A frozen teacher answers, the student learns from its answers and the labels."""

    paper: ClassVar[str] = "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531"
    when_to_use: ClassVar[str] = "Whenever a trained teacher is at hand or can be trained first."

    strategy: Literal["offline"] = "offline"
    preset: Literal["kd"] | None = None
    """A name for a list of terms; give either `preset` or `objective`. With neither, `kd`."""
    objective: Annotated[tuple[Term, ...], Field(max_length=16)] = ()
    """Weighted terms, summed."""

    @model_validator(mode="after")
    def _one_objective(self) -> "OfflineMethod":
        if self.preset and self.objective:
            raise ValueError("Both 'preset' and 'objective' are given. Leave one of the two out.")
        names = [term.term for term in self.objective]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"The term '{doubled[0]}' stands twice in 'objective'. Merge the two.")
        if self.objective and not any(term.weight > 0 for term in self.objective):
            raise ValueError("Every term of 'objective' has weight 0: nothing would be learned. Give one a weight.")
        return self

    @property
    def terms(self) -> tuple[CrossEntropyTerm | SoftTargetsTerm, ...]:
        """The weighted terms, with the preset spelled out."""
        return self.objective or PRESETS[self.preset or "kd"]


Method = Annotated[OfflineMethod, Field()]
"""How the teacher's knowledge reaches the student: one member per strategy, told apart by `strategy`."""
