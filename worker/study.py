"""One study, told once: teachers, assistants, student, the same student alone, and what became of each.

Every network is trained by the same loop. The test split is read in the phase `evaluating` and nowhere before.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

from distillery.errors import InvalidRequest, TrainingDiverged
from distillery.spec import JobSpec
from distillery.spec.methods import OnlineMethod
from distillery.spec.training import Training
from engine.device_lease import DeviceLease, name_of
from engine.lesson import Lesson
from engine.loop import train
from engine.strategies.online import state_of
from engine.teachers import state_sha256
from worker import estimate, forms, lessons
from worker.halts import Halt, halt_of
from worker.journal import Journal, PhaseObserver
from worker.lessons import Known
from worker.messages import Halted
from worker.parts import Cast
from worker.preparation import check_teacher, prepare
from worker.ready import Ready, assisting_runs, loaded, merged, run_names, seed_of, teaching_runs
from worker.remembering import answered
from worker.unlabelled import with_unlabelled


def distil(
    spec: JobSpec,
    *,
    journal: Journal,
    teacher_weights: Mapping[int, Path],
    teacher_facts: Mapping[int, Path] = MappingProxyType({}),
    stored: Path | None = None,
    unlabelled: Path | None = None,
    resume: Path | None,
    halved: frozenset[str] = frozenset(),
    micro_batches: int = 1,
) -> None:
    """Run every phase of the study and deliver its artifacts into the journal's folder.

    `teacher_weights` are fetched files, by the teacher's place in the spec, and `teacher_facts` what is known of those
    that were brought along. `stored` and `unlabelled` are the packed files that the spec names by their ids. `halved`
    are the runs that are trained at half their learning rate, and `micro_batches` the parts in which batches go
    through the networks: neither belongs to the spec, and a checkpoint that was made without them is gone on from.

    Raises:
        distillery.errors.DistilleryError: the spec, the data or the numbers are at fault.
        worker.halts.Halt: a run diverged that is not among `halved`, or memory or space ran out in it.
        engine.loop.Stopped: asked to leave; the last checkpoint is saved and told.
    """
    _check_names(spec, halved)
    ready = prepare(
        spec,
        journal=journal,
        teacher_weights=teacher_weights,
        teacher_facts=teacher_facts,
        stored=stored,
        unlabelled=unlabelled,
        micro_batches=micro_batches,
    )
    ready = replace(ready, halved=halved)
    with DeviceLease(name_of(ready.device), on_wait=journal.leave_when_asked).shared() as lease:
        _study(ready, journal=journal, resume=resume, lease=lease)


def _study(ready: Ready, *, journal: Journal, resume: Path | None, lease: DeviceLease) -> None:
    """Every phase from the first training on, with the device held."""
    if resume is None:
        estimate.tell(ready, journal=journal)
    else:
        journal.restore(resume)
    for run in sorted(ready.halved):
        journal.warn(
            f"The run {run} diverged at the learning rate of the recipe. It goes on from its last checkpoint at half "
            f"that rate; so its result is not that of the recipe alone.",
            run=run,
        )
    teachers = [] if isinstance(ready.spec.method, OnlineMethod) else _teach(ready, journal=journal)
    wider = with_unlabelled(ready, teachers, journal=journal)
    assistants = _assist(wider, teachers, journal=journal)
    _distil_student(wider, assistants[-1:] or teachers, journal=journal)
    if ready.spec.baseline:
        _train_baseline(ready, journal=journal)
    if isinstance(ready.spec.method, OnlineMethod):
        teachers = _peers(ready, journal=journal)
    from worker.closing import close  # report, exports and latency: nothing to wait for before the first step

    close(ready, Cast(teachers=tuple(teachers), assistants=tuple(assistants)), journal=journal, lease=lease)


def _check_names(spec: JobSpec, halved: frozenset[str]) -> None:
    students = (name for phase in ("training", "baseline") for name in run_names(phase, spec.seeds))
    known = (*teaching_runs(spec), *assisting_runs(spec), *students)
    if unknown := sorted(halved - set(known)):
        raise InvalidRequest(
            f"The study has no run '{unknown[0]}' whose learning rate could be halved.",
            hint=f"Its runs are {', '.join(known)}.",
        )


def _teach(ready: Ready, *, journal: Journal) -> list[Known]:
    """The teachers: given, or trained here one after the other."""
    told = teaching_runs(ready.spec)
    missing = [run for run, given in zip(told, ready.teachers, strict=True) if given is None]
    if any(run not in journal.finished for run in missing):
        journal.enter("teaching")
    teachers = []
    for place, (spec, given) in enumerate(zip(ready.spec.teachers, ready.teachers, strict=True)):
        network = given
        if network is None:
            recipe = merged(ready.spec.training, spec.train)
            lesson = partial(lessons.teaching, ready, spec.architecture, draw=place)
            _run(ready, told[place], lesson, recipe=recipe, among=missing, journal=journal)
            network = loaded(ready, spec.architecture, journal.finished[told[place]].best)
            check_teacher(ready, network, spec)
        teachers.append(Known(spec.architecture, network))
    return teachers


def _assist(ready: Ready, teachers: Sequence[Known], *, journal: Journal) -> list[Known]:
    """Each assistant is taught by the one before it, the first by the teachers."""
    runs = assisting_runs(ready.spec)
    if any(run not in journal.finished for run in runs):
        journal.enter("assisting")
    assistants: list[Known] = []
    for run, spec in zip(runs, ready.spec.assistants, strict=True):
        above = assistants[-1:] or teachers
        recipe = merged(ready.spec.training, spec.train)
        lesson = partial(lessons.taught, ready, spec.architecture, above, draw=1)
        _run(ready, run, lesson, recipe=recipe, among=runs, journal=journal, teachers=above)
        assistants.append(Known(spec.architecture, loaded(ready, spec.architecture, journal.finished[run].best)))
    return assistants


def _distil_student(ready: Ready, teachers: Sequence[Known], *, journal: Journal) -> None:
    runs = run_names("training", ready.spec.seeds)
    if all(run in journal.finished for run in runs):
        return
    journal.enter("training")
    for place, run in enumerate(runs):
        recipe = ready.spec.training.model_copy(update={"seed": seed_of(ready, place)})
        lesson = partial(lessons.student, ready, teachers, run=place)
        _run(ready, run, lesson, recipe=recipe, among=runs, journal=journal, teachers=teachers)


def _train_baseline(ready: Ready, *, journal: Journal) -> None:
    runs = run_names("baseline", ready.spec.seeds)
    if all(run in journal.finished for run in runs):
        return
    journal.enter("baseline")
    for place, run in enumerate(runs):
        recipe = ready.spec.training.model_copy(update={"seed": seed_of(ready, place)})
        lesson = partial(lessons.baseline, ready, run=place)
        _run(ready, run, lesson, recipe=recipe, among=runs, journal=journal)


def _peers(ready: Ready, *, journal: Journal) -> list[Known]:
    """The teachers of an online job, as they were in the student's best epoch."""
    state = journal.finished["training"].best
    names = lessons.peer_names(ready.spec)[1:]
    return [
        Known(each.architecture, loaded(ready, each.architecture, state_of(name, state)))
        for name, each in zip(names, ready.spec.teachers, strict=True)
    ]


def _run(
    ready: Ready,
    run: str,
    lesson: Callable[[], Lesson],
    *,
    recipe: Training,
    among: Sequence[str],
    journal: Journal,
    teachers: Sequence[Known] = (),
) -> None:
    """One call of the loop, unless an earlier attempt has finished it. `among` are the runs of this phase."""
    if run in journal.finished:
        return
    before = [state_sha256(each.network) for each in teachers]
    try:
        taught = lesson()
        forms.settle(ready, run, taught, recipe=recipe, among=among, journal=journal)
        trained = train(
            taught,
            dataset=ready.dataset,
            recipe=_half(recipe) if run in ready.halved else recipe,
            augment=ready.spec.dataset.augment,
            observer=PhaseObserver(journal, run=run, recipe=recipe, place=among.index(run), runs=len(among)),
            resume=journal.loop_state(run),
            micro_batches=ready.micro_batches,
        )
        if before != [state_sha256(each.network) for each in teachers]:
            raise AssertionError("A teacher's state changed while it taught.")
        if teachers:
            journal.teller.tell(answered(run, taught))
        journal.finish(run, trained)
    except TrainingDiverged as error:
        raise _diverged(error, run=run, halved=run in ready.halved) from error
    except Exception as error:
        if halted := halt_of(error, run=run):
            raise Halt(halted) from error
        raise


def _half(recipe: Training) -> Training:
    optimizer = recipe.optimizer
    return recipe.model_copy(update={"optimizer": optimizer.model_copy(update={"lr": optimizer.lr / 2})})


def _diverged(error: TrainingDiverged, *, run: str, halved: bool) -> Halt | TrainingDiverged:
    """Once, another attempt goes on from the last checkpoint at half the rate; the second time is the end."""
    if not halved:
        return Halt(Halted(reason="diverged", run=run, detail=f"In the run {run}: {error.detail}"))
    return TrainingDiverged(
        f"In the run {run}: {error.detail} Going on from the last checkpoint at half the learning rate did not help.",
        hint=error.hint,
        pointer=error.pointer,
    )
