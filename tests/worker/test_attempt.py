"""One attempt from its claim to its end: what is recorded for each way in which a trainer can go."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distillery.errors import NotFound
from store import files

Service = Any


def test_a_job_runs_to_its_end_and_everything_is_recorded(service: Service, expected: Callable[[int], bytes]) -> None:
    job_id = service.submit(steps="12", every="5")
    assert service.run_one()
    job = service.job(job_id)
    assert (job.status, job.attempt, job.attempts[0].outcome) == ("succeeded", 1, "succeeded")
    assert job.status_reason == "counted"
    assert job.student_model_id is not None
    assert job.metrics["training/loss"] == pytest.approx(1 / 12)
    assert service.checkpoint_steps(job_id) == [(1, 5), (1, 10)]
    assert service.content(job_id, "student.safetensors") == expected(12)
    assert b"attempt 1 begins" in service.content(job_id, "trainer.log")
    kinds = [each.type for each in service.events(job_id)]
    assert [kinds[0], kinds[-1]] == ["queued", "succeeded"]
    assert {"started", "resolved", "phase", "checkpoint", "artifact"} <= set(kinds)
    assert not list(service.work_root.glob("job_*")), "the work folder stays"


def test_nothing_is_claimed_when_nothing_waits_or_the_worker_is_leaving(embedded: Service) -> None:
    assert not embedded.run_one()
    job_id = embedded.submit()
    leaving = threading.Event()
    leaving.set()
    assert not embedded.run_one(stop=leaving)
    assert not embedded.run_one(queues=("other",))
    assert embedded.job(job_id).status == "queued"


def test_a_hint_takes_its_own_job_or_none(embedded: Service) -> None:
    first, second = embedded.submit(steps="2"), embedded.submit(steps="2")
    assert embedded.run_one(job_id=second)
    assert not embedded.run_one(job_id=second)
    assert (embedded.job(first).status, embedded.job(second).status) == ("queued", "succeeded")


def test_a_failure_told_by_the_trainer_is_final(embedded: Service) -> None:
    job_id = embedded.submit(steps="9", at="3", ending="fail")
    assert embedded.run_one()
    job = embedded.job(job_id)
    assert (job.status, job.attempts[0].exit_code) == ("failed", 1)
    assert job.error is not None
    assert (job.error.code, job.error.hint) == ("DIVERGED", "Lower the rate.")


@pytest.mark.parametrize(
    ("ending", "exit_code", "said"),
    [("raise", 1, "RuntimeError: the tiny trainer was told to raise"), ("leave", 0, "attempt 1"), ("killed", -9, "")],
)
def test_a_trainer_that_dies_without_a_word_is_tried_again(
    embedded: Service, expected: Callable[[int], bytes], ending: str, exit_code: int, said: str
) -> None:
    job_id = embedded.submit(steps="9", at="7", ending=ending, once="yes")
    assert embedded.run_one()
    job = embedded.job(job_id)
    assert (job.status, job.attempts[0].outcome, job.attempts[0].exit_code) == ("queued", "crashed", exit_code)
    assert said in job.status_reason
    embedded.until(embedded.run_one)  # after the back-off
    assert embedded.job(job_id).status == "succeeded"
    assert embedded.job(job_id).attempts[1].first_step == 5
    assert [step for attempt, step in embedded.steps_taken() if attempt == 2] == [6, 7, 8, 9]
    assert embedded.content(job_id, "student.safetensors") == expected(9)


def test_a_job_that_always_dies_ends_as_crashed_after_three_runs_and_others_go_on(embedded: Service) -> None:
    poison = embedded.submit(steps="9", at="3", ending="killed")
    good = [embedded.submit(steps="2") for _ in range(3)]
    embedded.until(lambda: embedded.run_one() is False and embedded.job(poison).status == "crashed")
    assert [embedded.job(each).status for each in good] == ["succeeded"] * 3
    job = embedded.job(poison)
    assert job.attempt == 3
    assert job.error is not None
    assert job.error.code == "WORKER_CRASH"
    assert job.error.retryable


def test_a_grandchild_left_behind_does_not_hold_the_job(embedded: Service, alive: Callable[[int], bool]) -> None:
    job_id = embedded.submit(steps="4", at="2", ending="grandchild")
    assert embedded.run_one()
    assert embedded.job(job_id).status == "succeeded"
    (warning,) = embedded.events(job_id, "warning")
    embedded.until(lambda: not alive(warning.data["pid"]))


class InThread:
    """`run_one` in a thread that lives until the job is over."""

    def __init__(self, service: Service, **options: Any) -> None:
        self.stop = threading.Event()
        self.thread = threading.Thread(target=service.run_one, kwargs={"stop": self.stop, **options})
        self.thread.start()

    def join(self) -> None:
        self.thread.join(120)
        assert not self.thread.is_alive()


def test_a_cancel_keeps_the_last_checkpoint(service: Service) -> None:
    job_id = service.submit(every="100000", ending="hold", at="7")
    running = InThread(service)
    service.until_step(7)
    service.cancel(job_id)
    running.join()
    assert service.job(job_id).status == "cancelled"
    last = service.steps_taken()[-1]
    assert service.checkpoint_steps(job_id) == [last]
    assert service.content(job_id, "trainer.log")


def test_a_trainer_that_is_deaf_to_a_cancel_is_killed_when_its_time_is_over(
    embedded: Service, alive: Callable[[int], bool]
) -> None:
    embedded.lease = type(embedded.lease)(**vars(embedded.lease) | {"save_budget_seconds": 0.5})
    job_id = embedded.submit(every="5", ending="hold", at="7", deaf="yes")
    running = InThread(embedded)
    embedded.until_saved(job_id, step=5)
    embedded.cancel(job_id)
    running.join()
    assert embedded.job(job_id).status == "cancelled"
    assert not alive(embedded.trainer_pid())
    assert embedded.checkpoint_steps(job_id)


def test_a_worker_that_has_to_leave_saves_and_releases(service: Service, expected: Callable[[int], bytes]) -> None:
    job_id = service.submit(every="100000", ending="hold", at="7", once="yes")
    running = InThread(service)
    service.until_step(7)
    running.stop.set()
    running.join()
    job = service.job(job_id)
    assert (job.status, job.attempts[0].outcome) == ("queued", "preempted")
    assert service.run_one()
    assert service.job(job_id).status == "succeeded"
    steps = [step for _, step in service.steps_taken()]
    assert steps == list(range(1, 21)), "a step was repeated or left out"
    assert service.content(job_id, "student.safetensors") == expected(20)


def test_an_attempt_that_was_fenced_kills_its_trainer_and_writes_nothing(
    service: Service, alive: Callable[[int], bool]
) -> None:
    job_id = service.submit(steps="100000", every="5")
    slow = type(service.lease)(lease_seconds=60, heartbeat_seconds=0.5)
    running = InThread(service, lease=slow)
    service.until_step(7)
    with service.database.transaction() as session:  # as if the reaper had seen its lease end
        from store.tables import JobRow

        session.get_one(JobRow, job_id).lease_expires_at = 0.0
        session.flush()
        from store import leases

        assert leases.reap(session, lease=service.lease) == [job_id]
    pid = service.trainer_pid()
    before = len(service.events(job_id))
    running.join()
    assert not alive(pid)
    assert len(service.events(job_id)) == before
    assert service.job(job_id).status == "queued"


def _damage(service: Service, job_id: str) -> tuple[int, int]:
    """Flip a byte of the newest checkpoint; its attempt and step."""
    with service.database.read() as session:
        newest = max(files.checkpoints(session, job_id), key=lambda each: (each.attempt, each.step))
        key = files.checkpoint_key(session, job_id, newest.id)
    path = service.folder / "artifacts" / key
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    return newest.attempt, newest.step


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_is_used(
    service: Service, expected: Callable[[int], bytes]
) -> None:
    job_id = service.submit(steps="19", every="5", at="17", ending="killed", once="yes")
    assert service.run_one()
    assert _damage(service, job_id) == (1, 15)
    service.until(service.run_one)
    assert service.job(job_id).status == "succeeded"
    assert next(step for attempt, step in service.steps_taken() if attempt == 2) == 11
    (warning,) = service.events(job_id, "warning")
    assert "step 15" in warning.message
    assert service.content(job_id, "student.safetensors") == expected(19)


def test_without_any_whole_checkpoint_the_job_begins_again(embedded: Service, expected: Callable[[int], bytes]) -> None:
    job_id = embedded.submit(steps="9", every="5", at="7", ending="killed", once="yes")
    assert embedded.run_one()
    _damage(embedded, job_id)
    embedded.until(embedded.run_one)
    assert next(step for attempt, step in embedded.steps_taken() if attempt == 2) == 1
    assert embedded.content(job_id, "student.safetensors") == expected(9)


def test_the_student_of_an_earlier_job_teaches(embedded: Service) -> None:
    first = embedded.submit(steps="3")
    assert embedded.run_one()
    model = embedded.job(first).student_model_id
    by_job = embedded.submit(steps="2", teacher={"architecture": "seed_student", "job": first})
    by_model = embedded.submit(steps="2", teacher={"architecture": "seed_student", "model": model})
    while embedded.run_one():
        pass
    student = embedded.content(first, "student.safetensors")
    assert embedded.content(by_job, "taught-by-0.txt") == student
    assert embedded.content(by_model, "taught-by-0.txt") == student
    with pytest.raises(NotFound):
        embedded.content(first, "taught-by-0.txt")


def test_each_of_several_teachers_gets_its_own_weights(embedded: Service) -> None:
    jobs = [embedded.submit(steps=steps) for steps in ("3", "4")]
    while embedded.run_one():
        pass
    members = [
        {"architecture": "seed_student", "job": jobs[0]},
        {"architecture": "seed_teacher", "train": {"epochs": 1}},
        {"architecture": "seed_student", "model": embedded.job(jobs[1]).student_model_id},
    ]
    job_id = embedded.submit(steps="2", teacher={"members": members})
    assert embedded.run_one()
    for place, job in ((0, jobs[0]), (2, jobs[1])):
        assert embedded.content(job_id, f"taught-by-{place}.txt") == embedded.content(job, "student.safetensors")
    with pytest.raises(NotFound):
        embedded.content(job_id, "taught-by-1.txt")


def test_a_teacher_that_is_not_there_fails_the_job_with_a_pointer(embedded: Service) -> None:
    first = embedded.submit(steps="3")
    assert embedded.run_one()
    (weights,) = (embedded.folder / "artifacts" / "jobs" / first).rglob("student.safetensors")
    weights.unlink()
    job_id = embedded.submit(teacher={"architecture": "seed_student", "job": first})
    assert embedded.run_one()
    job = embedded.job(job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error.code, job.error.pointer) == ("UNUSABLE_WEIGHTS", "/teacher/job")
    several = [{"architecture": "seed_student", "train": {"epochs": 1}}, {"architecture": "seed_student", "job": first}]
    job_id = embedded.submit(teacher={"members": several})
    assert embedded.run_one()
    assert embedded.job(job_id).error.pointer == "/teacher/members/1/job"


def test_folders_of_dead_attempts_are_swept_and_nothing_else(embedded: Service) -> None:
    old = embedded.work_root / f"job_{'0' * 26}-a3"
    other = embedded.work_root / "someone-elses"
    for each in (old, other):
        each.mkdir(parents=True)
        (each / "file").write_text("x")
    embedded.submit(steps="1")
    assert embedded.run_one()
    assert (old.exists(), other.exists()) == (False, True)


def test_the_trainer_sees_no_address_of_the_service(
    embedded: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DISTILLERY_DATABASE_URL", embedded.url)
    seen = tmp_path / "seen.json"
    script = tmp_path / "looks_around.py"
    script.write_text(f"import json, os; json.dump(dict(os.environ), open({str(seen)!r}, 'w'))")
    from worker.attempt import Programs

    embedded.submit()
    assert embedded.run_one(programs=Programs(trainer=("/usr/bin/env", "python3", str(script))))
    environment = json.loads(seen.read_text())
    assert "DISTILLERY_DATABASE_URL" not in environment
    assert embedded.url not in environment.values()
