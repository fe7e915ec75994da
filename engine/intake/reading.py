"""One import from beginning to end: sources opened, their format recognised, the samples packed, the facts told."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from distillery.errors import HostileFile, UnreadableData
from distillery.sniff import IMAGES, OTHER_IMAGES
from distillery.spec.imports import DatasetImport
from distillery.views import DatasetFacts, PhaseName
from engine.data.packed import SPLITS, PackedWriter, open_packed
from engine.intake import array_sets, image_folders, names, table_sets
from engine.intake.decoding import Decoders
from engine.intake.gathering import Gathering, Plan
from engine.intake.limits import LIMITS, Budget, Limits
from engine.intake.members import Member
from engine.intake.sources import REFUSED, Given, Scratch, Source, opened, packed_bytes, refuse, unwrapped

PACKED = "packed.dstl"
_LOOKED_AT = 64
_FORMAT_OF = {
    **dict.fromkeys((*IMAGES, *OTHER_IMAGES), "image_folder"),
    "idx": "idx", "npz": "npz", "parquet": "parquet", "csv": "csv", "tsv": "csv", "jsonl": "jsonl",
}  # fmt: skip
_KINDS_OF = {
    "idx": ("idx",), "npz": ("npz",), "parquet": ("parquet",), "csv": ("csv", "tsv", "text"),
    "jsonl": ("jsonl", "json"),
}  # fmt: skip
"""What files of a format are told to be; others beside them are left out."""

_SUFFIXES = (".csv", ".tsv", ".tab", ".jsonl", ".ndjson", ".json")
"""Endings that tables of text have; where some have one, text without is left out."""


@dataclass(frozen=True)
class Observer:
    """Told how an import comes along."""

    phase: Callable[[PhaseName], None] = lambda name: None
    progress: Callable[[PhaseName, int, int], None] = lambda name, done, total: None
    """Phase, samples so far, and all of them or 0 where that is not known."""


def read(
    spec: DatasetImport, *, given: Sequence[Given], out: Path, observer: Observer | None = None, limits: Limits = LIMITS
) -> DatasetFacts:
    """Read all that was given into `out / PACKED`.

    Raises:
        HostileFile: it is not safe to read.
        UnreadableData: it is damaged, foreign, or nothing to learn from; or a member is broken and may not be.
    """
    observer = observer or Observer()
    observer.phase("reading")
    budget = Budget(packed_bytes(given), limits)
    with Scratch(out) as scratch:
        sources = [source for each in given for source in opened(each, budget=budget, scratch=scratch)]
        plan = _planned(sources, spec=spec, budget=budget, scratch=scratch)
        observer.phase("packing")
        return _packed(plan, spec=spec, path=out / PACKED, observer=observer, notes=_clutter_notes(sources))


def _packed(plan: Plan, *, spec: DatasetImport, path: Path, observer: Observer, notes: Sequence[str]) -> DatasetFacts:
    with PackedWriter(path, task=plan.task, channels=plan.channels) as writer:
        gathering = Gathering(writer, spec, step=lambda done: observer.progress("packing", done, max(plan.total, done)))
        gathering.notes.extend((*notes, *plan.notes))
        plan.fill(gathering)
        sha256, size, classes = gathering.finish()
    head = open_packed(path).head
    return DatasetFacts(
        task=plan.task,
        format=plan.format,
        classes=classes,
        splits={split: gathering.splits[split] for split in SPLITS},
        channels=plan.channels,
        height=head.height,
        width=head.width,
        notes=tuple(gathering.notes),
        broken=tuple(gathering.broken),
        broken_count=gathering.broken_count,
        sha256=sha256,
        size_bytes=size,
    )


def _planned(sources: Sequence[Source], *, spec: DatasetImport, budget: Budget, scratch: Scratch) -> Plan:
    votes, first = _votes(sources, budget=budget)
    format_ = spec.format if spec.format != "auto" else _most(votes)
    if format_ is None:
        refuse(first[1], name=first[0].name)
    if format_ == "image_folder":
        return image_folders.plan(sources, spec=spec, decoders=scratch.enter_context(Decoders()))
    members, notes = _of_format(sources, format_=format_, budget=budget)
    if format_ == "idx":
        return array_sets.plan_idx(members, spec=spec, notes=notes)
    if format_ == "npz":
        if len(members) > 1:
            raise UnreadableData(
                f"Several NumPy archives were given: {names.quoted(member.name for member in members)}.",
                hint="Put all splits into one: x_train, y_train, x_test, y_test.",
            )
        return array_sets.plan_npz(members[0], spec=spec, budget=budget, scratch=scratch)
    if format_ == "parquet":
        return table_sets.plan_parquet(members, spec=spec, budget=budget, scratch=scratch, notes=notes)
    return table_sets.plan_texts(members, kind="csv" if format_ == "csv" else "jsonl", spec=spec, notes=notes)


def _votes(sources: Sequence[Source], *, budget: Budget) -> tuple[Counter[str], tuple[Member, str]]:
    """How many of some files, evenly chosen, are of each format; and one that is of none, with its kind, if any.

    Raises:
        HostileFile: one is an archive within another, or a program.
    """
    votes: Counter[str] = Counter()
    foreign: list[tuple[Member, str]] = []
    for source in sources:
        members = source.members[:: max(1, len(source.members) // _LOOKED_AT)]
        for member in members:
            kind = _kind(member, budget=budget)
            if kind in _FORMAT_OF:
                votes[_FORMAT_OF[kind]] += 1
            else:
                foreign.append((member, kind))
    worst = next((each for each in foreign if each[1] in REFUSED), None)
    return votes, worst or (foreign[0] if foreign else (sources[0].members[0], "unknown"))


def _kind(member: Member, *, budget: Budget) -> str:
    try:
        return unwrapped(member, budget=budget)[1]
    except HostileFile:
        raise
    except UnreadableData:
        return "unknown"  # damaged: told when it is read


def _most(votes: Counter[str]) -> str | None:
    """The format of most files; images before tables that may lie beside them."""
    return max(votes, key=lambda name: (votes[name], name == "image_folder"), default=None)


def _of_format(sources: Sequence[Source], *, format_: str, budget: Budget) -> tuple[list[Member], tuple[str, ...]]:
    """The files of a format, unpacked where they are compressed by themselves, and what was left out."""
    kept: list[Member] = []
    left: list[str] = []
    for source in sources:
        for member in source.members:
            plain, kind = unwrapped(member, budget=budget)
            if kind in _KINDS_OF[format_]:
                kept.append(plain)
            elif kind in REFUSED:
                refuse(kind, name=member.name)
            else:
                left.append(member.name)
    named = [member for member in kept if member.parts[-1].lower().endswith(_SUFFIXES)]
    if named and format_ in ("csv", "jsonl"):  # a README is text as well
        left.extend(member.name for member in kept if member not in named)
        kept = named
    if not kept:
        raise UnreadableData(
            f"Found no {format_} file, but {names.quoted(left)}.", hint="Set 'format' to auto, or to what it is."
        )
    return kept, (f"Left out, because they are no {format_} files: {names.quoted(left)}.",) if left else ()


def _clutter_notes(sources: Sequence[Source]) -> list[str]:
    return [
        f"Left out {source.clutter:,} files of '{source.named}' that systems leave behind, such as .DS_Store."
        for source in sources
        if source.clutter
    ]
