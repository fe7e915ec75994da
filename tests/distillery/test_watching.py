"""What a person sees of a running job: bars on a terminal, a few plain lines in a file."""

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from distillery.views import Event, Progress
from distillery.watching import Bars, Lines

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
