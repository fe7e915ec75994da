"""What a user may want of a job that is there: cancel it, set it aside, go on with it, call it otherwise."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from distillery.errors import InvalidRequest, WrongState
from distillery.spec.job import MOST_LABELS
from distillery.views import TERMINAL, Job
from store import outbox
from store.jobs import find, get
from store.tables import JobRow, has_status, now_seconds
from store.transitions import Happening, change


def cancel(session: Session, job_id: str) -> Job:
    """End a waiting or paused job at once; ask a running one to stop, which its worker does at the next heartbeat.

    Asking again changes nothing.

    Raises:
        NotFound: there is no such job.
        WrongState: it has ended already.
    """
    end(session, find(session, job_id, locked=True))
    return get(session, job_id)


def end(session: Session, row: JobRow) -> None:
    """The same for work of any kind, whose row this transaction has locked.

    Raises:
        WrongState: it has ended already.
    """
    job_id = row.id
    if row.status in TERMINAL:
        raise WrongState(f"{job_id} is {row.status}: there is nothing left to cancel.")
    if row.status in ("queued", "paused"):
        reason = "Cancelled before it ran." if row.attempt == 0 else f"Cancelled while it was {row.status}."
        ended = {"status": "cancelled", "status_reason": reason, "finished_at": now_seconds()}
        change(
            session,
            job_id,
            guard=has_status("queued", "paused"),
            values=ended | _no_longer_waiting(row),
            happening=Happening("cancelled", reason),
        )
        outbox.forget_hints(session, job_id)
    elif row.status != "cancelling":
        asked = Happening("cancel_requested", "Asked to cancel; the worker saves and stops.")
        guard = has_status("running", "pausing")
        change(session, job_id, guard=guard, values={"status": "cancelling"}, happening=asked)


def pause(session: Session, job_id: str) -> Job:
    """Set a waiting job aside at once; ask a running one to save and leave its worker.

    Asking again changes nothing.

    Raises:
        NotFound: there is no such job.
        WrongState: it has ended, or is about to.
    """
    row = find(session, job_id, locked=True)
    if row.status in TERMINAL or row.status == "cancelling":
        raise WrongState(f"{job_id} is {row.status}: there is nothing left to pause.")
    if row.status == "queued":
        reason = "Paused. Resume it, and it waits for a worker again."
        values = {"status": "paused", "status_reason": reason} | _no_longer_waiting(row)
        happening = Happening("paused", reason, {"step": row.step})
        change(session, job_id, guard=has_status("queued"), values=values, happening=happening)
        outbox.forget_hints(session, job_id)
    elif row.status == "running":
        asked = Happening("pause_requested", "Asked to pause; the worker saves and lets go of it.")
        change(session, job_id, guard=has_status("running"), values={"status": "pausing"}, happening=asked)
    return get(session, job_id)


def resume(session: Session, job_id: str) -> Job:
    """Let a paused job wait for a worker again; it goes on from its last checkpoint.

    Raises:
        NotFound: there is no such job.
        WrongState: it is not paused.
    """
    row = find(session, job_id, locked=True)
    if row.status != "paused":
        hint = "Wait until it is paused." if row.status == "pausing" else "Only a paused job can be resumed."
        raise WrongState(f"{job_id} is {row.status}, not paused.", hint=hint)
    now = now_seconds()
    values = {"status": "queued", "status_reason": "", "not_before": 0.0, "hinted_at": now, "since": now}
    happening = Happening("resumed", f"Queued in '{row.queue}' again.", {"step": row.step})
    change(session, job_id, guard=has_status("paused"), values=values, happening=happening)
    outbox.hint(session, job_id, queue=row.queue)
    return get(session, job_id)


def edit(
    session: Session,
    job_id: str,
    *,
    name: str | None = None,
    labels: Mapping[str, str | None] | None = None,
    priority: int | None = None,
) -> Job:
    """Change what does not change the result: None leaves a field, a label of None is taken away.

    The specs stay as they were sent and resolved.

    Raises:
        NotFound: there is no such job.
        WrongState: a priority for a job that has ended.
        InvalidRequest: more labels than a spec may have.
    """
    row = find(session, job_id, locked=True)
    if priority is not None and row.status in TERMINAL:
        raise WrongState(f"{job_id} is {row.status}: its priority means nothing any more.", hint="Leave priority out.")
    wanted: dict[str, Any] = {"name": name, "priority": priority}
    if labels is not None:
        kept = {key: value for key, value in row.labels.items() if key not in labels}
        wanted["labels"] = kept | {key: value for key, value in labels.items() if value is not None}
        if len(wanted["labels"]) > MOST_LABELS:
            detail = f"{job_id} would have {len(wanted['labels'])} labels; {MOST_LABELS} are the most."
            raise InvalidRequest(detail, hint="Take some away: a label of null goes.", pointer="/labels")
    changed = {key: value for key, value in wanted.items() if value is not None and value != getattr(row, key)}
    if changed:
        happening = Happening("edited", f"Changed: {', '.join(sorted(changed))}.", changed)
        values = changed | {"edition": JobRow.edition + 1}
        # A terminal event is the last one of its job, so what is edited later is not told.
        told = None if row.status in TERMINAL else happening
        change(session, job_id, guard=JobRow.id == job_id, values=values, happening=told)
    return get(session, job_id)


def _no_longer_waiting(row: JobRow) -> dict[str, Any]:
    """The time since the last change counts as waiting for a queued job, and as nothing for a paused one."""
    waited = JobRow.queued_seconds + (now_seconds() - JobRow.since)
    return {"since": now_seconds()} | ({"queued_seconds": waited} if row.status == "queued" else {})
