"""The table, the plot and the words of the study of `objectives.py`, from the lines that its runs left."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from objectives_plan import BASELINE, PAIR_WEIGHTS, PUBLISHED_EPOCHS, TEACHER_BATCH, Plan, Task, configurations, warmup

from distillery.report import Estimated
from engine import plots
from engine.data.dataset import Dataset
from engine.spread import mean_of

_FAR = 8.0
"""A gain of more points than this, up or down, is told at the edge of the plot: drawn, it would flatten all others."""
_LIGHT = {"page": "#ffffff", "ink": "#1c2430", "soft": "#5b6675", "grid": "#e3e7ed"}
_LIGHT |= {"better": "#00705f", "worse": "#a83200"}
_DARK = {"page": "#12161c", "ink": "#e8ecf1", "soft": "#a0abb9", "grid": "#2a323d"}
_DARK |= {"better": "#3cc79b", "worse": "#ff9b6b"}


@dataclass(frozen=True)
class Row:
    """One configuration over its finished seeds. Accuracies in percent, gains in points."""

    name: str
    best: tuple[float, ...]
    last: tuple[float, ...]
    gain: Estimated | float | None
    """Over the baseline with the same seeds; a bare number of a single seed; None without a baseline, and of itself."""
    time: float | None
    """Processor time of a run (wall time on a GPU) as a multiple of the baseline's."""
    failed: int = 0

    @property
    def verdict(self) -> str:
        if self.name == BASELINE:
            return "the baseline"
        if not isinstance(self.gain, Estimated):
            return "one seed tells nothing" if self.best else "diverged" if self.failed else "not run"
        if self.gain.low > 0:
            return "helped"
        return "harmed" if self.gain.high < 0 else "cannot be told"

    @property
    def kind(self) -> str:
        """Its class in the plot's style."""
        return {"helped": "better", "harmed": "worse"}.get(self.verdict, "unsure")


def rows(plan: Plan, tasks: Sequence[Task], lines: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """One row for each configuration; `lines` are by key."""
    found = {name: _lines_of(name, tasks, lines) for name in configurations(plan)}
    baseline = {run: line for run, line in found[BASELINE].items() if line["failed"] is None}
    return [_row(plan, name, by_run, baseline=baseline) for name, by_run in found.items()]


def _lines_of(name: str, tasks: Sequence[Task], lines: Mapping[str, Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    return {task.run: lines[task.key] for task in tasks if task.configuration == name and task.key in lines}


def _row(plan: Plan, name: str, by_run: Mapping[int, Any], *, baseline: Mapping[int, Any]) -> Row:
    whole = {run: line for run, line in by_run.items() if line["failed"] is None}
    head = plan.headline
    paired = [] if name == BASELINE else [run for run in whole if run in baseline]
    gains = [100 * (whole[run][head] - baseline[run][head]) for run in paired]
    gain = mean_of(gains) if len(gains) > 1 else gains[0] if gains else None
    return Row(
        name=name,
        best=tuple(100 * line["best"] for line in whole.values()),
        last=tuple(100 * line["last"] for line in whole.values()),
        gain=gain,
        time=_seconds(whole.values()) / _seconds(baseline.values()) if whole and baseline else None,
        failed=len(by_run) - len(whole),
    )


def _seconds(lines: Any) -> float:
    return statistics.fmean(line["seconds" if "gpu" in line["machine"] else "cpu_seconds"] for line in lines)


def markdown(
    plan: Plan,
    tasks: Sequence[Task],
    lines: Mapping[str, Mapping[str, Any]],
    *,
    datasets: Mapping[str, Dataset],
    command: str,
    plot: str,
) -> str:
    """The whole page. `datasets` are those of `students` and `teachers`."""
    found = rows(plan, tasks, lines)
    used = [lines[task.key] for task in tasks if task.key in lines]
    parts = [
        f"# What each objective does for a student: {plan.student} on {datasets['students'].name}, as measured",
        f"Written by `{command}`. {len(used)} of {len(tasks)} networks are trained.",
        "\n".join(f"- {fact}" for fact in _facts(plan, tasks, used, datasets=datasets)),
        *_teachers_table(tasks, lines),
        _table(plan, found),
        f"![Gain over labels alone, in points, with 95 % intervals]({plot})",
        "\n".join(f"- {note}" for note in _notes(plan, found)),
        *_beside(tasks, lines),
        *_troubles(used),
    ]
    return "\n\n".join(parts) + "\n"


def _facts(
    plan: Plan, tasks: Sequence[Task], used: Sequence[Mapping[str, Any]], *, datasets: Mapping[str, Dataset]
) -> Iterator[str]:
    students, teachers = datasets["students"], datasets["teachers"]
    if len(teachers.train) > len(students.train):
        yield (
            f"**The teachers know more than the labels tell the students**: they learned from {len(teachers.train):,} "
            f"labelled images, the students from {len(students.train):,} of these (stratified, drawn with seed "
            f"{plan.data.split_seed}). With equal data the gains would be smaller."
        )
    else:
        yield f"Teachers and students learned from the same {len(students.train):,} labelled images."
    chooses = "choose the best epoch"
    if plan.recipe != "small":
        chooses = "are held back because the loop validates; nothing is chosen by them, the last epoch counts"
    yield (
        f"{len(students.validation):,} other images {chooses}; {len(students.test):,} test images are looked at once "
        "for each network, after training."
    )
    yield _recipe(plan)
    yield _weights(plan)
    yield from _machine(tasks, used)


def _recipe(plan: Plan) -> str:
    recipe = plan.training
    views = " and ".join(plan.data.augment) or "none"
    origin = (
        "It is the same for all and tuned for none alone. Five other sizes were tried before, with the labels, kd and "
        "a few more, and their test accuracies seen; this one was taken because it ends in half an hour."
    )
    if plan.recipe != "small":
        origin = "It is that of the papers"
        origin += "." if recipe.epochs == PUBLISHED_EPOCHS else f", but for their {PUBLISHED_EPOCHS} epochs."
    return (
        f"Recipe of every network: {recipe.epochs} epochs in batches of {recipe.batch_size} (teachers "
        f"{plan.teacher_epochs} in batches of {TEACHER_BATCH}), {_optimizer(recipe)}, augmentation {views}. {origin}"
    )


def _optimizer(recipe: Any) -> str:
    optimizer, schedule = recipe.optimizer, recipe.schedule
    falls = "falls to 0 along a cosine"
    if schedule.name == "step":
        falls = f"falls to {schedule.gamma:g} of itself after " + ", ".join(
            f"{each:.1%}" for each in schedule.milestones
        )
        falls += " of the run"
    return (
        f"{optimizer.name.upper()} with a rate of {optimizer.lr:g} that {falls}, momentum "
        f"{optimizer.momentum:g}, weight decay {optimizer.weight_decay:g}"
    )


def _weights(plan: Plan) -> str:
    told = "The weights are those of the presets"
    if plan.pair in PAIR_WEIGHTS:
        other_classes, review = PAIR_WEIGHTS[plan.pair]
        told += f", but for DKD's other classes ({other_classes:g}) and ReviewKD ({review:g}), as in the authors' code"
    return (
        f"{told}. Warm-ups of DKD and ReviewKD take {warmup(plan):g} epochs, in proportion to the papers' 20 of "
        f"{PUBLISHED_EPOCHS}; CRD compares with {plan.crd_negatives:,} negatives."
    )


def _machine(tasks: Sequence[Task], used: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not used:
        return
    told = dict.fromkeys(
        f"{each.get('gpu') or each['cpu']}, {each['cpu_cores']} cores, {each['threads']} thread(s) a network, "
        f"torch {each['versions']['torch']}"
        for each in (line["machine"] for line in used)
    )
    days = sorted({line["finished"][:10] for line in used})
    precision = tasks[0].spec.training.precision
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    yield f"Machine: {'; '.join(told)}; {precision}, losses and scores in float32. {when}."


def _teachers_table(tasks: Sequence[Task], lines: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    found = [(task, lines[task.key]) for task in tasks if task.teaches and task.key in lines]
    found = [(task, line) for task, line in found if line["failed"] is None]
    if found:
        body = [
            f"| {task.configuration} | {100 * line['best']:.2f} | {100 * line['last']:.2f} | {line['seconds']:.0f} |"
            for task, line in found
        ]
        head = ["| trained once | test accuracy, % | after the last epoch, % | seconds |", "|---|---|---|---|"]
        yield "\n".join(head + body)


def _table(plan: Plan, found: Sequence[Row]) -> str:
    published = plan.published
    columns = ["configuration", "test accuracy, %", "after the last epoch, %"]
    columns += ["gain over labels alone, points", "the teacher", "time"]
    columns += ["published, %", "ours minus published"] if published else []
    table = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for row in found:
        cells = [row.name, _mean(row.best), _mean(row.last), gain_text(row.gain), row.verdict]
        cells.append("" if row.time is None else f"{row.time:.1f}")
        if published:
            told = published.get(row.name)
            cells += ["" if told is None else f"{told:.2f}", "" if told is None else _beside_published(row, told)]
        table.append(f"| {' | '.join(cells)} |")
    return "\n".join(table)


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def gain_text(gain: Estimated | float | None) -> str:
    """`+0.85 (-0.10 to +1.80)`."""
    if isinstance(gain, Estimated):
        return f"{gain.value:+.2f} ({gain.low:+.2f} to {gain.high:+.2f})"
    return "" if gain is None else f"{gain:+.2f}"


def _beside_published(row: Row, published: float) -> str:
    return f"{statistics.fmean(row.last) - published:+.2f}" if row.last else ""


def _notes(plan: Plan, found: Sequence[Row]) -> Iterator[str]:
    compared = sum(isinstance(row.gain, Estimated) for row in found)
    chosen = "the epoch chosen on the validation split" if plan.headline == "best" else "the last epoch"
    yield (
        f"Accuracies are means ± standard deviations over the seeds, gains those of {chosen} over the student alone "
        "with the same seed (same first weights, same batches), with Student's 95 % interval. Teachers and assistant "
        "are trained once, so that their luck is in no interval."
    )
    yield (
        f"'Helped' and 'harmed' say that the interval leaves out zero. Of {compared} comparisons one in twenty would "
        "do so by chance; few seeds make wide intervals, and 'cannot be told' is not 'no effect'. In the plot their "
        "dots are hollow."
    )
    yield (
        "Time is the processor time of a training run (on a GPU its wall time) as a multiple of the baseline's, "
        "validation included, the training of teachers left out."
    )
    if any(row.name.startswith("data_free") for row in found):
        yield (
            f"Data-free students see no image of the data set, and take {plan.data_free_steps:,} steps of their own on "
            "made-up ones (the papers take many more); their baseline is the student that was trained on real images "
            "and labels."
        )
    if any(row.name.startswith("online") for row in found):
        yield (
            "Online and in self-distillation nobody knows more than the labels of the students' images: the peer is "
            f"a {plan.teacher} that is trained along, on the same images."
        )
    if plan.published:
        yield "Published numbers are of the last epoch where that is known, with teachers of their own."


def _beside(tasks: Sequence[Task], lines: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What else came out of the runs, such as early exits."""
    values: dict[tuple[str, str], list[float]] = {}
    for task in tasks:
        for name, value in lines.get(task.key, {}).get("beside", {}).items():
            values.setdefault((task.configuration, name), []).append(100 * value)
    if values:
        body = [f"| {name} | {what} | {_mean(found)} |" for (name, what), found in values.items()]
        yield "\n".join(["| configuration | also trained | test accuracy, % |", "|---|---|---|", *body])


def _troubles(used: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Runs that diverged and what the loop warned of."""
    told: dict[str, int] = {}
    for line in used:
        for trouble in ([line["failed"]] if line["failed"] else []) + line["warnings"]:
            text = f"{line['configuration']}: {trouble}"
            told[text] = told.get(text, 0) + 1
    if told:
        yield "Warnings of the runs:"
        yield "\n".join(f"- {text} ({count} run{'s' * (count > 1)})" for text, count in told.items())


def picture(plan: Plan, found: Sequence[Row]) -> str:
    """A stand-alone SVG: each configuration's gain over the baseline, with its interval."""
    told = [row for row in found if row.gain is not None]
    near = [end for row in told if abs(_value(row)) <= _FAR for end in _ends(row)]
    edges = min([0.0, *near]), max([0.0, *near])
    plot = plots.dots(
        [plots.Row(row.name, (_dot(row, edges=edges),)) for row in told],
        title=f"Gain over labels alone of {plan.student}",
        label="gain over labels alone, percentage points of test accuracy",
        text=lambda tick: f"{tick:+g}" if tick else "0",
        reference=0.0,
    )
    if not plot:
        return ""
    size = f'xmlns="http://www.w3.org/2000/svg" width="{plots.WIDTH * 1.5:.0f}"'
    background = '<rect class="page" width="100%" height="100%"/>'
    start, _, rest = plot.partition("</title>")
    return f"{start.replace('<svg', f'<svg {size}', 1)}</title>{_style()}{background}{rest}\n"


def _value(row: Row) -> float:
    return row.gain.value if isinstance(row.gain, Estimated) else row.gain or 0.0


def _ends(row: Row) -> tuple[float, float]:
    return (row.gain.low, row.gain.high) if isinstance(row.gain, Estimated) else (_value(row), _value(row))


def _dot(row: Row, *, edges: tuple[float, float]) -> plots.Dot:
    """A dot with its interval; of a gain far away only the number, beside the edge that it lies beyond."""
    value, text = _value(row), f"{_value(row):+.1f}"
    if abs(value) > _FAR:
        beyond = f"◂ {text}" if value < 0 else f"{text} ▸"
        return plots.Dot("beyond", edges[value > 0], text=f"{beyond}, outside of the plot")
    ends = _ends(row) if isinstance(row.gain, Estimated) else (None, None)
    return plots.Dot(row.kind, value, *ends, text=text)


def _style() -> str:
    """Colours are written out, not named once and referred to: few viewers besides browsers know CSS variables."""
    return f"""<style>
text {{ font: 12px system-ui, "Segoe UI", Roboto, "DejaVu Sans", Arial, sans-serif; }}
.label {{ text-anchor: end; }}
.reference {{ stroke-dasharray: 4 4; }}
.interval {{ stroke-width: 4; opacity: .45; stroke-linecap: round; }}
.mark.unsure {{ stroke-width: 2; }}
.beyond {{ display: none; }}
{_colours(_LIGHT)}
@media (prefers-color-scheme: dark) {{
{_colours(_DARK)}
}}
</style>"""


def _colours(of: Mapping[str, str]) -> str:
    return f""".page, .mark.unsure {{ fill: {of["page"]}; }}
text {{ fill: {of["ink"]}; }}
.tick, .axis {{ fill: {of["soft"]}; }}
.grid {{ stroke: {of["grid"]}; }}
.reference, .unsure {{ stroke: {of["soft"]}; }}
.better {{ stroke: {of["better"]}; }} .mark.better {{ fill: {of["better"]}; }}
.worse {{ stroke: {of["worse"]}; }} .mark.worse {{ fill: {of["worse"]}; }}"""
