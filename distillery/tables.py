"""What the command line shows as tables: jobs, networks, one job, the report, the speed-ups."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distillery.report import Estimated, LatencyComparison, LatencyReport, Percentile, Quality, Report
from distillery.views import Architecture, Artifact, Job, JobSummary, Progress, Validation

_STYLES = {
    "queued": "cyan", "running": "blue", "cancelling": "yellow", "succeeded": "green", "failed": "red",
    "crashed": "red", "cancelled": "yellow", "faster": "green", "slower": "red", "invalid": "red",
}  # fmt: skip
_ROLES = {"teacher": "teacher", "student": "student", "baseline": "student alone"}


def print_report(report: Report, *, console: Console) -> None:
    """Both tables, the summary and the warnings."""
    console.print(report_table(report))
    if report.latency:
        console.print(speedup_table(report.latency))
    console.print(report.summary, highlight=False, markup=False, style="bold", soft_wrap=True)
    for warning in report.warnings:
        console.print(f"warning: {warning}", highlight=False, markup=False, style="yellow", soft_wrap=True)


def report_table(report: Report) -> Table:
    """Teacher, student and the same student without the teacher, side by side."""
    shown = [quality for role in _ROLES for quality in report.quality if quality.role == role]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for quality in shown:
        table.add_column(_ROLES[quality.role], justify="right")
    table.add_row("network", *(quality.architecture for quality in shown))
    table.add_row("test accuracy", *(percent(quality.top1.value) for quality in shown))
    table.add_row("  95 % interval", *(_percent_interval(quality.top1) for quality in shown), style="dim")
    table.add_row("parameters", *(f"{quality.parameters:,}" for quality in shown))
    table.add_row("multiply-adds an image", *(magnitude(quality.macs) for quality in shown))
    table.add_row("file size", *(size(quality.file_bytes) for quality in shown))
    for comparison in report.latency.comparisons if report.latency else ():
        table.add_row(f"p50 latency, {_place(comparison)}", *(_p50(comparison, quality) for quality in shown))
    return table


def speedup_table(latency: LatencyReport) -> Table:
    """The speed-up of each runtime and batch size, with its interval and its control."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("student against teacher", "device"):
        table.add_column(heading)
    for heading in ("teacher p50", "student p50", "speed-up", "95 % interval", "control"):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for each in latency.comparisons:
        teacher, student = each.rows
        table.add_row(
            _place(each),
            f"{each.device}, {count(each.threads, 'thread')}",
            _duration(teacher.p50),
            _duration(student.p50),
            f"{each.speedup.value:.2f}x",
            _interval(each.speedup),
            _interval(each.control),
            _styled(each.verdict),
        )
    return table


def jobs_table(jobs: Iterable[JobSummary]) -> Table:
    """One job a line."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("job", no_wrap=True)
    for heading in ("name", "status", "teacher", "student", "progress", "created"):
        table.add_column(heading)
    for job in jobs:
        created = _ago(job.created_at)
        table.add_row(
            job.id, Text(job.name), _styled(job.status), job.teacher, job.student, _progress(job.progress), created
        )
    return table


def architectures_table(architectures: Iterable[Architecture]) -> Table:
    """One network a line."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("architecture", no_wrap=True)
    table.add_column("family")
    for heading in ("parameters", "multiply-adds", "native input"):
        table.add_column(heading, justify="right")
    for each in architectures:
        channels, height, width = each.input
        shape = f"{channels} x {height} x {width}"
        table.add_row(each.name, each.family, f"{each.parameters:,}", magnitude(each.macs), shape)
    return table


def job_table(job: Job, artifacts: Sequence[Artifact]) -> Table:
    """All there is to say about one job, a line each."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _facts(job, artifacts):
        if value:
            table.add_row(name, value)
    return table


def _facts(job: Job, artifacts: Sequence[Artifact]) -> Iterable[tuple[str, str | Text]]:
    queue = f"place {job.queue.position} in '{job.queue.name}'" if job.queue else ""
    spec = job.spec
    yield "job", job.id
    yield "name", Text(job.name)
    yield "status", _styled(job.status) + Text(f"  {job.status_reason or queue}")
    yield "teacher", spec.teacher.architecture
    yield "student", spec.student.architecture
    yield "objective", ", ".join(f"{term.weight:g} {term.term}" for term in spec.method.terms)
    yield "progress", _progress(job.progress) if job.status in ("running", "cancelling") else ""
    yield (
        "phases",
        ", ".join(
            f"{phase.name} {seconds((phase.ended_at - phase.started_at).total_seconds())}"
            if phase.ended_at
            else phase.name
            for phase in job.phases
        ),
    )
    yield "attempt", f"{job.attempt} on {job.worker}" if job.worker else str(job.attempt or "")
    yield "labels", Text(", ".join(f"{key}={value}" for key, value in job.labels.items()))
    yield "created", _ago(job.created_at)
    yield "running", seconds(job.usage.running_seconds) if job.started_at else ""
    yield "error", Text(f"{job.error.detail} {job.error.hint}".strip(), style="red") if job.error else ""
    yield "student model", job.student_model_id or ""
    yield "artifacts", ", ".join(f"{each.name} ({size(each.size_bytes)})" for each in artifacts)


def validation_lines(validation: Validation) -> list[str]:
    """What a dry run found: an estimate and warnings."""
    estimate = validation.estimate
    memory, disk = estimate.memory_bytes, estimate.artifact_bytes
    lines = [f"memory: {size(memory.low)} to {size(memory.high)}", f"artifacts: {size(disk.low)} to {size(disk.high)}"]
    if estimate.seconds is not None:
        lines.insert(0, f"time: {seconds(estimate.seconds.low)} to {seconds(estimate.seconds.high)}")
    return [*lines, *estimate.notes, *(f"warning: {warning}" for warning in validation.warnings)]


def percent(share: float) -> str:
    """0.9876 is 98.76 %."""
    return f"{100 * share:.2f} %"


def magnitude(number: float) -> str:
    """39,200,000 is 39.2 M."""
    for limit, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {letter}" if number < 999.5 * limit else f"{number / limit:.0f} {letter}"
    return f"{number:.0f}"


def size(number: float) -> str:
    """2,490,000 bytes are 2.49 MB."""
    return f"{magnitude(number)}B" if number >= 1e3 else f"{number:.0f} B"


def seconds(number: float) -> str:
    """A duration as a person says it."""
    if number < 60:
        return f"{number:.0f} s" if number >= 10 else f"{number:.1f} s"
    minutes, rest = divmod(round(number), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def count(number: int, noun: str) -> str:
    """1 thread, 2 threads."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _place(comparison: LatencyComparison) -> str:
    return f"{comparison.runtime}, batch {comparison.batch_size}"


def _p50(comparison: LatencyComparison, quality: Quality) -> str:
    if quality.role == "baseline":
        return "as student"
    teacher, student = comparison.rows
    return _duration((teacher if quality.role == "teacher" else student).p50)


def _duration(percentile: Percentile) -> str:
    value = percentile.seconds
    if value is None:
        return "too few calls"
    return f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


def _percent_interval(estimated: Estimated) -> str:
    return f"{100 * estimated.low:.2f} to {100 * estimated.high:.2f}"


def _interval(estimated: Estimated) -> str:
    return f"{estimated.low:.2f} to {estimated.high:.2f}"


def _styled(word: str) -> Text:
    return Text(word, style=_STYLES.get(word, ""))


def _progress(progress: Progress | None) -> str:
    if progress is None:
        return ""
    if not progress.total_steps:
        return progress.phase
    done = 100 * progress.step / progress.total_steps
    left = f", {seconds(progress.eta_seconds)} left" if progress.eta_seconds is not None else ""
    return f"{progress.phase} {done:.0f} %{left}"


def _ago(moment: datetime) -> str:
    passed = (datetime.now(tz=UTC) - moment).total_seconds()
    if passed < 2 * 86_400:
        return f"{seconds(max(passed, 0))} ago"
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"
