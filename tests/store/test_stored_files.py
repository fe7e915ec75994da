"""Checkpoints and artifacts as the database knows them."""

from typing import Any

import pytest

from distillery.errors import NotFound
from store import files, leases, outbox


def to_delete(shop: Any) -> list[str]:
    rows = shop.do(outbox.due, kinds=["delete"], limit=100)
    assert all(row.kind == "delete" for row in rows)
    return [row.payload["key"] for row in rows]


def test_only_the_newest_checkpoints_stay(shop: Any) -> None:
    claim = shop.claimed(training={"keep": 2})
    saved = [shop.save(claim, step) for step in (10, 20, 30, 40)]
    seen = shop.see(files.checkpoints, claim.id)
    assert [each.id for each in seen] == [saved[3].id, saved[2].id]
    assert shop.job(claim.id).checkpoint_id == saved[3].id
    assert to_delete(shop) == [saved[0].key, saved[1].key]
    with pytest.raises(NotFound, match="has no checkpoint"):
        shop.see(files.checkpoint, claim.id, saved[0].id)


def test_the_checkpoints_of_all_attempts_count(shop: Any) -> None:
    claim = shop.claimed(training={"keep": 2})
    shop.save(claim, 10)
    kept = shop.save(claim, 20)
    shop.do(leases.release, claim)
    again = shop.claim(claim.id)
    newest = shop.save(again, 15)  # the newest by commit, though not by step: 20 was damaged
    assert [each.id for each in shop.see(files.checkpoints, claim.id)] == [newest.id, kept.id]
    assert [each.attempt for each in shop.see(files.checkpoints, claim.id)] == [2, 1]


def test_a_checkpoint_said_again_is_the_same_one(shop: Any) -> None:
    claim = shop.claimed()
    first = shop.save(claim, 10)
    again = shop.save(claim, 10, sha256="ef" * 32, phase="baseline")
    assert again.id == first.id
    (seen,) = shop.see(files.checkpoints, claim.id)
    assert (seen.sha256, seen.phase) == ("ef" * 32, "baseline")
    assert to_delete(shop) == []


def test_a_checkpoint_tells_where_it_lies(shop: Any) -> None:
    claim = shop.claimed()
    saved = shop.save(claim, 10)
    seen = shop.see(files.checkpoint, claim.id, saved.id)
    assert (seen.step, seen.attempt, seen.size_bytes, seen.phase) == (10, 1, 10, "training")
    assert seen.url == f"/v1/jobs/{claim.id}/checkpoints/{saved.id}/content"
    assert shop.see(files.checkpoint_key, claim.id, saved.id) == saved.key


def test_a_checkpoint_of_another_job_is_not_found(shop: Any) -> None:
    one, other = shop.claimed(), shop.claimed()
    saved = shop.save(one, 10)
    for job_id, checkpoint_id in ((other.id, saved.id), (one.id, "ckp_none"), ("job_none", saved.id), (one.id, "\x00")):
        with pytest.raises(NotFound):
            shop.see(files.checkpoint_key, job_id, checkpoint_id)


def test_saving_never_moves_the_job_back(shop: Any) -> None:
    claim = shop.claimed()
    shop.do(leases.beat, claim, lease_seconds=60, step=50)
    shop.save(claim, 40)
    assert [row.step for row in shop.sql("SELECT step FROM jobs")] == [50]
    shop.save(claim, 60)
    assert [row.step for row in shop.sql("SELECT step FROM jobs")] == [60]


def test_artifacts_are_listed_by_name(shop: Any) -> None:
    claim = shop.claimed()
    for name in ("student.safetensors", "report.json"):
        shop.deliver(claim, name)
    assert [each.name for each in shop.see(files.artifacts, claim.id)] == ["report.json", "student.safetensors"]
    seen = shop.see(files.artifact, claim.id, "report.json")
    assert seen.url == f"/v1/jobs/{claim.id}/artifacts/report.json"
    assert shop.see(files.artifact_key, claim.id, "report.json") == f"jobs/{claim.id}/a1/report.json"


def test_a_later_attempt_replaces_an_artifact_and_its_file(shop: Any) -> None:
    claim = shop.claimed()
    shop.deliver(claim)
    shop.do(leases.release, claim)
    shop.deliver(shop.claim(claim.id), sha256="ef" * 32)
    (seen,) = shop.see(files.artifacts, claim.id)
    assert seen.sha256 == "ef" * 32
    assert to_delete(shop) == [f"jobs/{claim.id}/a1/student.safetensors"]


def test_what_was_not_delivered_is_not_found(shop: Any) -> None:
    claim = shop.claimed()
    with pytest.raises(NotFound, match=r"has delivered no file 'student\.onnx'"):
        shop.see(files.artifact, claim.id, "student.onnx")
    for view in (files.artifacts, files.checkpoints):
        with pytest.raises(NotFound, match="There is no job"):
            shop.see(view, "job_that_never_was")
