"""What the study of `objectives.py` trains: data, networks, recipe, and one spec for each configuration.

Nothing here computes; `PUBLISHED` and `PAIR_WEIGHTS` are the numbers of the papers and of their authors' code.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from distillery.spec import JobSpec
from distillery.spec.dataset import DatasetSpec
from distillery.spec.methods import DataFreeMethod, Method, OfflineMethod, OnlineMethod, SelfDistillationMethod
from distillery.spec.objectives import AnyTerm, CrdTerm, DkdTerm, ReviewTerm
from distillery.spec.presets import PresetName, spelled_out
from distillery.spec.student import StudentSpec
from distillery.spec.teacher import Teacher, TeacherEnsemble, TeacherSpec
from distillery.spec.training import StepSchedule, Training

BASELINE = "labels"
PUBLISHED: Mapping[str, Mapping[str, Mapping[str, float]]] = {
    "cifar100": {
        "resnet56-resnet20": {
            "labels": 69.06, "kd": 70.66, "crd": 71.16, "reviewkd": 71.89, "dkd": 71.97, "kd_ls": 71.43,
        },
        "resnet110-resnet32": {
            "labels": 71.14, "kd": 73.08, "crd": 73.48, "reviewkd": 73.89, "dkd": 74.11, "kd_ls": 74.17,
        },
        "resnet32x4-resnet8x4": {
            "labels": 72.50, "kd": 73.33, "crd": 75.51, "reviewkd": 75.63, "dkd": 76.32, "kd_ls": 76.62,
        },
        "wrn40-2-wrn16-2": {
            "labels": 73.26, "kd": 74.92, "crd": 75.48, "reviewkd": 76.12, "dkd": 76.23, "kd_ls": 76.11,
        },
    },
    "cifar10": {"resnet110-resnet20": {"labels": 92.22, "kd": 92.77}},
}  # fmt: skip
"""Test accuracy in percent after the last epoch, by data set, pair and configuration, as the papers tell it."""
PAIR_WEIGHTS: Mapping[str, tuple[float, float]] = {
    "resnet56-resnet20": (2.0, 0.6),
    "resnet110-resnet32": (2.0, 1.0),
    "resnet110-resnet20": (2.0, 0.6),
    "resnet32x4-resnet8x4": (8.0, 5.0),
    "wrn40-2-wrn16-2": (6.0, 5.0),
}
"""The weight of DKD's other classes, and that of ReviewKD, as in the authors' code; resnet110-resnet20 as its kin."""
PUBLISHED_EPOCHS, PUBLISHED_WARMUP = 240, 20.0
"""What the papers' warm-ups of the terms' weights are measured against."""
TEACHER_BATCH = 64
_TEACHER_SEED = 1000
"""Far from those of the students, which count from 0."""
_MERGES = ("mean_logits", "mean_probabilities", "confidence")


@dataclass(frozen=True)
class Plan:
    """One setting of the study."""

    recipe: Literal["small", "cifar10", "cifar100"]
    data: DatasetSpec
    """What the students learn from."""
    teacher_data: DatasetSpec
    """What the teachers learned from: the same images and more of the same kind."""
    student: str
    teacher: str
    training: Training
    teacher_epochs: int
    seeds: int
    second: str = ""
    """The second of two teachers."""
    assistant: str = ""
    crd_negatives: int = 16_384
    data_free_steps: int = 0
    """Optimizer steps of a data-free student; 0 leaves those configurations out."""

    @property
    def pair(self) -> str:
        return f"{self.teacher}-{self.student}"

    @property
    def published(self) -> Mapping[str, float]:
        """Published accuracies of this pair in percent, by configuration; empty where there are none."""
        return PUBLISHED.get(self.recipe, {}).get(self.pair, {})

    @property
    def headline(self) -> Literal["best", "last"]:
        """Which epoch is compared: the papers tell the last, a user is given the best on the validation split."""
        return "best" if self.recipe == "small" else "last"


@dataclass(frozen=True)
class Task:
    """One network to be trained. Plain data: it is sent to another process."""

    configuration: str
    run: int
    """Counts the seeds from 0."""
    spec: JobSpec
    learner: str
    """The architecture that is trained."""
    how: Literal["labels", "taught", "student"]
    needs: tuple[str, ...] = ()
    """The configurations whose networks teach, in order."""
    mean: tuple[float, ...] = ()
    """Normalisation of the images: that of the teachers, for every network of the study."""
    std: tuple[float, ...] = ()
    keeps: Literal["best", "last"] = "best"
    """From which epoch the weights are taken that teach others."""
    key: str = ""
    """Hash of all that decides the outcome; a finished run with the same key is not trained again."""

    @property
    def teaches(self) -> bool:
        """Whether others learn from it, so that it is trained once and its weights are kept."""
        return " " in self.configuration


@dataclass(frozen=True)
class _Draft:
    """A student's configuration before it has a seed."""

    method: Method
    teacher: Teacher | None = None
    needs: tuple[str, ...] = ()
    how: Literal["labels", "student"] = "student"
    training: Mapping[str, Any] = field(default_factory=dict)
    """Where its recipe differs."""


def tasks(plan: Plan, *, facts: Mapping[str, Any], mean: Sequence[float], std: Sequence[float]) -> list[Task]:
    """All networks of the study: those that teach, then every configuration for one seed after the other.

    `facts` are hashed along: what the specs do not tell of the data.
    """
    made = [*_teachers(plan), *_students(plan)]
    keys: dict[str, str] = {}
    finished = []
    for task in made:
        key = _key(task, facts=facts, needs=[keys[name] for name in task.needs])
        keys.setdefault(task.configuration, key)
        finished.append(replace(task, key=key, mean=tuple(mean), std=tuple(std), keeps=plan.headline))
    return finished


def _key(task: Task, *, facts: Mapping[str, Any], needs: Sequence[str]) -> str:
    # Where the data lies is not what it is, which the facts tell. More seeds change none of the runs.
    spec = task.spec.model_dump(mode="json", exclude={"name": True, "seeds": True, "dataset": {"path", "root"}})
    told = {"spec": spec, "run": task.run, "learner": task.learner, "how": task.how, "needs": needs, **facts}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def teacher_name(architecture: str) -> str:
    return f"teacher {architecture}"


def assistant_name(architecture: str) -> str:
    return f"assistant {architecture}"


def _given(architecture: str) -> TeacherSpec:
    return TeacherSpec(architecture=architecture, weights=f"{architecture}.safetensors")


def _teachers(plan: Plan) -> list[Task]:
    """The teachers, on the labels of their larger data, and the assistant, taught by the first on the students'."""
    own = {"epochs": plan.teacher_epochs, "batch_size": TEACHER_BATCH, "seed": _TEACHER_SEED}
    longer = plan.training.model_copy(update=own)
    made = []
    for architecture in (plan.teacher, plan.second):
        if architecture:
            spec = _spec(plan, name=architecture, method=OfflineMethod(), teacher=_given(architecture))
            spec = spec.model_copy(update={"dataset": plan.teacher_data, "training": longer})
            made.append(Task(teacher_name(architecture), 0, spec, learner=architecture, how="labels"))
    if plan.assistant:
        spec = _spec(plan, name="assistant", method=OfflineMethod(), teacher=_given(plan.teacher))
        name, needs = assistant_name(plan.assistant), (teacher_name(plan.teacher),)
        made.append(Task(name, 0, spec, learner=plan.assistant, how="taught", needs=needs))
    return made


def _students(plan: Plan) -> list[Task]:
    drafts = configurations(plan)
    return [
        Task(
            configuration=name,
            run=run,
            spec=_spec(plan, name=name, method=draft.method, teacher=draft.teacher, training=draft.training),
            learner=plan.student,
            how=draft.how,
            needs=draft.needs,
        )
        for run in range(plan.seeds)
        for name, draft in drafts.items()
    ]


def _spec(
    plan: Plan, *, name: str, method: Method, teacher: Teacher | None, training: Mapping[str, Any] | None = None
) -> JobSpec:
    return JobSpec(
        name=name,
        dataset=plan.data.model_copy(update={"views": "all"}),  # as published recipes augment
        teacher=teacher,
        student=StudentSpec(architecture=plan.student),
        method=method,
        training=plan.training.model_copy(update=dict(training or {})),
        seeds=plan.seeds,
        latency=None,
    )


def configurations(plan: Plan) -> dict[str, _Draft]:
    """Every configuration by its name, the baseline first, in the order of the table."""
    one, one_needs = _given(plan.teacher), (teacher_name(plan.teacher),)
    drafts = {BASELINE: _Draft(OfflineMethod(), one, how="labels")}
    for presets in _presets(plan):
        method = OfflineMethod(objective=_terms(plan, presets))
        drafts["+".join(presets)] = _Draft(method, one, one_needs)
    if plan.second:
        both = (one, _given(plan.second))
        for merge in _MERGES:
            ensemble = TeacherEnsemble(members=both, merge=merge)
            drafts[merge] = _Draft(OfflineMethod(), ensemble, (*one_needs, teacher_name(plan.second)))
    if plan.assistant:
        drafts["assistant"] = _Draft(OfflineMethod(), _given(plan.assistant), (assistant_name(plan.assistant),))
    if plan.recipe == "small":
        fresh = TeacherSpec(architecture=plan.teacher)
        drafts["online_mutual"] = _Draft(OnlineMethod(), fresh)
        drafts["online_one_way"] = _Draft(OnlineMethod(mutual=False), fresh)
        drafts["self_distillation"] = _Draft(SelfDistillationMethod())
    if plan.data_free_steps:
        drafts |= {f"data_free_{name}": _data_free(plan, name) for name in ("dafl", "fast")}
    return drafts


def _presets(plan: Plan) -> tuple[tuple[PresetName, ...], ...]:
    if plan.recipe != "small":
        return (("kd",), ("crd",), ("reviewkd",), ("dkd",), ("kd_ls",))
    alone: tuple[PresetName, ...] = (
        "kd", "kd_ls", "dkd", "dist", "fitnet", "at", "sp", "rkd", "vid", "crd", "reviewkd",
    )  # fmt: skip
    return (*((name,) for name in alone), ("crd", "kd"), ("reviewkd", "kd"))


def warmup(plan: Plan) -> float:
    """Epochs over which DKD's and ReviewKD's weights rise: the papers' 20 of 240, in proportion to the run."""
    return round(PUBLISHED_WARMUP * plan.training.epochs / PUBLISHED_EPOCHS, 3)


def _terms(plan: Plan, presets: tuple[PresetName, ...]) -> tuple[AnyTerm, ...]:
    """The presets' terms, with warm-ups in proportion, CRD's negatives as planned and the pair's weights, if any."""
    other_classes, review = PAIR_WEIGHTS.get(plan.pair, (None, None))
    changed: dict[type[Any], Callable[[Any], dict[str, Any]]] = {
        DkdTerm: lambda term: {
            "warmup_epochs": warmup(plan),
            "non_target_weight": other_classes or term.non_target_weight,
        },
        ReviewTerm: lambda term: {"warmup_epochs": warmup(plan), "weight": review or term.weight},
        CrdTerm: lambda _: {"negatives": plan.crd_negatives},
    }
    return tuple(
        term.model_copy(update=changed[type(term)](term)) if type(term) in changed else term
        for term in spelled_out(presets)
    )


def _data_free(plan: Plan, synthesis: str) -> _Draft:
    """Its epochs count as everyone's, each of as many steps as bring the run to those planned."""
    steps = max(1, round(plan.data_free_steps / plan.training.epochs))
    method = DataFreeMethod.model_validate({"synthesis": synthesis, "steps_per_epoch": steps})
    return _Draft(method, _given(plan.teacher), (teacher_name(plan.teacher),))


def step_schedule() -> StepSchedule:
    """A tenth of the rate at epochs 150, 180 and 210 of 240."""
    return StepSchedule(milestones=(0.625, 0.75, 0.875), gamma=0.1)
