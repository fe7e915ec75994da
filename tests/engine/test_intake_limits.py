"""The bounds of an import hold for whatever it is read from; they are lowered here so that small files reach them."""

import gzip
import tarfile
import zipfile
from pathlib import Path

import pytest

from distillery.errors import DistilleryError, HostileFile, UnreadableData
from distillery.spec.imports import DatasetImport
from engine.intake.limits import Limits
from engine.intake.reading import read
from engine.intake.sources import Given

_CONTENT = b"".join(b"text number %d of many,%d\n" % (number, number % 2) for number in range(3_000))


def _given(tmp_path: Path, form: str) -> Path:
    plain = tmp_path / "train.csv"
    plain.write_bytes(b"text,label\n" + _CONTENT)
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(plain, "train.csv")
            archive.writestr("README.txt", "Texts.")
        return tmp_path / "a.zip"
    if form == "tar":
        with tarfile.open(tmp_path / "a.tgz", "w:gz") as archive:
            archive.add(plain, "train.csv")
            archive.add(plain, "README.txt")
        return tmp_path / "a.tgz"
    if form == "gzip":
        (tmp_path / "train.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
        return tmp_path / "train.csv.gz"
    (tmp_path / "folder").mkdir()
    plain.rename(tmp_path / "folder" / "train.csv")
    (tmp_path / "folder" / "README.txt").write_text("Texts.")
    return tmp_path / "folder"


def refused(tmp_path: Path, path: Path, limits: Limits) -> DistilleryError:
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(DistilleryError) as caught:
        read(DatasetImport(name="x", path="x"), given=[Given(path, path.name)], out=out, limits=limits)
    assert list(out.iterdir()) == []
    return caught.value


@pytest.mark.parametrize("form", ["zip", "tar", "gzip", "folder"])
def test_without_lowered_limits_it_is_read(tmp_path: Path, form: str) -> None:
    (tmp_path / "out").mkdir()
    given = [Given(_given(tmp_path, form), "data")]
    assert sum(read(DatasetImport(name="x", path="x"), given=given, out=tmp_path / "out").splits.values()) == 3_000


@pytest.mark.parametrize("form", ["zip", "tar", "gzip", "folder"])
def test_the_total_is_counted_on_the_bytes_that_come_out(tmp_path: Path, form: str) -> None:
    error = refused(tmp_path, _given(tmp_path, form), Limits(total_bytes=40_000))
    assert isinstance(error, HostileFile) and "unpack to more than" in error.detail


@pytest.mark.parametrize("form", ["zip", "tar", "gzip"])
def test_what_swells_too_much_is_refused(tmp_path: Path, form: str) -> None:
    error = refused(tmp_path, _given(tmp_path, form), Limits(overall_ratio=2, overall_from_bytes=10_000))
    assert isinstance(error, HostileFile) and "2 times their size" in error.detail


def test_a_member_that_swells_too_much_is_refused(tmp_path: Path) -> None:
    error = refused(tmp_path, _given(tmp_path, "zip"), Limits(member_ratio=2, member_from_bytes=10_000))
    assert isinstance(error, HostileFile) and "'train.csv' unpacks to more than 2 times" in error.detail


@pytest.mark.parametrize("form", ["zip", "tar", "folder"])
def test_entries_are_counted(tmp_path: Path, form: str) -> None:
    error = refused(tmp_path, _given(tmp_path, form), Limits(entries=1))
    assert (isinstance(error, HostileFile) and "more than 1" in error.detail) or "at most 1" in error.detail


def test_the_time_is_bounded(tmp_path: Path) -> None:
    error = refused(tmp_path, _given(tmp_path, "gzip"), Limits(seconds=0))
    assert type(error) is UnreadableData and "Reading took longer" in error.detail
