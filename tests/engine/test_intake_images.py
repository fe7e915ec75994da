"""Image folders from strangers: the pixels are those of the plain reader, whatever the folder came in."""

import io
import os
import signal
import socket
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from distillery.errors import HostileFile, UnreadableData
from distillery.spec.imports import DatasetImport
from distillery.views import DatasetFacts
from engine.data import image_folder
from engine.data.packed import Packed, open_packed
from engine.intake import guard
from engine.intake.decoding import Decoders, Picture, Task
from engine.intake.pixels import decoded
from engine.intake.reading import PACKED, read
from engine.intake.sources import Given

_RANDOM = np.random.default_rng(0)


def picture(number: int, *, size: tuple[int, int] = (9, 7), kind: str = "PNG", mode: str = "RGB") -> bytes:
    """A picture of random pixels, different for each number."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels, mode=None).save(held, kind)
    return held.getvalue()


def folder(*splits: str, count: int = 5) -> dict[str, bytes]:
    """Members of a folder of two classes below each split; without splits, side by side."""
    names = [
        f"{split}{label}/{each}.png" for split in (splits or ("",)) for label in ("cat", "dog") for each in range(count)
    ]
    return {name: picture(number) for number, name in enumerate(names)}


def zipped(path: Path, members: dict[str, bytes], *, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def tarred(path: Path, members: dict[str, bytes], *, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]  # of several kinds
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def spread(path: Path, members: dict[str, bytes]) -> Path:
    for name, content in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def imported(tmp_path: Path, *paths: Path, named: str = "", **fields: object) -> tuple[DatasetFacts, Packed]:
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    spec = DatasetImport(name="x", path="x", **fields)  # type: ignore[arg-type]  # varied by the tests
    facts = read(spec, given=[Given(path, named or path.name) for path in paths], out=out)
    return facts, open_packed(out / PACKED)


def test_cifar10_has_the_pixels_of_the_plain_reader(tmp_path: Path, data_root: Callable[[str], Path]) -> None:
    with zipfile.ZipFile(data_root("cifar10") / "cifar10_test.zip") as archive:
        chosen = [name for name in archive.namelist() if name.endswith(("00.webp", "50.webp"))]
        members = {name: archive.read(name) for name in chosen}
    facts, packed = imported(tmp_path, zipped(tmp_path / "cifar10_test.zip", members))
    assert (facts.channels, facts.height, facts.width) == (3, 32, 32)
    assert len(facts.classes) == 10 and sum(facts.splits.values()) == len(members) == 200
    for row in range(len(packed)):
        file = tmp_path / "one.webp"
        file.write_bytes(members[packed.name(row)])
        assert np.array_equal(packed.image(row), image_folder.decoded(file, channels=3).numpy())
        assert facts.classes[packed.labels[row]] == packed.name(row).split("/")[1]


def _of_modes() -> Iterator[tuple[str, Image.Image, str]]:
    grey = _RANDOM.integers(0, 2**16, (6, 5), dtype=np.uint16)
    rgb = Image.fromarray(_RANDOM.integers(0, 256, (6, 5, 3), dtype=np.uint8))
    yield "16-bit grey", Image.fromarray(grey), "PNG"
    yield "grey", rgb.convert("L"), "PNG"
    yield "grey with transparency", rgb.convert("LA"), "PNG"
    yield "black and white", rgb.convert("1"), "PNG"
    yield "palette", rgb.convert("P"), "PNG"
    yield "transparency", rgb.convert("RGBA"), "PNG"
    yield "transparent webp", rgb.convert("RGBA"), "WEBP"
    yield "print colours", rgb.convert("CMYK"), "JPEG"
    yield "jpeg", rgb, "JPEG"


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("image", "kind"), [pytest.param(image, kind, id=name) for name, image, kind in _of_modes()])
def test_every_mode_is_read_as_the_plain_reader_does(
    tmp_path: Path, image: Image.Image, kind: str, channels: int
) -> None:
    file = tmp_path / f"one.{kind.lower()}"
    image.save(file, kind)
    expected = image_folder.decoded(file, channels=channels).numpy()
    assert np.array_equal(decoded(file.read_bytes(), channels=channels, short_side=64)[0], expected)


def test_a_palette_with_transparency_is_read_as_the_plain_reader_does(tmp_path: Path) -> None:
    image = Image.fromarray(_RANDOM.integers(0, 256, (6, 5, 3), dtype=np.uint8)).convert("P")
    image.save(tmp_path / "one.png", transparency=bytes(range(200)))
    content = (tmp_path / "one.png").read_bytes()
    expected = image_folder.decoded(tmp_path / "one.png", channels=3).numpy()
    assert np.array_equal(decoded(content, channels=3, short_side=64)[0], expected)


def test_orientation_tags_are_ignored(tmp_path: Path) -> None:
    image = Image.fromarray(_RANDOM.integers(0, 256, (6, 4, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    held = io.BytesIO()
    image.save(held, "JPEG", exif=exif)
    assert decoded(held.getvalue(), channels=3, short_side=64)[0].shape == (3, 6, 4)


def test_the_packed_file_is_the_same_whatever_the_folder_came_in(tmp_path: Path) -> None:
    members = folder("train/", "test/")
    shuffled = dict(reversed(list(members.items())))
    made = [
        zipped(tmp_path / "a.zip", members),
        zipped(tmp_path / "b.zip", shuffled, method=zipfile.ZIP_DEFLATED),
        tarred(tmp_path / "a.tar", members),
        tarred(tmp_path / "a.tgz", shuffled, mode="w:gz"),
        tarred(tmp_path / "a.txz", members, mode="w:xz"),
        tarred(tmp_path / "a.tbz", members, mode="w:bz2"),
        spread(tmp_path / "folder", members),
    ]
    assert len({imported(tmp_path, path)[0].sha256 for path in made}) == 1


def test_the_packed_file_is_that_of_any_number_of_processes() -> None:
    files = [picture(number) for number in range(150)] + [b"broken"] + [picture(number) for number in range(60)]
    answers = []
    for processes in (1, 2, 3):
        with Decoders(processes=processes) as decoders:
            found = decoders.map(files, Task(3, 64))
            answers.append([each.pixels.tobytes() if isinstance(each, Picture) else each for each in found])
    assert answers[0] == answers[1] == answers[2]
    assert isinstance(answers[0][150], str)


def test_a_decoder_that_dies_costs_one_image_and_another_goes_on() -> None:
    def files(decoders: Decoders) -> Iterator[bytes]:
        for number in range(300):
            child = decoders._children[0]
            if number == 200 and child is not None:
                os.kill(child.pid, signal.SIGKILL)
            yield picture(number)

    with Decoders(processes=2) as decoders:
        answers = list(decoders.map(files(decoders), Task(3, 64)))
    lost = [number for number, answer in enumerate(answers) if isinstance(answer, str)]
    assert len(answers) == 300 and len(lost) <= 1
    assert all(
        isinstance(answer, str) or np.array_equal(answer.pixels, decoded(picture(number), channels=3, short_side=64)[0])
        for number, answer in enumerate(answers)
        if not isinstance(answer, int)
    )


def test_a_child_that_crashes_or_never_ends_is_told_and_buried(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(channel: socket.socket) -> None:
        guard.receive(channel)
        os.kill(os.getpid(), signal.SIGSEGV)

    def work_for_ever(channel: socket.socket) -> None:
        guard.receive(channel)
        guard.on_cpu_for(0.1)
        while True:
            pass

    def sleep_for_ever(channel: socket.socket) -> None:
        signal.pause()

    deaths = ((crash, "crash", 60.0), (work_for_ever, "took more than", 60.0), (sleep_for_ever, "took too long", 0.5))
    for work, reason, patience in deaths:
        monkeypatch.setattr(guard, "WALL_SECONDS", patience)
        child = guard.Child(work, memory_bytes=1 << 28)
        child.send(b"read this")
        with pytest.raises(guard.ChildGone, match=reason):
            child.receive()
        child.close()
        with pytest.raises(ProcessLookupError):
            os.kill(child.pid, 0)


def test_a_child_can_write_no_file_open_no_descriptor_of_ours_and_take_little_memory(tmp_path: Path) -> None:
    ours = os.open(tmp_path / "ours", os.O_CREAT | os.O_WRONLY)

    def try_it(channel: socket.socket) -> None:
        guard.receive(channel)
        told = []
        for deed in (
            lambda: os.write(ours, b"x"),
            lambda: (tmp_path / "new").write_bytes(b"x"),
            lambda: bytearray(1 << 30),
        ):
            try:
                deed()
            except (OSError, MemoryError) as error:
                told.append(type(error).__name__)
            else:
                told.append("done")
        guard.send(channel, " ".join(told).encode())

    child = guard.Child(try_it, memory_bytes=1 << 28)
    child.send(b"try")
    assert child.receive().decode() == "OSError OSError MemoryError"
    child.close()
    os.close(ours)


@pytest.mark.parametrize(
    ("splits", "expected"),
    [
        (("train/", "val/", "test/"), {"train": 10, "validation": 10, "test": 10, "unlabelled": 0}),
        (("Train/", "valid/", "Test/"), {"train": 10, "validation": 10, "test": 10, "unlabelled": 0}),
        (("train/", "dev/"), {"train": 8, "validation": 10, "test": 2, "unlabelled": 0}),
        (("pets/train/", "pets/test/"), {"train": 8, "validation": 2, "test": 10, "unlabelled": 0}),
        ((), {"train": 6, "validation": 2, "test": 2, "unlabelled": 0}),
        (("pets/",), {"train": 6, "validation": 2, "test": 2, "unlabelled": 0}),
    ],
)
def test_splits_are_recognised_or_drawn(tmp_path: Path, splits: tuple[str, ...], expected: dict[str, int]) -> None:
    facts, packed = imported(tmp_path, zipped(tmp_path / "pets.zip", folder(*splits)))
    assert facts.splits == expected
    assert facts.classes == ("cat", "dog")
    drawn = [note for note in facts.notes if "drawn with split_seed 0" in note]
    assert len(drawn) == sum(0 < expected[name] < 10 for name in ("validation", "test"))
    assert {int(label) for label in packed.labels[packed.rows("test")]} == {0, 1}


def test_several_archives_are_one_data_set_and_may_be_named_after_their_split(tmp_path: Path) -> None:
    train = zipped(tmp_path / "pets_train.zip", folder("train/"))
    test = zipped(tmp_path / "pets_test.zip", folder("test/"))
    assert imported(tmp_path, train, test)[0].splits == {"train": 8, "validation": 2, "test": 10, "unlabelled": 0}
    bare = [zipped(tmp_path / f"pets-{split}.zip", folder()) for split in ("train", "test")]
    assert imported(tmp_path, *bare)[0].splits == {"train": 8, "validation": 2, "test": 10, "unlabelled": 0}
    (tmp_path / "both").mkdir()
    for path in (train, test):
        path.rename(tmp_path / "both" / path.name)
    (tmp_path / "both" / "README.txt").write_text("Two archives.")
    assert imported(tmp_path, tmp_path / "both")[0].splits["test"] == 10


def test_images_below_unlabelled_need_no_class(tmp_path: Path) -> None:
    more = {f"unlabelled/deep/{number}.png": picture(90 + number) for number in range(3)}
    facts, packed = imported(tmp_path, zipped(tmp_path / "pets.zip", folder("train/") | more))
    assert facts.splits["unlabelled"] == 3
    assert set(packed.labels[packed.rows("unlabelled")].tolist()) == {-1}
    facts, _ = imported(tmp_path, zipped(tmp_path / "alone.zip", more))
    assert facts.splits == {"train": 0, "validation": 0, "test": 0, "unlabelled": 3}
    assert facts.classes == ()


def test_large_images_are_scaled_and_small_ones_kept(tmp_path: Path) -> None:
    members = folder() | {
        "cat/large.png": picture(50, size=(40, 60)),
        "dog/wide.jpg": picture(51, size=(90, 31), kind="JPEG"),
    }
    facts, packed = imported(tmp_path, zipped(tmp_path / "pets.zip", members), short_side=8)
    sizes = {packed.name(row): tuple(packed.sizes[row].tolist()) for row in range(len(packed))}
    assert sizes["cat/large.png"] == (12, 8) and sizes["dog/wide.jpg"] == (8, 23)
    assert sizes["cat/0.png"] == (7, 9)
    assert any("2 images were scaled down to a short side of 8 pixels" in note for note in facts.notes)
    assert (facts.height, facts.width) == (None, None)


def test_channels_are_those_of_most_images_or_as_asked(tmp_path: Path) -> None:
    grey = {f"cat/g{number}.png": picture(number, mode="L") for number in range(4)}
    grey |= {f"dog/g{number}.png": picture(number + 7, mode="L") for number in range(4)}
    path = zipped(tmp_path / "grey.zip", {**grey, "cat/colour.png": picture(40)})
    assert imported(tmp_path, path)[0].channels == 1
    assert imported(tmp_path, path, channels=3)[0].channels == 3
    assert imported(tmp_path, zipped(tmp_path / "pets.zip", folder()))[0].channels == 3


def test_broken_images_end_the_import_or_are_left_out_and_listed(tmp_path: Path) -> None:
    broken = {f"cat/broken-{number:03}.png": picture(number)[:40] for number in range(120)}
    path = zipped(tmp_path / "pets.zip", folder() | broken)
    with pytest.raises(UnreadableData, match=r"'cat/broken-000.png': is not a whole .*119 more are broken") as caught:
        imported(tmp_path, path)
    assert "on_error: skip" in caught.value.hint and caught.value.pointer == "/on_error"
    assert not (tmp_path / "out" / PACKED).exists()
    facts, packed = imported(tmp_path, path, on_error="skip")
    assert (facts.broken_count, len(facts.broken), len(packed)) == (120, 100, 10)
    assert facts.broken[0].member == "cat/broken-000.png" and "not a whole" in facts.broken[0].reason


def test_clutter_and_files_beside_the_folders_are_left_out_and_said(tmp_path: Path) -> None:
    beside = {"README.md": b"Pets.", "train/labels.csv": b"a,b"}
    more = beside | dict.fromkeys(("__MACOSX/train/cat/._0.png", "train/cat/.DS_Store", "train/dog/Thumbs.db"), b"x")
    facts, packed = imported(tmp_path, zipped(tmp_path / "pets.zip", folder("train/") | more))
    assert len(packed) == 10
    assert any("Left out 3 files" in note for note in facts.notes)
    assert any("'README.md', 'train/labels.csv'" in note for note in facts.notes)


def test_a_link_below_a_folder_is_refused(tmp_path: Path) -> None:
    root = spread(tmp_path / "pets", folder())
    (root / "cat" / "secret.png").symlink_to("/etc/passwd")
    with pytest.raises(HostileFile, match="is a link"):
        imported(tmp_path, root)
    (root / "cat" / "secret.png").unlink()
    os.mkfifo(root / "cat" / "pipe.png")
    with pytest.raises(HostileFile, match="is a link, a pipe or a device"):
        imported(tmp_path, root)
