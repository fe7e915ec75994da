"""From a spec to lessons: who is trained by whom in each run of a study, fitted to the networks and the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from distillery.errors import InvalidRequest
from distillery.spec import JobSpec
from distillery.spec.methods import DataFreeMethod, OnlineMethod, SelfDistillationMethod
from distillery.spec.objectives import AnyTerm, CrossEntropyTerm
from distillery.spec.teacher import BLACK_BOXES, TeacherEnsemble
from engine.answers_table import AnswersTable
from engine.black_box import OnnxNetwork
from engine.exits import WithExits
from engine.fitting import Fitting, Surveyed, survey
from engine.lesson import Lesson
from engine.objectives import Objective, build
from engine.strategies.data_free import DataFree
from engine.strategies.offline import Offline
from engine.strategies.online import STUDENT, Online, Peers
from engine.strategies.self_distillation import SelfDistillation
from engine.teachers import Ensemble, EnsembleTeacher, FrozenTeacher
from models import catalog
from worker.ready import Ready, fresh, samples
from worker.remembering import remembering, views_of


@dataclass(frozen=True, eq=False)
class Known:
    """A network with the name of its architecture, which tells where its stages end."""

    architecture: str
    network: nn.Module


def teaching(ready: Ready, architecture: str, *, run: int = 0, draw: int = 0) -> Lesson:
    """Plain training of a teacher, on every view."""
    network = fresh(ready, architecture, run=run, draw=draw)
    return Offline(network, objective=build([_labels(ready.spec)]), teacher=None)


def baseline(ready: Ready, *, run: int = 0) -> Lesson:
    """Plain training of the student, on the views that the taught one sees."""
    network = fresh(ready, ready.spec.student.architecture, run=run)
    return _shown(ready, Offline(network, objective=build([_labels(ready.spec)]), teacher=None))


def taught(ready: Ready, architecture: str, teachers: Sequence[Known], *, run: int = 0, draw: int = 0) -> Lesson:
    """A student or an assistant under frozen teachers, by the objective of the method.

    Raises:
        InvalidRequest: the answers must be kept, and there is no room for them.
    """
    student = Known(architecture, fresh(ready, architecture, run=run, draw=draw))
    objective = build(ready.spec.method.terms, _fittings(ready, student, teachers))
    kept = remembering(ready, _frozen(teachers, objective))
    lesson = Offline(student.network, objective=objective, teacher=_together(ready.spec, kept.teachers))
    lesson.remark = kept.why_live
    return _shown(ready, lesson)


def student(ready: Ready, teachers: Sequence[Known], *, run: int = 0) -> Lesson:
    """The student's lesson by the strategy of the spec. `teachers` are those that are trained already."""
    method, architecture = ready.spec.method, ready.spec.student.architecture
    if isinstance(method, OnlineMethod):
        return _shown(ready, _online(ready, method, run=run))
    if isinstance(method, SelfDistillationMethod):
        return _shown(ready, SelfDistillation(with_exits(ready, run=run), method=method))
    if isinstance(method, DataFreeMethod):
        return _data_free(ready, method, teachers, run=run)
    return taught(ready, architecture, teachers, run=run)


def _shown(ready: Ready, lesson: Lesson) -> Lesson:
    """With the views of the spec."""
    lesson.views = views_of(ready.spec)
    return lesson


def with_exits(ready: Ready, *, run: int = 0) -> WithExits:
    """The student with a classifier behind each of its stages, freshly drawn."""
    known = Known(ready.spec.student.architecture, fresh(ready, ready.spec.student.architecture, run=run))
    exits = WithExits(known.network, _surveyed(ready, known, ()), classes=len(ready.dataset.classes))
    return exits.to(ready.device)


def peer_names(spec: JobSpec) -> tuple[str, ...]:
    """What the peers of an online job are called, the student first: `student`, `teacher`, `teacher2` and so on."""
    return (STUDENT, "teacher", *(f"teacher{number}" for number in range(2, len(spec.teachers) + 1)))


def together(spec: JobSpec, networks: Sequence[nn.Module]) -> nn.Module:
    """Several teachers as one network; a single one as it is."""
    if len(networks) == 1:
        return networks[0]
    merge = spec.teacher.merge if isinstance(spec.teacher, TeacherEnsemble) else "mean_logits"
    return Ensemble(networks, merge=merge).eval()


def _labels(spec: JobSpec) -> CrossEntropyTerm:
    smoothing = [term.label_smoothing for term in spec.method.terms if isinstance(term, CrossEntropyTerm)]
    smoothing = smoothing or [getattr(spec.method, "label_smoothing", 0.0)]
    return CrossEntropyTerm(weight=1.0, label_smoothing=smoothing[0])


def _online(ready: Ready, method: OnlineMethod, *, run: int) -> Online:
    architectures = (ready.spec.student.architecture, *(each.architecture for each in ready.spec.teachers))
    peers = {
        name: Known(architecture, fresh(ready, architecture, run=run, draw=place))
        for place, (name, architecture) in enumerate(zip(peer_names(ready.spec), architectures, strict=True))
    }
    objectives: dict[str, Mapping[str, Objective]] = {}
    for learner, known in peers.items():
        others = {name: other for name, other in peers.items() if name != learner}
        if learner == STUDENT or method.mutual:
            objectives[learner] = {
                name: build(method.terms, _fittings(ready, known, [other])) for name, other in others.items()
            }
        else:
            objectives[learner] = {"": build([term for term in method.terms if not term.needs_teacher])}
    return Online(Peers({name: each.network for name, each in peers.items()}), objectives=objectives)


def _data_free(ready: Ready, method: DataFreeMethod, teachers: Sequence[Known], *, run: int) -> DataFree:
    for place, teacher in enumerate(teachers):
        if teacher.architecture in BLACK_BOXES:
            raise InvalidRequest(
                "A data-free job makes images by following the gradient of its teacher, and a black box has none.",
                hint="Use a teacher whose weights are safetensors, or a job with data.",
                pointer=ready.spec.teacher_pointers[place],
            )
    data, known = (
        ready.dataset,
        Known(ready.spec.student.architecture, fresh(ready, ready.spec.student.architecture, run=run)),
    )
    objective = build(method.terms, _fittings(ready, known, teachers))
    return DataFree(
        known.network,
        objective=objective,
        teacher=_together(ready.spec, _frozen(teachers, objective)),
        method=method,
        classes=len(data.classes),
        channels=data.channels,
        image_size=data.image_size,
        mean=data.mean,
        std=data.std,
    )


def _frozen(teachers: Sequence[Known], objective: Objective) -> list[FrozenTeacher]:
    return [FrozenTeacher(each.network, layers=objective.teacher_layers(place)) for place, each in enumerate(teachers)]


def _together(spec: JobSpec, members: Sequence[Any]) -> Any:
    """One teacher as it is; several as one that merges them."""
    if len(members) == 1:
        return members[0]
    if not isinstance(spec.teacher, TeacherEnsemble):
        raise AssertionError("Only an ensemble has several teachers.")
    return EnsembleTeacher(members, merge=spec.teacher.merge)


def _fittings(ready: Ready, student: Known, teachers: Sequence[Known]) -> list[Fitting]:
    """What the terms must know, where any of them reads layers; the dry forwards are left out where none does."""
    wanted = [pairs for term in ready.spec.method.terms if (pairs := getattr(term, "pairs", None)) is not None]
    if not wanted:
        return []
    named = [pair for pairs in wanted if not isinstance(pairs, str) for pair in pairs]
    learner = _surveyed(ready, student, [pair.student for pair in named])
    data_free = isinstance(ready.spec.method, DataFreeMethod)
    remembered = {} if data_free else {"labels": ready.dataset.train.labels, "ids": ready.dataset.train.ids}
    return [
        Fitting(learner, _surveyed(ready, each, [pair.teacher for pair in named]), **remembered) for each in teachers
    ]


def _surveyed(ready: Ready, known: Known, layers: Sequence[str]) -> Surveyed:
    network = known.network
    if isinstance(network, AnswersTable):
        return Surveyed({}, ())
    try:
        if isinstance(network, OnnxNetwork):
            shown = [each for each in network.layers if each not in network.map_layers]
            return survey(network, samples(ready), stages=network.map_layers, layers=[*shown, *layers], embedding=False)
        return survey(network, samples(ready), stages=catalog.find(known.architecture).stages, layers=layers)
    except InvalidRequest as error:
        error.detail = f"{known.architecture}: {error.detail}"
        error.pointer = error.pointer or _place_of(ready.spec.method.terms)
        raise


def _place_of(terms: Sequence[AnyTerm]) -> str:
    read = (f"/method/objective/{place}/pairs" for place, term in enumerate(terms) if hasattr(term, "pairs"))
    return next(read, "/student/architecture")
