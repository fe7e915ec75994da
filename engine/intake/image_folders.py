"""Folders of images, on a disk or in archives: one folder per class, optionally below one per split.

Several sources are one data set: `cifar10_train.zip` and `cifar10_test.zip`, say. Images below `unlabelled` need no
class. What lies beside the folders (a README, a list of files) is left out, and said.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distillery.errors import HostileFile, UnreadableData
from distillery.sniff import ARCHIVES, IMAGES, PROGRAMS, describe, sniff
from distillery.spec.imports import DatasetImport
from distillery.zip_directory import MOST_END_BYTES, ends_as_zip
from engine.intake import names, pixels
from engine.intake.decoding import Decoders, Picture, Task
from engine.intake.gathering import Gathering, Plan
from engine.intake.members import Member
from engine.intake.sources import SPLIT_NAMES, Source, refuse, split_of, split_within

_BESIDE = (".txt", ".md", ".rst", ".json", ".csv", ".tsv", ".html", ".htm", ".pdf", ".xml", ".yaml", ".yml", ".mat", "")
"""Endings of files that may lie beside the class folders and say something about them."""
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp")
_PROBED = 1_000
_LONGEST_CLASS = 200
_ORDER = tuple(SPLIT_NAMES)


@dataclass(frozen=True, slots=True)
class Placed:
    """An image, and what its folders say of it."""

    split: str
    label: str | None
    member: Member


def plan(sources: Sequence[Source], *, spec: DatasetImport, decoders: Decoders) -> Plan:
    """Find the images of all sources; they are decoded when the plan is carried out, while `decoders` still live.

    Raises:
        UnreadableData: the folders are not those of classes, or the splits do not fit each other.
        HostileFile: as the archives' readers.
    """
    notes: list[str] = []
    placed: list[Placed] = []
    for source in sources:
        found, beside = _placed(source, several=len(sources) > 1)
        placed.extend(found)
        if beside:
            notes.append(f"Left out, because they are in no class folder: {names.quoted(beside)} of '{source.named}'.")
    placed.sort(key=lambda each: (_ORDER.index(each.split), each.label or "", each.member.parts))
    _check_classes(placed)
    channels = spec.channels or _channels_of_most(placed, decoders=decoders)

    def fill(gathering: Gathering) -> None:
        _decode(placed, gathering=gathering, decoders=decoders, task=Task(channels, spec.short_side))

    return Plan("image-classification", "image_folder", fill, channels, len(placed), tuple(notes))


def _placed(source: Source, *, several: bool) -> tuple[list[Placed], list[str]]:
    """The images of one source with split and class, and the names of what lies beside them."""
    depth = _common_depth(source.members)
    firsts = {member.parts[depth].lower() for member in source.members if len(member.parts) > depth + 1}
    with_splits = any(split_of(first) == "train" for first in firsts) or (
        bool(firsts) and all(split_of(first) is not None for first in firsts)
    )
    whole = (split_within(source.named) if several else None) or "train"
    found: list[Placed] = []
    beside: list[str] = []
    spelt: dict[str, str] = {}
    for member in source.members:
        folders = member.parts[depth:-1]
        split, classes = whole, folders
        if folders and (with_splits or split_of(folders[0]) == "unlabelled"):
            split, classes = _split(folders[0], spelt=spelt, source=source), folders[1:]
        if split == "unlabelled":
            found.append(Placed(split, None, member))
        elif len(classes) == 1:
            found.append(Placed(split, classes[0], member))
        elif not classes and _may_lie_beside(member):
            beside.append(member.name)
        else:
            raise _misplaced(member, source=source)
    return found, beside


def _split(folder: str, *, spelt: dict[str, str], source: Source) -> str:
    split = split_of(folder)
    if split is None:
        raise UnreadableData(
            f"'{source.named}' holds the folder '{names.shown(folder)}' beside those of splits.",
            hint="Put every class folder below 'train', 'validation' or 'test'.",
        )
    if spelt.setdefault(split, folder) != folder:
        raise UnreadableData(
            f"'{source.named}' holds both '{names.shown(spelt[split])}' and '{names.shown(folder)}'.",
            hint="Keep one of the two.",
        )
    return split


def _common_depth(members: Sequence[Member]) -> int:
    """How many folders all images share that are neither a split nor a class."""
    images = [member for member in members if not _may_lie_beside(member)] or list(members)
    depth = 0
    while len({member.parts[depth] for member in images}) == 1 and (
        split_of(images[0].parts[depth]) is None and min(len(member.parts) for member in images) >= depth + 3
    ):
        depth += 1
    return depth


def _may_lie_beside(member: Member) -> bool:
    name = member.parts[-1].lower()
    return (f".{name.rpartition('.')[2]}" if "." in name else "") in _BESIDE


def _misplaced(member: Member, *, source: Source) -> UnreadableData:
    if member.parts[-1].lower().endswith(_SUFFIXES) and len(member.parts) < 2:
        detail = f"'{member.name}' of '{source.named}' lies in no class folder"
    else:
        detail = f"'{member.name}' of '{source.named}' does not lie in one folder per class"
    return UnreadableData(
        f"{detail}.",
        hint="Put each image into a folder named after its class, and those below 'train', 'validation' and 'test' or "
        "side by side. Images without a class go below 'unlabelled'.",
    )


def _check_classes(placed: Sequence[Placed]) -> None:
    labels: dict[str, set[str]] = {split: set() for split in _ORDER}
    for each in placed:
        if each.label is not None:
            labels[each.split].add(each.label)
            if len(each.label) > _LONGEST_CLASS:
                raise UnreadableData(
                    f"The class '{names.shown(each.label)}' has a name of more than {_LONGEST_CLASS} characters.",
                    hint="Rename its folder.",
                )
    for split in ("validation", "test"):
        strange = labels[split] - labels["train"]
        if strange and labels["train"]:
            raise UnreadableData(
                f"The {split} split holds classes that the training split does not: {names.quoted(sorted(strange))}.",
                hint="Every class needs training images under the same name.",
            )


def _channels_of_most(placed: Sequence[Placed], *, decoders: Decoders) -> int:
    """1 or 3: what most of some images have, evenly chosen among all."""
    chosen = placed[:: max(1, len(placed) // _PROBED)]
    found = [answer for answer in decoders.map(_contents(chosen), Task(None, 0)) if isinstance(answer, int)]
    return 1 if found.count(1) > found.count(3) else 3


def _contents(placed: Sequence[Placed]) -> Iterator[bytes | str]:
    """The content of each file, or why there is none to decode.

    Raises:
        HostileFile: one is an archive or a program, or has an archive behind it.
    """
    for each in placed:
        try:
            content = each.member.read(most=pixels.MOST_FILE_BYTES)
        except HostileFile:
            raise
        except UnreadableData as error:
            yield error.detail.removeprefix(f"'{each.member.name}' ").rstrip(".")
            continue
        kind = sniff(content)
        if kind in ARCHIVES or kind in PROGRAMS:
            refuse(kind, name=each.member.name)
        if kind in IMAGES and ends_as_zip(content[-MOST_END_BYTES:], size=len(content)):
            raise HostileFile(
                f"'{names.shown(each.member.name)}' is an image and an archive in one.", hint="Save the image again."
            )
        yield content if kind in IMAGES else f"is {describe(kind)}, not a JPEG, PNG or WebP image"


def _decode(placed: Sequence[Placed], *, gathering: Gathering, decoders: Decoders, task: Task) -> None:
    scaled = 0
    for each, answer in zip(placed, decoders.map(_contents(placed), task), strict=True):
        if isinstance(answer, Picture):
            scaled += answer.scaled
            gathering.add_image(answer.pixels, name=each.member.name, label=each.label, split=each.split)
        else:
            gathering.add_broken(each.member.name, str(answer))
    if scaled:
        gathering.notes.append(
            f"{scaled:,} images were scaled down to a short side of {task.short_side} pixels (bilinear with reducing)."
        )
