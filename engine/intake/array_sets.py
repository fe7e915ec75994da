"""Data sets of arrays: the idx files of the MNIST family, in any number of sources, and NumPy archives.

Which file is which is told by what it holds; its name only says which split it belongs to.
"""

from collections.abc import Sequence

from distillery.errors import UnreadableData
from distillery.spec.imports import DatasetImport
from engine.intake import names
from engine.intake.arrays import ArrayFile, Header, Pair, channels_last, label_values, pictures
from engine.intake.gathering import Gathering, Plan
from engine.intake.limits import Budget
from engine.intake.members import Member
from engine.intake.sources import SPLIT_NAMES, Scratch, seekable, split_within
from engine.intake.zips import ZipArchive

NPZ_PAIRS = {"train": ("x_train", "y_train"), "validation": ("x_val", "y_val"), "test": ("x_test", "y_test")}
NPZ_SINGLE = ("images", "labels")
NPZ_UNLABELLED = "x_unlabelled"
_EXPECTED = "Expected 'x_train, y_train, x_test, y_test' (and 'x_val, y_val', 'x_unlabelled'), or 'images, labels'."
_FOUR_FILES = "An idx data set is train-images, train-labels, t10k-images and t10k-labels; the last two may be missing."


def plan_idx(members: Sequence[Member], *, spec: DatasetImport, notes: Sequence[str]) -> Plan:
    """Pair idx files of images with those of labels.

    Args:
        members: idx files, unpacked where they are compressed by themselves.

    Raises:
        UnreadableData: one is malformed, has no partner, or does not fit it.
        HostileFile: one promises more than any file can hold.
    """
    files = [ArrayFile(member, kind="idx") for member in members]
    images = [file for file in files if len(file.header.shape) in (3, 4)]
    labels = [file for file in files if len(file.header.shape) == 1]
    odd = next((file for file in files if len(file.header.shape) == 2), None)
    if odd is not None or not images or len(images) != len(labels):
        found = names.quoted(file.name for file in files)
        raise UnreadableData(
            f"Found {len(images)} idx files of images and {len(labels)} of labels: {found}.", hint=_FOUR_FILES
        )
    return _plan(_idx_pairs(images, labels), format_="idx", spec=spec, notes=notes)


def plan_npz(member: Member, *, spec: DatasetImport, budget: Budget, scratch: Scratch) -> Plan:
    """Find the known arrays in a NumPy archive.

    Raises:
        UnreadableData: they are missing, malformed or do not fit each other.
        HostileFile: one would have to be unpickled, or the archive is not safe to read.
    """
    file, size = seekable(member, scratch=scratch)
    archive = ZipArchive(file, size=size, budget=budget)
    found = {member.parts[-1].removesuffix(".npy"): member for member in archive.members}
    single, split = {*NPZ_SINGLE} & {*found}, {name for pair in NPZ_PAIRS.values() for name in pair} & {*found}
    if single and split:
        raise UnreadableData(f"'{member.name}' holds both {names.quoted(sorted(single | split))}.", hint=_EXPECTED)
    wanted = {"train": NPZ_SINGLE} if single else {name: pair for name, pair in NPZ_PAIRS.items() if {*pair} & {*found}}
    missing = {name for pair in wanted.values() for name in pair} - {*found}
    if missing or not wanted:
        told = f"{names.quoted(sorted(missing))} is missing" if missing else "it holds none of the usual arrays"
        raise UnreadableData(f"'{member.name}': {told}; found {names.quoted(sorted(found))}.", hint=_EXPECTED)
    files = {name: ArrayFile(found[name], kind="npy") for name in {n for pair in wanted.values() for n in pair}}
    pairs = {name: Pair(files[pair[0]], files[pair[1]]) for name, pair in wanted.items()}
    more = found.get(NPZ_UNLABELLED)
    extra = ArrayFile(more, kind="npy") if more else None
    unused = {*found} - {*files} - ({NPZ_UNLABELLED} if extra else set())
    notes = (f"Arrays of other names were left out: {names.quoted(sorted(unused))}.",) if unused else ()
    return _plan(pairs, format_="npz", spec=spec, notes=notes, unlabelled=extra)


def _idx_pairs(images: Sequence[ArrayFile], labels: Sequence[ArrayFile]) -> dict[str, Pair]:
    by_split = [{_split(file): file for file in files} for files in (images, labels)]
    if all(len(found) == len(images) for found in by_split) and {*by_split[0]} == {*by_split[1]}:
        if len(images) == 1:
            return {"train": Pair(images[0], labels[0])} if None in by_split[0] else _named(by_split[0], by_split[1])
        if None not in by_split[0]:
            return _named(by_split[0], by_split[1])
    by_count = {file.header.shape[0]: file for file in labels}
    if len(images) > 2 or len(by_count) != len(labels) or {*by_count} != {file.header.shape[0] for file in images}:
        raise UnreadableData(
            f"Which of {names.quoted(file.name for file in (*images, *labels))} belong together cannot be told.",
            hint="Name them train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and so on.",
        )
    ordered = sorted(images, key=lambda file: -file.header.shape[0])
    splits = ("train", "test")
    return {split: Pair(file, by_count[file.header.shape[0]]) for split, file in zip(splits, ordered, strict=False)}


def _named(images: dict[str | None, ArrayFile], labels: dict[str | None, ArrayFile]) -> dict[str, Pair]:
    return {split: Pair(images[split], labels[split]) for split in SPLIT_NAMES if split in images}


def _split(file: ArrayFile) -> str | None:
    name = file.member.name.lower()
    return "test" if "t10k" in name else split_within(name)


def _plan(
    pairs: dict[str, Pair],
    *,
    format_: str,
    spec: DatasetImport,
    notes: Sequence[str],
    unlabelled: ArrayFile | None = None,
) -> Plan:
    headers = [pair.images.header for pair in pairs.values()]
    channels = {_channels(file.header, name=file.name) for file in _images(pairs, unlabelled)}
    shapes = {header.shape[1:] for header in headers}
    if len(channels) > 1 or len(shapes) > 1:
        raise UnreadableData(
            f"The splits differ in channels, height or width: {names.quoted(sorted(map(str, shapes)))}.",
            hint="Bring all to one shape; the files may belong to different data sets.",
        )
    for pair in pairs.values():
        counts = [file.header.shape[0] for file in (pair.images, pair.labels)]
        if counts[0] != counts[1]:
            raise UnreadableData(
                f"'{pair.images.name}' holds {counts[0]:,} images and '{pair.labels.name}' {counts[1]:,} labels.",
                hint="The two belong to different data sets, or one of them is cut; fetch both again.",
            )
    own = channels.pop()
    asked = spec.channels or own
    more = (f"Images of {own} channels were brought to {asked}.",) if asked != own else ()

    def fill(gathering: Gathering) -> None:
        for split in SPLIT_NAMES:
            if split in pairs:
                _fill(gathering, pairs[split].images, label_values(pairs[split].labels), split=split, channels=asked)
        if unlabelled is not None:
            _fill(gathering, unlabelled, None, split="unlabelled", channels=asked)

    total = sum(file.header.shape[0] for file in _images(pairs, unlabelled))
    return Plan("image-classification", format_, fill, asked, total, (*notes, *more))  # type: ignore[arg-type]


def _images(pairs: dict[str, Pair], unlabelled: ArrayFile | None) -> list[ArrayFile]:
    return [*(pair.images for pair in pairs.values()), *([unlabelled] if unlabelled else [])]


def _channels(header: Header, *, name: str) -> int:
    last = channels_last(header.shape, name=name)
    return 1 if len(header.shape) == 3 else header.shape[3 if last else 1]


def _fill(gathering: Gathering, file: ArrayFile, labels: Sequence[int] | None, *, split: str, channels: int) -> None:
    from engine.intake.shaping import shaped  # Pillow, which text has no need of

    scaled = 0
    for number, image in enumerate(pictures(file)):
        plain, smaller = shaped(image, channels=channels, short_side=gathering.spec.short_side)
        scaled += smaller
        label = None if labels is None else int(labels[number])
        gathering.add_image(plain, name=f"{file.name}[{number}]", label=label, split=split)
    if scaled:
        gathering.notes.append(
            f"{scaled:,} images of '{file.name}' were scaled down: short side {gathering.spec.short_side} pixels."
        )
