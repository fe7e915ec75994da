"""Submitting jobs and finding them again."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from distillery.errors import InvalidPageToken, InvalidRequest, InvalidSpec, NotFound
from distillery.ids import ID_PATTERN
from distillery.spec import resolve
from store import jobs, leases, outbox


def found(shop: Any, **filters: Any) -> list[str]:
    """Names of the jobs that meet the filters, newest first."""
    return [job.name for job in shop.see(jobs.page, page_size=200, **filters).data]


def test_a_submitted_job_waits(shop: Any) -> None:
    job = shop.submit(name="first", labels={"team": "vision"})
    assert re.fullmatch(ID_PATTERN, job.id)
    assert (job.status, job.name, job.labels, job.attempt) == ("queued", "first", {"team": "vision"}, 0)
    assert (job.queue.name, job.queue.position) == ("default", 1)
    assert abs(datetime.now(UTC) - job.created_at) < timedelta(minutes=5)
    assert job.links.events == f"/v1/jobs/{job.id}/events"
    assert shop.event_types(job.id) == ["queued"]


def test_the_spec_is_kept_as_sent_and_as_resolved(shop: Any) -> None:
    job = shop.job(shop.submit(method={"preset": "kd"}).id)
    assert job.spec.method.preset == "kd" and job.spec.training.seed is None
    assert job.resolved_spec.method.preset is None and job.resolved_spec.training.seed is not None
    assert resolve(job.resolved_spec) == job.resolved_spec


def test_nothing_is_left_of_a_submit_that_fails(shop: Any) -> None:
    job = shop.submit()
    with pytest.raises(ZeroDivisionError), shop.database.transaction() as session:
        jobs.submit(session, sent=job.spec, resolved=job.resolved_spec)
        _ = 1 / 0
    assert [len(shop.sql(f"SELECT * FROM {table}")) for table in ("jobs", "events", "outbox")] == [1, 1, 1]  # noqa: S608


@pytest.mark.parametrize("job_id", ["job_that_never_was", "", "\x00", "job_" + "é" * 400])
def test_no_such_job(shop: Any, job_id: str) -> None:
    with pytest.raises(NotFound, match="There is no job"):
        shop.job(job_id)


def test_text_that_postgres_cannot_hold_is_refused_on_both(shop: Any) -> None:
    with pytest.raises(InvalidSpec, match="NUL"):
        shop.submit(name="a\x00b")


def test_a_teacher_that_is_not_there_is_a_bad_spec(shop: Any) -> None:
    running = shop.claimed()
    for source, pointer in (
        ({"model": "mdl_" + "0" * 26}, "/teacher/model"),
        ({"job": "job_" + "0" * 26}, "/teacher/job"),
        ({"job": running.id}, "/teacher/job"),
    ):
        with pytest.raises(InvalidSpec) as refused:
            shop.submit(teacher={"architecture": "seed_teacher", **source})
        assert [problem.pointer for problem in refused.value.problems] == [pointer]


def test_lists_are_newest_first_and_hold_no_measurements(shop: Any) -> None:
    for name in ("a", "b", "c"):
        shop.submit(name=name)
    assert found(shop) == ["c", "b", "a"]


def test_filters(shop: Any) -> None:
    shop.submit(name="Fashion CNN", labels={"team": "vision", "x.y/z-1": "odd"})
    shop.submit(name="100% resnet_20", student={"architecture": "resnet20"}, labels={"team": "audio"})
    running = shop.claim(shop.submit(name="running", resources={"priority": 99}).id)
    assert found(shop, status="running") == ["running"]
    assert found(shop, status="queued") == ["100% resnet_20", "Fashion CNN"]
    assert found(shop, architecture="resnet20") == ["100% resnet_20"]
    assert len(found(shop, architecture="seed_teacher")) == 3
    assert found(shop, label="team=vision") == ["Fashion CNN"]
    assert found(shop, label="team") == ["100% resnet_20", "Fashion CNN"]
    assert found(shop, label="x.y/z-1=odd") == ["Fashion CNN"]
    assert found(shop, label="team=") == []
    assert found(shop, label='"$.team') == []
    assert len(found(shop, task="image-classification", strategy="offline")) == 3
    assert found(shop, task="text-classification") == []
    assert found(shop, status="running", label="team") == []
    assert shop.job(running.id).status == "running"


@pytest.mark.parametrize(
    ("q", "names"),
    [
        ("fashion", ["Fashion CNN"]),
        ("CNN", ["Fashion CNN"]),
        ("%", ["100% sure"]),
        ("_", ["under_score"]),
        ("/", ["a/b"]),
        ("", ["a/b", "under_score", "100% sure", "Fashion CNN"]),
        ("nothing", []),
        ("\\", []),
    ],
)
def test_part_of_the_name(shop: Any, q: str, names: list[str]) -> None:
    for name in ("Fashion CNN", "100% sure", "under_score", "a/b"):
        shop.submit(name=name)
    assert found(shop, q=q) == names


def taught(*architectures: str) -> list[dict[str, Any]]:
    """Teachers that are trained in the job."""
    return [{"architecture": name, "train": {"epochs": 1}} for name in architectures]


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("resnet20", ["two"]),
        ("wrn40-2", ["two"]),
        ("seed_teacher", ["one"]),
        ("seed_student", ["itself", "one", "two"]),
        ("resnet2", []),
        ("esnet20", []),
        ("resnet%", []),
        ("+", []),
    ],
)
def test_a_job_is_found_by_any_of_its_networks(shop: Any, architecture: str, names: list[str]) -> None:
    shop.submit(name="two", teacher=taught("resnet20", "wrn40-2"))
    shop.submit(name="one")
    shop.submit(name="itself", teacher=None, method={"strategy": "self_distillation"})
    assert sorted(found(shop, architecture=architecture)) == names


def test_a_list_names_all_teachers_however_many(shop: Any) -> None:
    name = "torchvision/shufflenet_v2_x1_5"
    shop.submit(teacher=taught(*[name] * 16))
    shop.submit(teacher=None, method={"strategy": "self_distillation"})
    assert [each.teacher for each in shop.see(jobs.page, page_size=5).data] == ["", " + ".join([name] * 16)]


def test_a_range_of_time(shop: Any) -> None:
    for name, seconds in (("old", 1000), ("middle", 2000), ("new", 3000)):
        shop.sql("UPDATE jobs SET created_at = :at WHERE id = :id", at=seconds, id=shop.submit(name=name).id)

    def at(seconds: int) -> datetime:
        return datetime.fromtimestamp(seconds, UTC)

    assert found(shop, created_after=at(2000)) == ["new", "middle"]
    assert found(shop, created_before=at(2000)) == ["old"]
    assert found(shop, created_after=at(1500), created_before=at(2500)) == ["middle"]
    assert found(shop, created_after=datetime(1970, 1, 1)) == ["new", "middle", "old"]  # noqa: DTZ001 - taken as UTC


def test_pages_hold_every_job_once_while_new_ones_come(shop: Any) -> None:
    names = [f"job {index}" for index in range(7)]
    for name in names:
        shop.submit(name=name)
    shop.sql("UPDATE jobs SET created_at = 1000")  # in the same moment: the id decides
    seen, token = [], None
    while True:
        page = shop.see(jobs.page, page_size=3, token=token)
        seen.extend(job.name for job in page.data)
        shop.submit(name="newcomer")
        token = page.next_page_token
        if token is None:
            break
    assert sorted(seen) == names
    assert len(page.data) == 1


def test_a_page_that_is_just_full_is_the_last(shop: Any) -> None:
    for _ in range(2):
        shop.submit()
    assert shop.see(jobs.page, page_size=2).next_page_token is None
    assert shop.see(jobs.page, page_size=1).next_page_token is not None


def test_a_token_belongs_to_its_filters(shop: Any) -> None:
    for _ in range(3):
        shop.submit()
    token = shop.see(jobs.page, page_size=1, status="queued").next_page_token
    assert len(shop.see(jobs.page, page_size=2, status="queued", token=token).data) == 2
    with pytest.raises(InvalidPageToken):
        shop.see(jobs.page, page_size=1, token=token)
    with pytest.raises(InvalidPageToken):
        shop.see(jobs.page, page_size=1, status="running", token=token)


@pytest.mark.parametrize("size", [0, -1, 201])
def test_impossible_page_sizes_are_refused(shop: Any, size: int) -> None:
    with pytest.raises(InvalidRequest, match="between 1 and 200"):
        shop.see(jobs.page, page_size=size)


def test_a_filter_with_nul_is_refused_on_both(shop: Any) -> None:
    for name in ("q", "label", "architecture"):
        with pytest.raises(InvalidRequest, match=f"'{name}' holds the character NUL"):
            shop.see(jobs.page, page_size=1, **{name: "a\x00"})


def test_a_list_shows_how_far_a_job_is(shop: Any) -> None:
    claim = shop.claimed()
    shop.do(leases.phase, claim, "teaching")
    shop.do(outbox.rehint, older_than_seconds=-1)
    (seen,) = shop.see(jobs.page, page_size=1).data
    assert (seen.status, seen.phase, seen.teacher, seen.student) == (
        "running", "teaching", "seed_teacher", "seed_student",
    )  # fmt: skip
