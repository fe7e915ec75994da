"""The terms of a distillation objective and the strategies that use them.

A new term is a class here, its name in `Term`, and one file in `engine/objectives/`.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from distillery.spec.frozen import Frozen, nearest

Weight = Annotated[float, Field(ge=0, le=10_000)]


class CrossEntropyTerm(Frozen):
    """Cross-entropy with the labels: the hard target."""

    term: Literal["cross_entropy"] = "cross_entropy"
    weight: Weight = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the probability spread evenly over all classes."""


class SoftTargetsTerm(Frozen):
    """T² times the KL divergence from the teacher's to the student's softened answers (Hinton 2015)."""

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

    strategy: Literal["offline"] = "offline"
    preset: Literal["kd"] | None = None
    """A name for a list of terms; give either `preset` or `objective`. With neither, `kd`."""
    objective: Annotated[tuple[Term, ...], Field(max_length=16)] = ()
    """Weighted terms, summed."""

    @model_validator(mode="before")
    @classmethod
    def _known_preset(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("preset"), str) and value["preset"] not in PRESETS:
            raise ValueError(f"No preset is called '{value['preset']}'. {nearest(value['preset'], list(PRESETS))}")
        return value

    @model_validator(mode="after")
    def _one_objective(self) -> "OfflineMethod":
        if self.preset and self.objective:
            raise ValueError("Give either 'preset' or 'objective', not both.")
        names = [term.term for term in self.objective]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"The term '{doubled[0]}' stands twice in 'objective'; merge the two.")
        if self.objective and not any(term.weight > 0 for term in self.objective):
            raise ValueError("Every term of 'objective' has weight 0: nothing would be learned. Give one a weight.")
        return self

    @property
    def terms(self) -> tuple[CrossEntropyTerm | SoftTargetsTerm, ...]:
        """The weighted terms, with the preset spelled out."""
        return self.objective or PRESETS[self.preset or "kd"]


Method = Annotated[OfflineMethod, Field()]
"""How the teacher's knowledge reaches the student: one member per strategy, told apart by `strategy`."""
