"""How attempts end, and what becomes of their jobs."""

from typing import Any

import pytest

from distillery.errors import Fenced, WrongState
from distillery.views import Progress
from store import leases, wishes
from store.config import LeaseConfig


def waits(shop: Any, job_id: str) -> float:
    """Seconds between the moment when the job went back to its queue and when it may be claimed."""
    (row,) = shop.sql("SELECT not_before - since AS seconds FROM jobs WHERE id = :id", id=job_id)
    return float(row.seconds)


def test_a_poison_job_ends_after_three_crashes_without_progress(shop: Any) -> None:
    job, seen = shop.submit(), []
    for _ in range(3):
        claim = shop.claim(job.id)
        shop.crash(claim)
        seen.append((shop.job(job.id).status, pytest.approx(waits(shop, job.id), abs=0.1)))
        shop.no_backoff(job.id)
    assert [status for status, _ in seen] == ["queued", "queued", "crashed"]
    assert seen[0][1] == 10 and seen[1][1] == 60
    ended = shop.job(job.id)
    assert ended.error is not None and ended.error.code == "WORKER_CRASH" and ended.error.retryable
    assert "3 crashes in a row" in ended.error.detail and "exit code -9" in ended.error.detail
    assert [each.outcome for each in ended.attempts] == ["crashed"] * 3
    assert [each.exit_code for each in ended.attempts] == [-9] * 3
    assert shop.event_types(job.id) == ["queued", *["started", "requeued"] * 2, "started", "crashed"]
    assert shop.do(leases.claim, worker="w", queues=["default"], lease_seconds=60) is None


def test_a_job_that_gets_further_each_time_never_runs_out_of_tries(shop: Any) -> None:
    job = shop.submit()
    for step in range(10, 80, 10):
        claim = shop.claim(job.id)
        shop.do(leases.beat, claim, lease_seconds=60, step=step)
        shop.crash(claim)
        shop.no_backoff(job.id)
    assert shop.job(job.id).status == "queued"
    assert [row.crashes for row in shop.sql("SELECT crashes FROM jobs")] == [7]


def test_progress_sets_the_count_back(shop: Any) -> None:
    job = shop.submit()
    for step in (10, 10, 20, 20):
        claim = shop.claim(job.id)
        shop.do(leases.beat, claim, lease_seconds=60, step=step)
        shop.crash(claim)
        shop.no_backoff(job.id)
    assert shop.job(job.id).status == "queued"
    shop.crash(shop.claim(job.id))
    assert shop.job(job.id).status == "crashed"


def test_crashing_nearer_to_the_start_is_no_progress(shop: Any) -> None:
    job = shop.submit()
    for step in (50, 10, 20):
        claim = shop.claim(job.id)
        shop.do(leases.beat, claim, lease_seconds=60, step=step)
        shop.crash(claim)
        shop.no_backoff(job.id)
    assert shop.job(job.id).status == "crashed"


def test_the_wait_grows_with_the_crashes_and_then_stays(shop: Any) -> None:
    lease = LeaseConfig(backoff_seconds=(1, 2, 4), max_stalled_crashes=10)
    job, seen = shop.submit(), []
    for _ in range(5):
        claim = shop.claim(job.id)
        shop.do(leases.crash, claim, exit_code=1, detail="again", lease=lease)
        seen.append(round(waits(shop, job.id), 1))
        shop.no_backoff(job.id)
    assert seen == [1, 2, 4, 4, 4]


def test_a_lease_that_is_over_is_reaped_once(shop: Any) -> None:
    lost, kept = shop.claimed(), shop.claimed()
    shop.expire(lost.id)
    assert shop.do(leases.reap, lease=shop.lease) == [lost.id]
    assert shop.do(leases.reap, lease=shop.lease) == []
    assert shop.job(kept.id).status == "running"
    seen = shop.job(lost.id)
    assert (seen.status, seen.worker) == ("queued", None)
    assert [each.outcome for each in seen.attempts] == ["lost"]
    assert "worker-1" in seen.status_reason


def test_a_lease_runs_out_by_the_clock_of_the_database(shop: Any) -> None:
    claim = shop.claim(shop.submit().id, lease_seconds=0.0)
    shop.do(leases.event, claim, "warning", "time passes")
    assert shop.do(leases.reap, lease=shop.lease) == [claim.id]


def test_a_late_beat_saves_a_lease_that_was_not_reaped_yet(shop: Any) -> None:
    claim = shop.claimed()
    shop.expire(claim.id)
    assert shop.do(leases.beat, claim, lease_seconds=60) == "go on"
    assert shop.do(leases.reap, lease=shop.lease) == []
    assert shop.job(claim.id).attempt == 1


def test_lost_workers_count_as_crashes(shop: Any) -> None:
    job = shop.submit()
    for _ in range(3):
        shop.claim(job.id)
        shop.expire(job.id)
        shop.do(leases.reap, lease=shop.lease)
        shop.no_backoff(job.id)
    assert shop.job(job.id).status == "crashed"


def test_a_release_is_a_preemption_and_no_crash(shop: Any) -> None:
    job = shop.submit()
    for _ in range(5):
        shop.do(leases.release, shop.claim(job.id))
    seen = shop.job(job.id)
    assert seen.status == "queued"
    assert {each.outcome for each in seen.attempts} == {"preempted"}
    (row,) = shop.sql("SELECT crashes, stalled_crashes, preemptions FROM jobs")
    assert tuple(row) == (0, 0, 5)


def test_success_is_told_and_final(shop: Any) -> None:
    claim = shop.claimed()
    shop.do(leases.succeed, claim, summary="The student is 4x faster.", models=())
    seen = shop.job(claim.id)
    assert (seen.status, seen.status_reason, seen.worker) == ("succeeded", "The student is 4x faster.", None)
    assert seen.finished_at is not None
    assert [each.outcome for each in seen.attempts] == ["succeeded"]
    assert shop.event_types(claim.id)[-1] == "succeeded"
    with pytest.raises(WrongState, match="succeeded"):
        shop.do(wishes.cancel, claim.id)


def test_failure_keeps_its_reason(shop: Any) -> None:
    claim = shop.claimed()
    shop.fail(claim)
    seen = shop.job(claim.id)
    assert (seen.status, seen.status_reason) == ("failed", "The data is bad.")
    assert seen.error is not None and seen.error.code == "UNREADABLE_DATA"
    assert [(each.outcome, each.exit_code) for each in seen.attempts] == [("failed", 1)]


def test_after_a_lost_answer_the_worker_learns_that_its_word_arrived(shop: Any) -> None:
    claim = shop.claimed()
    assert shop.see(leases.outcome, claim) is None
    shop.do(leases.succeed, claim, summary="done", models=())
    with pytest.raises(Fenced):
        shop.do(leases.succeed, claim, summary="done", models=())
    assert shop.see(leases.outcome, claim) == "succeeded"


def test_time_is_counted_where_it_is_spent(shop: Any) -> None:
    claim = shop.claimed()
    shop.sql("UPDATE jobs SET since = since - 100, queued_seconds = 5")
    assert shop.job(claim.id).usage.running_seconds == pytest.approx(100, abs=5)
    shop.do(leases.release, claim)
    shop.sql("UPDATE jobs SET since = since - 50")
    used = shop.job(claim.id).usage
    assert used.running_seconds == pytest.approx(100, abs=5)
    assert used.queued_seconds == pytest.approx(55, abs=5)
    shop.do(leases.succeed, shop.claim(claim.id), summary="done", models=())
    shop.sql("UPDATE jobs SET since = since - 1000")
    used = shop.job(claim.id).usage
    assert used.queued_seconds + used.running_seconds == pytest.approx(155, abs=10)


def test_phases_begin_and_end(shop: Any) -> None:
    claim = shop.claimed()
    for name in ("preparing", "teaching", "training"):
        shop.do(leases.phase, claim, name)
    shop.do(leases.beat, claim, lease_seconds=60, step=3, progress=Progress(phase="training", step=3, total_steps=9))
    seen = shop.job(claim.id)
    assert seen.phase == "training" and seen.progress.total_steps == 9
    assert [(each.name, each.ended_at is None) for each in seen.phases] == [
        ("preparing", False), ("teaching", False), ("training", True),
    ]  # fmt: skip
    assert seen.phases[0].ended_at == seen.phases[1].started_at


def test_the_phases_shown_are_those_of_the_latest_attempt_that_entered_them(shop: Any) -> None:
    claim = shop.claimed()
    for name in ("preparing", "teaching", "training"):
        shop.do(leases.phase, claim, name)
    shop.do(leases.release, claim)
    waiting = shop.job(claim.id)
    assert waiting.phase is None
    assert waiting.phases[-1].ended_at == waiting.attempts[0].ended_at
    again = shop.claim(claim.id)
    for name in ("preparing", "training"):
        shop.do(leases.phase, again, name)
    seen = shop.job(claim.id)
    assert [each.name for each in seen.phases] == ["teaching", "preparing", "training"]
    assert seen.phases[0].started_at < seen.phases[0].ended_at <= seen.attempts[0].ended_at
    assert all(each.started_at >= seen.attempts[1].started_at for each in seen.phases[1:])


def test_the_resolved_spec_is_replaced_for_every_later_attempt(shop: Any) -> None:
    claim = shop.claimed()
    training = claim.spec.training.model_copy(update={"precision": "fp32", "device": "cpu"})
    shop.do(leases.resolved, claim, claim.spec.model_copy(update={"training": training}))
    assert shop.job(claim.id).resolved_spec.training.precision == "fp32"
    assert shop.job(claim.id).spec.training.precision == "auto"
    shop.do(leases.release, claim)
    assert shop.claim(claim.id).spec.training.device == "cpu"
