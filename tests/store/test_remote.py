"""Data that users keep in S3 themselves, brought to a worker's disk."""

from pathlib import Path
from typing import Any

import pytest

from distillery.errors import InvalidRequest, NotFound, Unavailable, UnreadableData
from store import remote
from worker import sources


def test_a_file_is_brought(bucket: Any, tmp_path: Path) -> None:
    bucket.write("data/flowers.zip", b"petals")
    assert remote.bring(f"s3://{bucket.name}/data/flowers.zip", to=tmp_path / "here").read_bytes() == b"petals"


def test_a_folder_is_brought_with_its_names(bucket: Any, tmp_path: Path) -> None:
    bucket.write("flowers/train/rose/1.png", b"r")
    bucket.write("flowers/train/tulip/1.png", b"t")
    folder = remote.bring(f"s3://{bucket.name}/flowers/", to=tmp_path / "here")
    assert (folder / "train" / "tulip" / "1.png").read_bytes() == b"t"
    assert len([each for each in folder.rglob("*") if each.is_file()]) == 2


@pytest.mark.parametrize("name", ["flowers/../../out.png", "flowers//out.png", "flowers/./out.png"])
def test_a_name_that_leads_elsewhere_is_refused(bucket: Any, tmp_path: Path, name: str) -> None:
    bucket.write(name, b"x")
    with pytest.raises((InvalidRequest, NotFound, Unavailable)):
        remote.bring(f"s3://{bucket.name}/flowers", to=tmp_path / "here")
    assert not (tmp_path / "out.png").exists()


def test_what_is_not_there_is_said(bucket: Any, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="nothing at"):
        remote.bring(f"s3://{bucket.name}/flowers.zip", to=tmp_path / "here")
    with pytest.raises(InvalidRequest, match="no file or folder"):
        remote.bring("s3://", to=tmp_path / "here")


def test_an_operator_names_the_buckets(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.write("open/a.csv", b"text,label\n")
    address = f"s3://{bucket.name}/open/a.csv"
    monkeypatch.setenv("DISTILLERY_DATA_ROOTS", "/data")
    with pytest.raises(UnreadableData, match="lies outside"):
        sources.from_path(address, folder=tmp_path)
    monkeypatch.setenv("DISTILLERY_DATA_BUCKETS", f"s3://{bucket.name}/closed/, s3://{bucket.name}/open/")
    ((path, name),) = sources.from_path(address, folder=tmp_path)
    assert (path.read_bytes(), name) == (b"text,label\n", "a.csv")


def test_a_path_outside_the_operators_folders_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "closed.zip").write_bytes(b"x")
    monkeypatch.setenv("DISTILLERY_DATA_ROOTS", str(tmp_path / "open"))
    with pytest.raises(UnreadableData) as caught:
        sources.from_path(str(tmp_path / "open" / ".." / "closed.zip"), folder=tmp_path)
    assert caught.value.pointer == "/path"
    with pytest.raises(UnreadableData, match="there is nothing"):
        sources.from_path(str(tmp_path / "open" / "no.zip"), folder=tmp_path)
