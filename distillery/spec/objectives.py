"""The terms of a distillation objective: what may be asked of the student, with the numbers of the papers.

A new term is a class here, its name in `Term`, and one file in `engine/objectives/`.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from distillery.spec.frozen import Frozen

Weight = Annotated[float, Field(ge=0, le=100_000)]
Temperature = Annotated[float, Field(gt=0, le=100)]
LayerName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$")]
PairRule = Literal["auto", "middle", "last", "embedding"]


class LayerPair(Frozen):
    """A layer of the student and the layer of the teacher that it learns from, by their module paths."""

    student: LayerName
    """Such as `layer2`, or `embedding` for the vector that the classifier reads."""
    teacher: LayerName
    """The same for the teacher."""


def _rule_or_list(value: Any) -> str:
    return "a rule" if isinstance(value, str) else "a list"


Pairs = Annotated[
    Annotated[PairRule, Tag("a rule")]
    | Annotated[tuple[LayerPair, ...], Field(min_length=1, max_length=32), Tag("a list")],
    Discriminator(_rule_or_list),
]
"""`auto` pairs every stage by resolution and depth, `middle` and `last` take one of those pairs, `embedding` the
vectors that the classifiers read; or a list of pairs."""


class WeightedTerm(Frozen):
    """What every term shares, and what each asks for."""

    paper: ClassVar[str] = ""
    when_to_use: ClassVar[str] = ""
    needs_teacher: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    needs_sample_ids: ClassVar[bool] = False
    """Whether it remembers single training images, so that each must have a number."""
    smallest_batch: ClassVar[int] = 1

    weight: Weight = 1.0
    warmup_epochs: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    """Epochs over which the weight rises to its full value: epoch e, from 1, has min(e / warmup_epochs, 1) of it."""


class CrossEntropyTerm(WeightedTerm):
    """Cross-entropy with the labels: the hard target."""

    when_to_use: ClassVar[str] = "Always, with a small weight beside the teacher's terms; alone it is plain training."
    needs_teacher: ClassVar[bool] = False
    needs_labels: ClassVar[bool] = True

    term: Literal["cross_entropy"] = "cross_entropy"
    weight: Weight = 0.1
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the probability spread evenly over all classes."""


class SoftTargetsTerm(WeightedTerm):
    """T² times the KL divergence from the teacher's to the student's softened answers (Hinton 2015)."""

    paper: ClassVar[str] = (
        "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531; standardize: "
        "Sun et al.: Logit Standardization in Knowledge Distillation, CVPR 2024, arXiv:2403.01427"
    )
    when_to_use: ClassVar[str] = (
        "First: it needs only logits and fits any pair. T=4 with weights 0.1 and 0.9 for small images, "
        "T=1 with 0.5 and 0.5 for ImageNet."
    )

    term: Literal["soft_targets"] = "soft_targets"
    weight: Weight = 0.9
    temperature: Temperature = 4.0
    """Divides the logits of both networks; higher shows more of what the teacher holds likely besides its answer."""
    standardize: bool = False
    """Bring each sample's logits to mean 0 and deviation 1 first, in both networks, so that only their shape counts."""


class DkdTerm(WeightedTerm):
    """Decoupled KD: the target class against the rest, and the rest among themselves, each with its own weight."""

    paper: ClassVar[str] = "Zhao et al.: Decoupled Knowledge Distillation, CVPR 2022, arXiv:2203.08679"
    when_to_use: ClassVar[str] = (
        "When the teacher is very sure of itself: what it says about wrong classes is then not drowned. "
        "non_target_weight 8 for wide gaps, 2 for two networks of one thin family."
    )
    needs_labels: ClassVar[bool] = True

    term: Literal["dkd"] = "dkd"
    warmup_epochs: Annotated[float, Field(ge=0, le=10_000)] = 20.0
    temperature: Temperature = 4.0
    target_weight: Weight = 1.0
    """Of T² KL between the probabilities of 'the label' and 'anything else'."""
    non_target_weight: Weight = 8.0
    """Of T² KL among the classes that are not the label."""


class DistTerm(WeightedTerm):
    """τ² times one minus the Pearson correlation of the softened answers, within each sample and within each class."""

    paper: ClassVar[str] = (
        "Huang et al.: Knowledge Distillation from A Stronger Teacher, NeurIPS 2022, arXiv:2205.10536"
    )
    when_to_use: ClassVar[str] = (
        "When the teacher is much stronger than the student: the student need only rank as the teacher does. "
        "Temperature 4 for small images, 1 for ImageNet."
    )
    smallest_batch: ClassVar[int] = 2

    term: Literal["dist"] = "dist"
    weight: Weight = 2.0
    temperature: Temperature = 4.0
    inter_weight: Weight = 1.0
    """Of the correlation over classes, in each sample."""
    intra_weight: Weight = 1.0
    """Of the correlation over samples, in each class."""


class HintTerm(WeightedTerm):
    """Mean squared error between the teacher's feature maps and the student's behind a trained adapter (FitNet)."""

    paper: ClassVar[str] = "Romero et al.: FitNets: Hints for Thin Deep Nets, ICLR 2015, arXiv:1412.6550"
    when_to_use: ClassVar[str] = (
        "When the logits say little, as with few classes. It can lower a student that is built very differently."
    )

    term: Literal["hint"] = "hint"
    weight: Weight = 100.0
    pairs: Pairs = "middle"


class AttentionTransferTerm(WeightedTerm):
    """Squared distance of the normalised maps of where each network is active, at each pair of layers."""

    paper: ClassVar[str] = "Zagoruyko, Komodakis: Paying More Attention to Attention, ICLR 2017, arXiv:1612.03928"
    when_to_use: ClassVar[str] = "Two convolutional networks of one kind, where the place of the evidence matters."

    term: Literal["attention_transfer"] = "attention_transfer"
    weight: Weight = 1000.0
    pairs: Pairs = "auto"


class SimilarityTerm(WeightedTerm):
    """Squared distance of the two networks' tables of which samples of the batch look alike (SP)."""

    paper: ClassVar[str] = "Tung, Mori: Similarity-Preserving Knowledge Distillation, ICCV 2019, arXiv:1907.09682"
    when_to_use: ClassVar[str] = (
        "Networks of any two kinds: no layer has to match another in shape. Batches of 64 or more."
    )
    smallest_batch: ClassVar[int] = 2

    term: Literal["similarity"] = "similarity"
    weight: Weight = 3000.0
    pairs: Pairs = "last"


class RelationalTerm(WeightedTerm):
    """Distances and angles between the samples of a batch, as the teacher sees them (RKD)."""

    paper: ClassVar[str] = "Park et al.: Relational Knowledge Distillation, CVPR 2019, arXiv:1904.05068"
    when_to_use: ClassVar[str] = "Embeddings that are compared with each other later: retrieval, clustering."
    smallest_batch: ClassVar[int] = 3

    term: Literal["relational"] = "relational"
    distance_weight: Weight = 25.0
    angle_weight: Weight = 50.0
    pairs: Pairs = "embedding"


class VidTerm(WeightedTerm):
    """Variational information: the student predicts the teacher's maps with a variance trained for each channel."""

    paper: ClassVar[str] = (
        "Ahn et al.: Variational Information Distillation for Knowledge Transfer, CVPR 2019, arXiv:1904.05835"
    )
    when_to_use: ClassVar[str] = (
        "As hint, where some of the teacher's channels cannot be predicted and should not count."
    )

    term: Literal["vid"] = "vid"
    pairs: Pairs = "auto"
    initial_variance: Annotated[float, Field(gt=0, le=1000)] = 5.0


class CrdTerm(WeightedTerm):
    """Contrastive representation distillation: tell the teacher's view of an image from its views of other classes."""

    paper: ClassVar[str] = "Tian, Krishnan, Isola: Contrastive Representation Distillation, ICLR 2020, arXiv:1910.10699"
    when_to_use: ClassVar[str] = (
        "Long runs with many classes; it remembers every training image and pays off slowly. Often beside soft_targets."
    )
    needs_labels: ClassVar[bool] = True
    needs_sample_ids: ClassVar[bool] = True

    term: Literal["crd"] = "crd"
    weight: Weight = 0.8
    pairs: Pairs = "embedding"
    """Only the last pair is used."""
    dimensions: Annotated[int, Field(ge=2, le=4096)] = 128
    """Of the space in which both embeddings are compared."""
    negatives: Annotated[int, Field(ge=1, le=1_000_000)] = 16_384
    """Remembered images of other classes that each sample is told from."""
    temperature: Annotated[float, Field(ge=0.001, le=100)] = 0.07
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of a remembered embedding that stays when its image comes again."""


class ReviewTerm(WeightedTerm):
    """ReviewKD: shallow layers of the teacher are matched by the student's deeper ones, fused by attention."""

    paper: ClassVar[str] = "Chen et al.: Distilling Knowledge via Knowledge Review, CVPR 2021, arXiv:2104.09044"
    when_to_use: ClassVar[str] = (
        "The strongest of the feature terms on most convolutional pairs. Weight 0.6 to 8 by pair."
    )

    smallest_batch: ClassVar[int] = 2

    term: Literal["review"] = "review"
    warmup_epochs: Annotated[float, Field(ge=0, le=10_000)] = 20.0
    pairs: Pairs = "auto"
    channels: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Of the fused maps; None takes those of the student's deepest layer, at most 512."""


AnyTerm = (
    CrossEntropyTerm
    | SoftTargetsTerm
    | DkdTerm
    | DistTerm
    | HintTerm
    | AttentionTransferTerm
    | SimilarityTerm
    | RelationalTerm
    | VidTerm
    | CrdTerm
    | ReviewTerm
)
Term = Annotated[AnyTerm, Field(discriminator="term")]
