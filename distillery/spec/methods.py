"""The strategies: who is trained, on what, and against which objective.

A new strategy is a class here, its name in `Method`, and one file in `engine/strategies/`.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from distillery.spec.frozen import Frozen
from distillery.spec.objectives import AnyTerm, CrossEntropyTerm, SoftTargetsTerm, Temperature, Term, Weight
from distillery.spec.presets import PresetName, spelled_out

Terms = Annotated[tuple[Term, ...], Field(max_length=16)]


def _name_or_list(value: Any) -> str:
    return "a list" if isinstance(value, (list, tuple)) else "a name"


Preset = Annotated[
    Annotated[PresetName, Tag("a name")]
    | Annotated[tuple[PresetName, ...], Field(min_length=1, max_length=8), Tag("a list")],
    Discriminator(_name_or_list),
]


class OfflineMethod(Frozen):
    """A frozen teacher answers, the student learns from its answers and the labels."""

    paper: ClassVar[str] = "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531"
    when_to_use: ClassVar[str] = "Whenever a trained teacher is at hand or can be trained first."

    strategy: Literal["offline"] = "offline"
    preset: Preset | None = None
    """A name for a list of terms, or several to be joined; give either `preset` or `objective`. With neither, `kd`.
    Of a term that stands in several presets, that of the first is taken."""
    objective: Terms = ()
    """Weighted terms, summed."""

    @model_validator(mode="after")
    def _one_objective(self) -> "OfflineMethod":
        if self.preset and self.objective:
            raise ValueError("Both 'preset' and 'objective' are given. Leave one of the two out.")
        _check_terms(self.objective)
        return self

    @property
    def terms(self) -> tuple[AnyTerm, ...]:
        """The weighted terms, with the preset spelled out."""
        preset = self.preset or "kd"
        return self.objective or spelled_out((preset,) if isinstance(preset, str) else preset)


class OnlineMethod(Frozen):
    """Student and teacher are trained side by side, each from the labels and from the other's present answers."""

    paper: ClassVar[str] = "Zhang et al.: Deep Mutual Learning, CVPR 2018, arXiv:1706.00384"
    when_to_use: ClassVar[str] = "When no teacher is trained yet, and training one first would take too long."

    strategy: Literal["online"] = "online"
    mutual: bool = True
    """Whether the teachers learn from the others too; if not, they learn from the labels alone."""
    objective: Terms = (CrossEntropyTerm(weight=1.0), SoftTargetsTerm(weight=1.0, temperature=1.0))
    """What each learns: from the labels, and from each of the others, averaged. The default is that of the paper."""

    @model_validator(mode="after")
    def _sound_objective(self) -> "OnlineMethod":
        _check_terms(self.objective)
        if not any(isinstance(term, CrossEntropyTerm) and term.weight > 0 for term in self.objective):
            raise ValueError(
                "Without cross_entropy nobody learns the labels, and the networks only imitate each other. "
                "Add the term cross_entropy to 'objective', with a weight above 0."
            )
        return self

    @property
    def terms(self) -> tuple[AnyTerm, ...]:
        """The weighted terms."""
        return self.objective


class SelfDistillationMethod(Frozen):
    """The student's own deepest classifier teaches small classifiers on its shallower stages (BYOT)."""

    paper: ClassVar[str] = "Zhang et al.: Be Your Own Teacher, ICCV 2019, arXiv:1905.08094"
    when_to_use: ClassVar[str] = "When there is no teacher; also for early exits that answer before the last stage."

    strategy: Literal["self_distillation"] = "self_distillation"
    hard_weight: Weight = 0.9
    """Of the cross-entropy with the labels, summed over all classifiers."""
    soft_weight: Weight = 0.1
    """Of T² KL from the deepest classifier to each shallower one, summed."""
    temperature: Temperature = 3.0
    hint_weight: Weight = 1e-6
    """Of the squared distance to the deepest features, summed over elements and averaged over the batch."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    deliver_exits: bool = True
    """Deliver each early exit as a network of its own, with its accuracy and its speed."""

    @model_validator(mode="after")
    def _teaches_the_deepest(self) -> "SelfDistillationMethod":
        if self.hard_weight == 0:
            raise ValueError(
                "With 'hard_weight' 0 the deepest classifier, which teaches the others, would learn nothing. "
                "Give it a weight above 0, such as 0.9."
            )
        return self

    @property
    def terms(self) -> tuple[AnyTerm, ...]:
        """None of the catalogue: the strategy brings its own."""
        return ()


class _Synthesis(Frozen):
    """What both generators of images share."""

    latent: Annotated[int, Field(ge=2, le=4096)] = 256
    """Numbers from which an image is made."""
    generator_lr: Annotated[float, Field(gt=0, le=10)] = 1e-3
    one_hot_weight: Weight = 1.0
    """Of the cross-entropy of the teacher's answer with the class meant: it should be sure of what it sees."""
    batch_norm_weight: Weight = 1.0
    """Of the distance to the teacher's batch-norm statistics (DeepInversion), where the teacher has any."""


class Dafl(_Synthesis):
    """A generator trained along with the student, from the teacher's sureness, activity and balance of classes."""

    name: Literal["dafl"] = "dafl"
    activation_weight: Weight = 0.1
    """Of the mean absolute size of the teacher's embedding, which should be large."""
    information_entropy_weight: Weight = 5.0
    """Of the negative entropy of the teacher's mean answer: every class should come up equally often."""


class Fast(_Synthesis):
    """A generator that learns to learn: a few steps make each batch of images, which a pool keeps for the student."""

    name: Literal["fast"] = "fast"
    generator_lr: Annotated[float, Field(gt=0, le=10)] = 3e-3
    one_hot_weight: Weight = 0.5
    synthesis_steps: Annotated[int, Field(ge=1, le=1000)] = 5
    """Steps in which generator and latents are fitted to a new batch; 2, 5 and 10 in the paper."""
    adversarial_weight: Weight = 1.0
    """Of the disagreement of student and teacher, which new images should show."""
    batch_norm_weight: Weight = 10.0
    latent_lr: Annotated[float, Field(gt=0, le=10)] = 0.01
    pool: Annotated[int, Field(ge=16, le=10_000_000)] = 20_000
    """Images kept; the oldest go first."""
    synthesis_batches: Annotated[int, Field(ge=1, le=1000)] = 4
    """Batches of new images made before each epoch."""
    pool_warmup_epochs: Annotated[int, Field(ge=0, le=10_000)] = 5
    """Epochs at the start without the adversarial term, as long as the student knows nothing."""


def _synthesis_from_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


_AnySynthesis = Annotated[Dafl | Fast, Field(discriminator="name")]
Synthesis = Annotated[
    _AnySynthesis,
    BeforeValidator(_synthesis_from_name, json_schema_input_type=_AnySynthesis | Literal["dafl", "fast"]),
]


class DataFreeMethod(Frozen):
    """The student sees only images made up from what the teacher knows; no data is read before the final test."""

    paper: ClassVar[str] = (
        "Chen et al.: Data-Free Learning of Student Networks, ICCV 2019, arXiv:1904.01186; "
        "Yin et al.: Dreaming to Distill, CVPR 2020, arXiv:1912.08795; "
        "Fang et al.: Up to 100x Faster Data-Free Knowledge Distillation, AAAI 2022, arXiv:2112.06253"
    )
    when_to_use: ClassVar[str] = "When the teacher's training data is lost or may not be used."

    strategy: Literal["data_free"] = "data_free"
    synthesis: Synthesis = Fast()
    objective: Terms = (SoftTargetsTerm(weight=1.0, temperature=4.0),)
    """What the student learns of the teacher on the made-up images; no term that asks for labels."""
    steps_per_epoch: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Optimizer steps that count as one epoch."""

    @model_validator(mode="after")
    def _sound_objective(self) -> "DataFreeMethod":
        _check_terms(self.objective)
        if not self.objective:
            raise ValueError("The objective has no terms: nothing would be learned. Add the term soft_targets.")
        return self

    @property
    def terms(self) -> tuple[AnyTerm, ...]:
        """The weighted terms."""
        return self.objective


def _check_terms(terms: Sequence[AnyTerm]) -> None:
    names = [term.term for term in terms]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(f"The term '{doubled[0]}' stands twice in 'objective'. Merge the two.")
    if terms and not any(term.weight > 0 for term in terms):
        raise ValueError("Every term of 'objective' has weight 0: nothing would be learned. Give one a weight.")


def _offline_unless_said(value: Any) -> Any:
    if isinstance(value, dict) and "strategy" not in value:
        return {"strategy": "offline", **value}
    return value


_AnyMethod = Annotated[
    OfflineMethod | OnlineMethod | SelfDistillationMethod | DataFreeMethod, Field(discriminator="strategy")
]
Method = Annotated[_AnyMethod, BeforeValidator(_offline_unless_said)]
"""How the teacher's knowledge reaches the student: one member per strategy, told apart by `strategy`."""
