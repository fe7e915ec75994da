"""The networks that a study leaves behind, by role, each with what the report and the files need to know of it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from distillery.report import SeedRun, Spread
from distillery.spec.methods import OnlineMethod, SelfDistillationMethod
from distillery.spec.teacher import TeacherEnsemble
from engine import evaluate
from engine.exits import WithExits, early_exit
from engine.loop import Trained
from engine.report import Candidate
from engine.spread import spread
from engine.strategies.online import STUDENT, state_of
from engine.weights import describe
from worker import lessons
from worker.journal import Journal
from worker.lessons import Known
from worker.ready import Ready, loaded, run_names, teaching_runs


@dataclass(frozen=True)
class Cast:
    """Who taught: the teachers in the order of the spec, and the assistants from the largest on."""

    teachers: tuple[Known, ...] = ()
    assistants: tuple[Known, ...] = ()


@dataclass
class Part:
    """One network of a study."""

    known: Known
    run: str = ""
    """The name of the run that trained it, and no other network."""
    trained: Trained | None = None
    last: nn.Module | None = None
    """The same network after the last epoch; None where it was not trained here."""
    stage: str = ""
    """Of an early exit, the stage that it ends behind."""
    more_facts: Mapping[str, str] = field(default_factory=dict)
    """What the header of its file tells besides the usual."""
    teaches: bool = False
    """Whether it was made here to teach, and is worth keeping as a model."""
    file: Path | None = None
    file_bytes: int = 0
    """Of several teachers of which one is a black box, those of their own files: they have none in common."""

    @property
    def saved(self) -> Path:
        """The file of its weights."""
        if self.file is None:
            raise AssertionError("The weights of this network are not saved yet.")
        return self.file

    def candidate(self, ready: Ready) -> Candidate:
        """What the report reads. The test split is read here."""
        return Candidate(
            architecture=self.known.architecture,
            network=self.known.network,
            logits=answers(ready, self.known.network),
            last_logits=None if self.last is None else answers(ready, self.last),
            file_bytes=self.file_bytes if self.file is None else self.saved.stat().st_size,
            trained=self.trained,
            run=self.run,
        )

    def facts(self, ready: Ready) -> dict[str, str]:
        """The header of its weights file."""
        data = ready.dataset
        usual = describe(
            architecture=self.known.architecture,
            classes=data.classes,
            image_size=data.image_size,
            channels=data.channels,
            mean=data.mean,
            std=data.std,
        )
        return {**usual, **self.more_facts}


def answers(ready: Ready, network: nn.Module) -> Tensor:
    """Logits [N, K] for the test split."""
    data = ready.dataset
    return evaluate.predict(
        network, data.test, mean=data.mean, std=data.std, device=ready.device, batch_size=ready.portion
    )


def collect(ready: Ready, cast: Cast, *, journal: Journal) -> dict[str, Part]:
    """Every network of the study by its role, those that taught first."""
    parts = dict(_teachers(ready, cast, journal=journal))
    for number, known in enumerate(cast.assistants, 1):
        parts[f"assistant{number}"] = _of_run(ready, known, f"assisting{number}", journal=journal)
    parts |= _student(ready, journal=journal)
    if ready.spec.baseline:
        trained = journal.finished["baseline"]
        known = Known(ready.spec.student.architecture, loaded(ready, ready.spec.student.architecture, trained.best))
        parts["baseline"] = _of_run(ready, known, "baseline", journal=journal, teaches=False)
    return parts


def _of_run(ready: Ready, known: Known, run: str, *, journal: Journal, teaches: bool = True) -> Part:
    """A network with a run of its own, or a given one."""
    trained = journal.finished.get(run)
    if trained is None:
        return Part(known)
    last = loaded(ready, known.architecture, trained.last)
    return Part(known, run=run, trained=trained, last=last, teaches=teaches)


def _teachers(ready: Ready, cast: Cast, *, journal: Journal) -> Iterator[tuple[str, Part]]:
    if not cast.teachers:
        return
    online = isinstance(ready.spec.method, OnlineMethod)
    runs = teaching_runs(ready.spec)
    members = [
        Part(known, teaches=True) if online else _of_run(ready, known, run, journal=journal)
        for known, run in zip(cast.teachers, runs, strict=True)
    ]
    if len(members) == 1:
        yield "teacher", members[0]
        return
    if isinstance(ready.spec.teacher, TeacherEnsemble) and not online:
        network = lessons.together(ready.spec, [known.network for known in cast.teachers])
        architectures = [known.architecture for known in cast.teachers]
        merged = {"members": json.dumps(architectures), "merge": ready.spec.teacher.merge}
        yield "teacher", Part(Known(" + ".join(architectures), network), more_facts=merged)
        yield from ((f"teacher{number}", part) for number, part in enumerate(members, 1))
    else:  # Peers are not merged: the first of them is the one that the student is held against.
        yield "teacher", members[0]
        yield from ((f"teacher{number}", part) for number, part in enumerate(members[1:], 2))


def _student(ready: Ready, *, journal: Journal) -> Iterator[tuple[str, Part]]:
    trained, architecture = journal.finished["training"], ready.spec.student.architecture
    network, last = (student_of(ready, state) for state in (trained.best, trained.last))
    yield "student", Part(Known(architecture, network), run="training", trained=trained, last=last)
    method = ready.spec.method
    if isinstance(method, SelfDistillationMethod) and method.deliver_exits:
        whole = exits_of(ready, trained.best)
        for number, stage in enumerate(whole.stages, 1):
            cut = early_exit(whole, number).to(ready.device).eval()
            facts = {"exit": str(number)}
            yield f"exit{number}", Part(Known(architecture, cut), stage=stage, more_facts=facts)


def exits_of(ready: Ready, state: Mapping[str, Tensor]) -> WithExits:
    """The student with its exits, trained."""
    network = lessons.with_exits(ready)
    network.load_state_dict(dict(state))
    return network.eval()


def student_of(ready: Ready, state: Mapping[str, Tensor]) -> nn.Module:
    """The plain student out of what its lesson trained: without exits, without peers."""
    architecture = ready.spec.student.architecture
    if isinstance(ready.spec.method, OnlineMethod):
        return loaded(ready, architecture, state_of(STUDENT, state))
    if isinstance(ready.spec.method, SelfDistillationMethod):
        return loaded(ready, architecture, exits_of(ready, state).delivered())
    return loaded(ready, architecture, dict(state))


def over_seeds(ready: Ready, *, journal: Journal) -> Spread | None:
    """Test accuracies of every run of the study; None when there is only one."""
    if ready.spec.seeds == 1:
        return None
    labels, architecture = ready.dataset.test.labels.cpu(), ready.spec.student.architecture

    def accuracy(network: nn.Module) -> float:
        return evaluate.accuracy(answers(ready, network), labels)

    runs = []
    seeds = ready.spec.seeds
    for place, (run, alone) in enumerate(zip(run_names("training", seeds), run_names("baseline", seeds), strict=True)):
        baseline = journal.finished.get(alone)
        runs.append(
            SeedRun(
                seed=(ready.spec.training.seed or 0) + place,
                student=accuracy(student_of(ready, journal.finished[run].best)),
                baseline=None if baseline is None else accuracy(loaded(ready, architecture, baseline.best)),
            )
        )
    return spread(runs)


def gallery(journal: Journal) -> Tensor | None:
    """The images that a data-free student learned from, uint8 [N, C, H, W]; None where there are none."""
    return journal.finished["training"].keepsakes.get("gallery")
