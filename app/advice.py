"""What a spec may ask for and seldom means: warnings, each a sentence or two that says what comes of it."""

from collections.abc import Iterator
from typing import Any

from app import networks
from app.estimate import crd_bytes
from app.known_data import known_images, known_side
from distillery.spec import JobSpec
from distillery.spec.methods import DataFreeMethod, Fast, OfflineMethod, OnlineMethod
from distillery.spec.objectives import CrdTerm, SoftTargetsTerm
from distillery.spec.teacher import TeacherEnsemble
from distillery.spec.training import AdamW

_MIRROR_IMAGES_DIFFER = ("digits", "mnist", "svhn")
"""Parts of data set names whose images mean something else in the mirror."""
_HIGHEST_ADAMW_RATE = 0.02
_MUCH_MEMORY = 2e9


def warnings_about(sent: JobSpec) -> tuple[str, ...]:
    """What is allowed, and yet seldom meant. `sent` is not resolved yet: what it leaves out is no wish."""
    found = (
        *_about_networks(sent),
        *_about_method(sent),
        *_about_terms(sent),
        *_about_comparing(sent),
        *_about_idle_fields(sent),
        *_about_training(sent),
        *_about_data(sent),
    )
    return tuple(dict.fromkeys(found))


def _about_networks(spec: JobSpec) -> Iterator[str]:
    student, teachers = networks.student(spec).row, [each.row for each in networks.teachers(spec)]
    for teacher in teachers:
        # Peers may well be equal: they learn from each other.
        if student.parameters >= teacher.parameters and not isinstance(spec.method, OnlineMethod):
            yield (
                f"The student ({student.name}, {student.parameters:,} parameters) is not smaller than the teacher "
                f"({teacher.name}, {teacher.parameters:,}): distilling it saves nothing."
            )
    yield from _about_assistants(spec)
    for named in networks.of(spec):
        side, native = known_side(spec), named.row.input[1]
        if side is not None and side < native and not named.row.small_input:
            yield f"The {named.role} {named.row.name} was made for {native} pixels; at {side} its accuracy suffers."


def _about_assistants(spec: JobSpec) -> Iterator[str]:
    student = networks.student(spec).row
    above = max((each.row for each in networks.teachers(spec)), key=lambda row: row.parameters, default=student)
    for named in networks.assistants(spec):
        row = named.row
        if not above.parameters > row.parameters > student.parameters:
            yield (
                f"The assistant {row.name} ({row.parameters:,} parameters) is not between {above.name} "
                f"({above.parameters:,}), which teaches it, and the student ({student.parameters:,}) in size."
            )
        above = row


def _about_method(spec: JobSpec) -> Iterator[str]:
    method = spec.method
    taught = any(term.needs_teacher and term.weight > 0 for term in method.terms)
    if isinstance(method, OfflineMethod | OnlineMethod) and not taught:
        yield "No term with a weight above 0 uses the teacher: the student is trained as the baseline is."
    if isinstance(method, OfflineMethod):
        for term in method.terms:
            if isinstance(term, SoftTargetsTerm) and term.weight > 0 and term.temperature == 1:
                yield (
                    "At temperature 1 a sure teacher tells little more than the label; 2 to 8 are usual for small "
                    "images."
                )
    if isinstance(method, DataFreeMethod) and isinstance(method.synthesis, Fast):
        yield from _about_pool(spec, method.synthesis)


def _about_pool(spec: JobSpec, made: Fast) -> Iterator[str]:
    batch_size, epochs = spec.training.batch_size, spec.training.epochs
    if made.pool < batch_size:
        yield f"The pool keeps {made.pool} images, and a batch of {batch_size} repeats them: raise synthesis.pool."
    if made.adversarial_weight > 0 and made.pool_warmup_epochs >= epochs:
        yield (
            f"The adversarial term waits for {made.pool_warmup_epochs} epochs, and the training ends after {epochs}: "
            "it is never used. Lower synthesis.pool_warmup_epochs."
        )


def _about_terms(spec: JobSpec) -> Iterator[str]:
    epochs = spec.training.epochs
    for term in spec.method.terms:
        if term.weight > 0 and term.warmup_epochs >= epochs:
            share = epochs / term.warmup_epochs
            reached = f"it gets no further than {share:.0%} of it" if share < 1 else "only the last epoch has all of it"
            yield (
                f"The weight of {term.term} rises to its full value over {term.warmup_epochs:g} epochs, and the "
                f"training ends after {epochs}: {reached}. Train longer, or lower its warmup_epochs."
            )
        if isinstance(term, CrdTerm):
            yield from _about_crd(spec, term)


def _about_crd(spec: JobSpec, term: CrdTerm) -> Iterator[str]:
    needed = crd_bytes(spec, term)
    if needed > _MUCH_MEMORY:
        yield (
            f"With batches of {spec.training.batch_size} and {term.negatives:,} negatives, the term crd takes about "
            f"{needed / 1e9:.1f} GB of memory: lower one of the two."
        )
    if not isinstance(term.pairs, str) and len(term.pairs) > 1:
        yield f"The term crd uses only the last of its {len(term.pairs)} pairs."


def _about_comparing(spec: JobSpec) -> Iterator[str]:
    if isinstance(spec.method, DataFreeMethod):
        if spec.baseline and "baseline" in spec.model_fields_set:
            yield "A data-free job has no labels to train the baseline on: it is left out."
    elif not spec.baseline:
        yield "Without the baseline the report cannot say whether the teacher helped."


def _about_idle_fields(spec: JobSpec) -> Iterator[str]:
    """What the strategy does not look at, where it was sent on purpose."""
    if isinstance(spec.method, OnlineMethod):
        if isinstance(spec.teacher, TeacherEnsemble) and "merge" in spec.teacher.model_fields_set:
            yield "In online distillation teacher.merge is not used: each network learns from each of the others."
        if any(each.minimum_accuracy is not None for each in spec.teachers):
            yield "In online distillation minimum_accuracy is not used: the teachers begin untrained."
    if isinstance(spec.method, DataFreeMethod):
        if any(each.minimum_accuracy is not None for each in spec.teachers):
            yield "In a data-free job minimum_accuracy is not used: there are no images to measure it on."
        if spec.dataset.limit is not None:
            yield "In a data-free job dataset.limit is not used: no image of the data set is trained on."


def _about_training(spec: JobSpec) -> Iterator[str]:
    for place, recipe in _recipes(spec):
        schedule, optimizer = recipe.schedule or spec.training.schedule, recipe.optimizer or spec.training.optimizer
        if schedule.warmup_epochs >= recipe.epochs:
            yield (
                f"The warm-up of {place} lasts all its {recipe.epochs} epochs: the full learning rate is never reached."
            )
        if isinstance(optimizer, AdamW) and optimizer.lr > _HIGHEST_ADAMW_RATE:
            yield f"AdamW at a learning rate of {optimizer.lr:g} ({place}) mostly diverges; try 0.001."
    images = known_images(spec)
    if images is not None and spec.training.batch_size > images.train and not isinstance(spec.method, DataFreeMethod):
        yield f"A batch of {spec.training.batch_size} holds all {images.train} training images: one step an epoch."


def _recipes(spec: JobSpec) -> Iterator[tuple[str, Any]]:
    """Each recipe that the spec writes out, by its place; what one leaves out is None and taken from `training`."""
    yield "training", spec.training
    places = [pointer.strip("/").replace("/", ".") for pointer in spec.teacher_pointers]
    places += [f"assistants.{place}" for place in range(len(spec.assistants))]
    recipes = [*(each.train for each in spec.teachers), *(each.train for each in spec.assistants)]
    yield from ((f"{place}.train", own) for place, own in zip(places, recipes, strict=True) if own is not None)


def _about_data(spec: JobSpec) -> Iterator[str]:
    name = getattr(spec.dataset, "name", spec.dataset.kind).lower()
    meant = any(part in name for part in _MIRROR_IMAGES_DIFFER) and "fashion" not in name
    if "flip" in spec.dataset.augment and meant:
        yield f"Mirrored, the characters of '{name}' are other characters: 'flip' in dataset.augment harms here."
