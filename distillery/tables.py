"""What the command line shows as tables: jobs, networks, terms, one job, the report, the speed-ups."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distillery.report import Estimated, LatencyReport, Percentile, Report
from distillery.scenario_tables import brief, scenario_notes, server_table, sweep_table, with_input
from distillery.spec import JobSpec
from distillery.spec.methods import DataFreeMethod, OfflineMethod, SelfDistillationMethod
from distillery.spec.teacher import TeacherEnsemble
from distillery.views import (
    FARTHEST_PLACE,
    Adjustments,
    Architecture,
    Artifact,
    Job,
    JobSummary,
    ObjectiveTerm,
    Progress,
    QueuePlace,
    Validation,
)

STYLES = {
    "queued": "cyan", "running": "blue", "pausing": "yellow", "paused": "magenta", "cancelling": "yellow",
    "succeeded": "green", "failed": "red", "crashed": "red", "cancelled": "yellow",
    "faster": "green", "slower": "red", "invalid": "red",
}  # fmt: skip
_BEGUN = ("running", "pausing", "paused", "cancelling")
_ITSELF = "itself"
"""Who teaches in self-distillation."""
_COLUMNS = ("teacher", "assistant", "student", "baseline", "exit")


def print_report(report: Report, *, console: Console) -> None:
    """The tables, the summary and the warnings."""
    console.print(report_table(report))
    if report.latency:
        for table in latency_tables(report.latency):
            console.print(table)
    for each in report.exits:
        if each.latency:
            console.print(speedup_table(each.latency, fast=_role(each.role), slow="student"))
    console.print(report.summary, highlight=False, markup=False, style="bold", soft_wrap=True)
    for warning in report.warnings:
        console.print(f"warning: {warning}", highlight=False, markup=False, style="yellow", soft_wrap=True)


def report_table(report: Report) -> Table:
    """Teacher, assistants, student, the same student without the teacher, and early exits, side by side."""
    shown = sorted((each for each in report.quality if _column(each.role)), key=lambda each: _column(each.role))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for quality in shown:
        table.add_column(_role(quality.role), justify="right")
    table.add_row("network", *(quality.architecture for quality in shown))
    table.add_row("test accuracy", *(percent(quality.top1.value) for quality in shown))
    table.add_row("  95 % interval", *(_percent_interval(quality.top1) for quality in shown), style="dim")
    if report.seeds:
        over = {"student": report.seeds.student, "baseline": report.seeds.baseline}
        means = [over.get(quality.role) for quality in shown]
        table.add_row(
            f"mean of {len(report.seeds.runs)} seeds", *(percent(each.value) if each else "" for each in means)
        )
        table.add_row("  95 % interval", *(_percent_interval(each) if each else "" for each in means), style="dim")
    table.add_row("parameters", *(_counted(quality.parameters) for quality in shown))
    table.add_row(
        "multiply-adds an image", *("-" if quality.macs is None else magnitude(quality.macs) for quality in shown)
    )
    table.add_row("file size", *(size(quality.file_bytes) for quality in shown))
    timed = _timed(report)
    for place in dict.fromkeys(place for _, place in timed):
        runtime, batch_size, _ = place
        cells = (_p50(timed, quality.role, place) for quality in shown)
        table.add_row(f"p50 latency, {runtime}, batch {batch_size}", *cells)
    return table


def _role(role: str) -> str:
    """`assistant 1` for `assistant1`, and what the baseline is."""
    name = role.rstrip("0123456789")
    return "student alone" if name == "baseline" else f"{name} {role.removeprefix(name)}".rstrip()


def _column(role: str) -> tuple[int, int, str] | tuple[()]:
    """By which the columns are sorted; empty for the members of an ensemble, which only the page shows."""
    name = role.rstrip("0123456789")
    if name not in _COLUMNS or (name == "teacher" and role != name):
        return ()
    return _COLUMNS.index(name), len(role), role


_Measured = tuple[str, int, str]
"""Runtime, batch size and device."""


def _timed(report: Report) -> dict[tuple[str, _Measured], Percentile]:
    """The median times of each role, wherever it was measured. An early exit was timed against the whole student."""
    found: dict[tuple[str, _Measured], Percentile] = {}
    for slow, fast, latency in [
        ("teacher", "student", report.latency),
        *(("student", each.role, each.latency) for each in report.exits),
    ]:
        for each in latency.comparisons if latency else ():
            for role, row in zip((slow, fast), each.rows, strict=True):
                found.setdefault((role, (with_input(each.runtime, each.input), each.batch_size, each.device)), row.p50)
    return found


def _p50(timed: dict[tuple[str, _Measured], Percentile], role: str, place: _Measured) -> str:
    if role == "baseline":
        return "as student"
    return _duration(timed[role, place]) if (role, place) in timed else ""


def speedup_table(latency: LatencyReport, *, fast: str = "student", slow: str = "teacher") -> Table:
    """The speed-up of each runtime and batch size, with its interval and its control."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in (f"{fast} against {slow}", "device"):
        table.add_column(column)
    for column in (f"{slow} p50", f"{fast} p50", "speed-up", "95 % interval", "control", f"{fast} accuracy"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for each in latency.comparisons:
        slower, faster = each.rows
        table.add_row(
            f"{with_input(each.runtime, each.input)}, batch {each.batch_size}",
            f"{each.device}, {count(each.threads, 'thread')}",
            _duration(slower.p50),
            _duration(faster.p50),
            f"{each.speedup.value:.2f}x",
            _interval(each.speedup),
            _interval(each.control),
            percent(faster.accuracy) + (" (degraded)" if faster.degraded else ""),
            _styled(each.verdict),
        )
    for failure in latency.failures:
        table.add_row(
            f"{with_input(failure.runtime, failure.input)}, batch {failure.batch_size}",
            failure.device,
            *[""] * 6,
            Text("broke off", style="red"),
        )
    return table


def latency_tables(latency: LatencyReport) -> list[Table]:
    """The speed-ups, the best batch sizes and the highest rates, as far as they were measured."""
    tables = [speedup_table(latency)] if latency.comparisons or latency.failures else []
    tables += [sweep_table(latency)] if latency.sweeps else []
    return tables + ([server_table(latency)] if latency.servers else [])


def speed_doubts(latency: LatencyReport) -> list[str]:
    """What a reader of the speed-ups should know: noise on the machine, runtimes that broke off or lost accuracy."""
    doubts = []
    for each in latency.comparisons:
        doubts += [f"{each.place}: {noise.detail}" for noise in each.noise]
        doubts += [
            f"{each.place}: the {row.model} loses {100 * row.accuracy_lost:.1f} points of accuracy."
            for row in each.rows
            if row.degraded
        ]
    for failure in latency.failures:
        doubts.append(f"{failure.place}: {failure.detail}")
    return [*doubts, *scenario_notes(latency)]


def jobs_table(jobs: Iterable[JobSummary]) -> Table:
    """One job a line."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("job", no_wrap=True)
    for heading in ("name", "status", "teacher", "student", "progress", "created"):
        table.add_column(heading)
    for job in jobs:
        created = _ago(job.created_at)
        table.add_row(
            job.id,
            Text(job.name),
            _styled(job.status),
            job.teacher or _ITSELF,
            job.student,
            _progress(job.progress),
            created,
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


def terms_table(terms: Iterable[ObjectiveTerm]) -> Table:
    """One term of an objective a line."""
    return _choices_table("term", ((each.name, each.when_to_use, each.paper) for each in terms))


def strategies_table(strategies: Iterable[ObjectiveTerm]) -> Table:
    """One strategy a line."""
    rows = ((each.name, each.when_to_use, ", ".join(each.presets), each.paper) for each in strategies)
    return _choices_table("strategy", rows, more=("presets",))


def _choices_table(what: str, rows: Iterable[tuple[str, ...]], *, more: tuple[str, ...] = ()) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(what, no_wrap=True)
    for heading in ("when to use it", *more, "paper"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
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


def _place(job: Job, queue: QueuePlace) -> str:
    behind = " or behind it" if queue.position == FARTHEST_PLACE else ""
    return f"place {queue.position}{behind} in '{queue.name}', priority {job.priority}"


def _facts(job: Job, artifacts: Sequence[Artifact]) -> Iterable[tuple[str, str | Text]]:
    queue = _place(job, job.queue) if job.queue else ""
    spec = job.spec
    yield "job", job.id
    yield "name", Text(job.name)
    yield "status", _styled(job.status) + Text(f"  {job.status_reason or queue}")
    yield "strategy", spec.method.strategy
    yield "teacher", _teacher(spec)
    yield "assistants", ", ".join(each.architecture for each in spec.assistants)
    yield "student", spec.student.architecture
    yield "objective", _objective(spec)
    yield "seeds", str(spec.seeds) if spec.seeds > 1 else ""
    yield "progress", _progress(job.progress) if job.status in _BEGUN else ""
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
    yield "adjusted", _adjusted(job.adjustments)
    yield "retry of", job.retry_of or ""
    yield "cloned from", job.cloned_from or ""
    yield "labels", Text(", ".join(f"{key}={value}" for key, value in job.labels.items()))
    yield "created", _ago(job.created_at)
    yield "running", seconds(job.usage.running_seconds) if job.started_at else ""
    yield "error", Text(f"{job.error.detail} {job.error.hint}".strip(), style="red") if job.error else ""
    yield "student model", job.student_model_id or ""
    yield "artifacts", ", ".join(f"{each.name} ({size(each.size_bytes)})" for each in artifacts)


def _adjusted(adjustments: Adjustments) -> str:
    """What earlier attempts have met, and what is done about it."""
    parts, runs = adjustments.micro_batches, adjustments.rate_halved
    told = [f"each batch in {parts} parts, since memory ran out"] if parts > 1 else []
    told += [f"half the learning rate in {' and '.join(runs)}, since the loss diverged"] if runs else []
    return "; ".join(told)


def _teacher(spec: JobSpec) -> str:
    names = " + ".join(each.architecture for each in spec.teachers) or _ITSELF
    return f"{names} ({spec.teacher.merge})" if isinstance(spec.teacher, TeacherEnsemble) else names


def _objective(spec: JobSpec) -> str:
    """The weighted terms, with the presets that they came from, or what the strategy has in their place."""
    method = spec.method
    terms = ", ".join(f"{term.weight:g} {term.term}" for term in method.terms)
    if isinstance(method, SelfDistillationMethod):
        return f"{method.hard_weight:g} hard, {method.soft_weight:g} soft, {method.hint_weight:g} hint"
    if isinstance(method, DataFreeMethod):
        return f"{terms}, on images made by {method.synthesis.name}"
    if isinstance(method, OfflineMethod) and method.preset:
        return f"{terms} ({method.preset if isinstance(method.preset, str) else ' + '.join(method.preset)})"
    return terms


def validation_lines(validation: Validation) -> list[str]:
    """What a dry run found: whether it can run, an estimate and warnings; where a worker tried it out, in its words."""
    trial = validation.preflight
    if trial is not None and trial.error is not None:
        at = f" ({trial.error.pointer})" if trial.error.pointer else ""
        return [f"It cannot run{at}. {trial.error.detail}", trial.error.hint]
    found = trial.result if trial is not None else None
    estimate = found.estimate if found else validation.estimate
    memory, disk = estimate.memory_bytes, estimate.artifact_bytes
    lines = [f"memory: {size(memory.low)} to {size(memory.high)}", f"artifacts: {size(disk.low)} to {size(disk.high)}"]
    if estimate.seconds is not None:
        lines.insert(0, f"time: {seconds(estimate.seconds.low)} to {seconds(estimate.seconds.high)}")
    warnings = dict.fromkeys((*validation.warnings, *(found.warnings if found else ())))
    head = ["The spec is good. Nothing was submitted."]
    if found is not None:
        head.append(f"A worker tried it out on {found.device} in {found.precision}.")
        if found.teacher_accuracy is not None:
            head.append(f"The teacher answers {percent(found.teacher_accuracy)} of validation images right.")
    return [*head, *lines, *estimate.notes, *(f"warning: {warning}" for warning in warnings)]


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


def _duration(percentile: Percentile) -> str:
    return "too few calls" if percentile.seconds is None else brief(percentile.seconds)


def _counted(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _percent_interval(estimated: Estimated) -> str:
    return f"{100 * estimated.low:.2f} to {100 * estimated.high:.2f}"


def _interval(estimated: Estimated) -> str:
    return f"{estimated.low:.2f} to {estimated.high:.2f}"


def _styled(word: str) -> Text:
    return Text(word, style=STYLES.get(word, ""))


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
