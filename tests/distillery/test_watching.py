"""What a person sees of a running job: bars on a terminal, a few plain lines in a file."""

import io
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from distillery.client import Client
from distillery.views import Event, Progress
from distillery.watching import Bars, Lines, watch

JOB_ID = "job_" + "0" * 26
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def event(seq: int, type_: Any, message: str = "", **data: Any) -> Event:
    return Event(seq=seq, type=type_, at=NOW + timedelta(seconds=seq), attempt=1, message=message, data=data)


def progress(step: int, phase: Any = "teaching") -> Progress:
    return Progress(
        phase=phase, step=step, total_steps=40, epoch=3, epochs=8, images_per_second=1234.5, eta_seconds=75.2
    )


@pytest.fixture
def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, color_system=None, width=100)


def last_frame(console: Console) -> list[str]:
    """The bars as they were drawn last."""
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().replace("\x1b[2K", "").split("\x1b[1A")[-1].splitlines()
    return [line for line in lines if line.strip() and "\x1b[?25" not in line]


def test_a_bar_shows_phase_share_rate_and_time_left(terminal: Console) -> None:
    bars = Bars(terminal)
    with bars.live():
        bars.event(event(1, "phase", phase="teaching"))
        bars.progress(progress(10))
        bars._bars.refresh()
    assert isinstance(terminal.file, io.StringIO)
    drawn = terminal.file.getvalue()
    assert "teaching" in drawn
    assert "epoch 3/8, 1,234 images/s, 1 min 15 s left" in drawn


def test_a_phase_that_is_over_shows_the_time_that_it_took(terminal: Console) -> None:
    bars = Bars(terminal)
    with bars.live():
        bars.event(event(1, "phase", phase="teaching"))
        bars.progress(progress(10))
        bars.event(event(13, "phase", phase="training"))
        bars.event(event(20, "succeeded", "Done."))
    frame = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "12 s" in frame
    assert "7.0 s" in frame


def test_progress_of_another_phase_moves_nothing(terminal: Console) -> None:
    bars = Bars(terminal)
    with bars.live():
        bars.event(event(1, "phase", phase="training"))
        bars.progress(progress(10, phase="teaching"))
    assert "epoch" not in terminal.file.getvalue()  # type: ignore[attr-defined]


def test_a_second_attempt_uses_the_same_bars(terminal: Console) -> None:
    bars = Bars(terminal)
    with bars.live():
        for attempt in range(2):
            bars.event(event(1 + attempt * 10, "started", "Attempt."))
            bars.event(event(2 + attempt * 10, "phase", phase="teaching"))
            bars.event(event(3 + attempt * 10, "requeued", "The worker died."))
        assert len(bars._bars.tasks) == 1


def test_a_pause_stops_the_bar_until_a_further_attempt(terminal: Console) -> None:
    bars = Bars(terminal)
    with bars.live():
        bars.event(event(1, "phase", phase="teaching"))
        bars.event(event(3, "pause_requested", "Asked to pause."))
        bars.event(event(5, "paused", "Paused."))
        bars.progress(progress(10))
        bars.event(event(90, "resumed", "Queued again."))
        (task,) = bars._bars.tasks
        assert task.fields["took"] == 4.0
        bars.event(event(91, "started", "Attempt 2."))
        bars.event(event(92, "phase", phase="teaching"))
        assert task.elapsed is not None
        assert task.elapsed >= 0
        bars.event(event(95, "succeeded", "Done."))
    drawn = terminal.file.getvalue()  # type: ignore[attr-defined]
    assert "epoch" not in drawn
    for text in ("Asked to pause.", "Paused.", "Queued again.", "Attempt 2."):
        assert text in drawn


def test_a_file_is_not_told_the_progress_of_an_attempt_that_is_over() -> None:
    console = Console(file=io.StringIO(), width=40)
    lines = Lines(console, clock=itertools.count(0, 100).__next__)
    for what in (event(1, "phase", phase="teaching"), event(2, "paused", "Paused."), event(3, "resumed", "Queued.")):
        lines.event(what)
        lines.progress(progress(10))
    told = "  teaching: 25 %, epoch 3/8, 1,234 images/s, 1 min 15 s left"
    assert console.file.getvalue().splitlines() == ["teaching ...", told, "Paused.", "Queued."]  # type: ignore[attr-defined]


def story(peer: Any, *events: Event, status: str) -> Callable[[Any], None]:
    """Tells these events to whoever follows them, the end to whoever waits for it, and this state to all others."""
    lines = [f"id: {each.seq}\ndata: {each.model_dump_json()}\n\n" for each in events]
    told = "".join([*lines, 'event: end\ndata: {"status": "succeeded"}\n\n'])

    def answer(handler: Any) -> None:
        if handler.path.partition("?")[0].endswith("/events"):
            peer.says(told, kind="text/event-stream")(handler)
        else:
            peer.says(peer.job(status="succeeded" if "wait=" in handler.path else status))(handler)

    return answer


@pytest.mark.parametrize(("status", "hinted"), [("paused", True), ("running", False)])
def test_a_watch_of_a_paused_job_says_how_to_go_on(peer: Any, status: str, hinted: bool) -> None:
    happened = (
        event(1, "queued", "Queued."), event(2, "paused", "Paused."), event(3, "resumed", "Queued again."),
        event(4, "succeeded", "Done."),
    )  # fmt: skip
    peer.script = [story(peer, *happened, status=status)]
    console = Console(file=io.StringIO(), width=200)
    with Client(peer.url) as client:
        assert watch(client, JOB_ID, console=console).status == "succeeded"
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert (f"distillery resume {JOB_ID}" in told) == hinted
    assert [line for line in ("Paused.", "Queued again.") if line not in told] == []


def test_a_warning_stands_above_the_bars(terminal: Console) -> None:
    bars = Bars(terminal)
    with bars.live():
        bars.event(event(1, "phase", phase="teaching"))
        bars.event(event(2, "warning", "Odd [bold]labels."))
    assert "warning: Odd [bold]labels." in terminal.file.getvalue()  # type: ignore[attr-defined]


def test_a_file_gets_a_line_now_and_then() -> None:
    now = 0.0
    console = Console(file=io.StringIO(), width=40)
    lines = Lines(console, clock=lambda: now)
    lines.event(event(1, "queued", "Queued."))
    lines.event(event(2, "phase", phase="teaching"))
    lines.event(event(3, "checkpoint", "Saved."))
    for _ in range(30):
        now += 1.0
        lines.progress(progress(10))
    assert console.file.getvalue().splitlines() == [  # type: ignore[attr-defined]
        "Queued.",
        "teaching ...",
        *["  teaching: 25 %, epoch 3/8, 1,234 images/s, 1 min 15 s left"] * 3,
    ]


@pytest.mark.parametrize("kind", [Bars, Lines])
def test_a_form_is_told_where_others_were_tried(kind: Callable[[Console], Bars | Lines], terminal: Console) -> None:
    show = kind(terminal)
    show.event(event(1, "form", "The teacher runs as eager.", tried=[]))
    show.event(event(2, "form", "The teacher runs as onnxruntime.", tried=[{"form": "onnxruntime"}]))
    assert isinstance(terminal.file, io.StringIO)
    assert "onnxruntime" in terminal.file.getvalue()
    assert "eager" not in terminal.file.getvalue()
