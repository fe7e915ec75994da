"""The tables of the command line: whoever takes part in a job stands in them, and what nobody measured is empty."""

import io
from typing import Any

import pytest
from rich.console import Console

from distillery import tables
from distillery.report import (
    EarlyExit,
    Estimated,
    LatencyComparison,
    LatencyReport,
    LatencyRow,
    Percentile,
    Quality,
    Report,
    SeedRun,
    ServedRate,
    ServerResult,
    Spread,
    Sweep,
    SweepPoint,
)
from distillery.spec import parse
from distillery.views import ObjectiveTerm, QueuePlace

ONE = Estimated(value=1.0, low=0.99, high=1.01)
GIVEN = {"architecture": "resnet56", "weights": "teacher.safetensors"}
SPEC: dict[str, Any] = {
    "dataset": {"name": "digits"}, "teacher": GIVEN, "student": {"architecture": "resnet8"},
}  # fmt: skip


def shown(table: Any) -> list[str]:
    """The lines of a table, with single spaces."""
    written = io.StringIO()
    Console(width=250, file=written).print(table)
    return [" ".join(line.split()) for line in written.getvalue().splitlines() if line.strip()]


def quality(role: str, *, value: float = 0.9) -> Quality:
    return Quality(
        role=role, architecture=f"net of {role}", images=360, top1=Estimated(value=value, low=value - 0.01, high=value),
        top5=None, ece=0.02, loss=0.1, per_class={}, parameters=1000, macs=2_000_000, file_bytes=5000,
        train_seconds=1.0, images_per_second=None, best_epoch=None, best_validation=None, last_validation=None,
    )  # fmt: skip


def latency(slow: float, fast: float) -> LatencyReport:
    def row(model: str, seconds: float) -> LatencyRow:
        told = Percentile(seconds=seconds)
        return LatencyRow(
            model=model, runtime="eager", device="cpu", batch_size=8, threads=1, n=30, p50=told, p90=told, p95=told,
            p99=told, mean_seconds=seconds, stdev_seconds=0, images_per_second=1, parameters=1, macs=1, file_bytes=1,
            peak_memory_bytes=None, cold_start_seconds=1, warmup_calls=1, warmup_steady=True, accuracy=1, agreement=1,
        )  # fmt: skip

    compared = LatencyComparison(
        runtime="eager", device="cpu", batch_size=8, threads=1, rounds=30, verdict="faster", control=ONE,
        speedup=Estimated(value=slow / fast, low=1, high=9), rows=(row("teacher", slow), row("student", fast)),
    )  # fmt: skip
    return LatencyReport(
        protocol="p", comparisons=(compared,), environment={}, weights_sha256={"teacher": "a"}, repeat_with="-"
    )


def report(*roles: str, **changes: Any) -> Report:
    told = {
        "summary": "It helped.", "helped": True, "gain": None, "gap_closed": None, "speedup": None, "warnings": (),
        "quality": tuple(quality(role) for role in roles), "disagreements": (), "curves": (), "latency": None,
        "dataset": {}, "environment": {}, "spec": {},
    }  # fmt: skip
    return Report(**told | changes)


def test_whoever_taught_or_learned_has_a_column() -> None:
    lines = shown(
        tables.report_table(
            report("student", "teacher1", "teacher2", "assistant2", "assistant1", "baseline", "teacher", "exit1")
        )
    )
    assert lines[0] == "teacher assistant 1 assistant 2 student student alone exit 1"
    assert "net of teacher1" not in " ".join(lines)


def test_several_seeds_have_their_mean() -> None:
    runs = tuple(SeedRun(seed=seed, student=0.9, baseline=0.8) for seed in range(3))
    spread = Spread(
        runs=runs, student=Estimated(value=0.91, low=0.9, high=0.92), student_stdev=0.01,
        baseline=Estimated(value=0.81, low=0.8, high=0.82), baseline_stdev=0.01, gain=None,
    )  # fmt: skip
    lines = shown(tables.report_table(report("teacher", "student", "baseline", seeds=spread)))
    place = next(place for place, line in enumerate(lines) if line.startswith("mean of 3 seeds"))
    assert lines[place] == "mean of 3 seeds 91.00 % 81.00 %"
    assert lines[place + 1] == "95 % interval 90.00 to 92.00 80.00 to 82.00"


def test_each_median_stands_with_the_network_that_it_is_of() -> None:
    lines = shown(tables.report_table(report("teacher", "student", "baseline", latency=latency(0.02, 0.005))))
    assert lines[-1] == "p50 latency, eager, batch 8 20 ms 5 ms as student"
    exits = (
        EarlyExit(role="exit1", stage="layer1", latency=latency(0.01, 0.002)),
        EarlyExit(role="exit2", stage="layer2", latency=latency(0.01, 0.004)),
    )
    itself = report("student", "baseline", "exit1", "exit2", exits=exits)
    assert shown(tables.report_table(itself))[-1] == "p50 latency, eager, batch 8 10 ms as student 2 ms 4 ms"
    written = io.StringIO()
    tables.print_report(itself, console=Console(width=250, file=written))
    text = written.getvalue()
    assert "exit 1 against student" in text
    assert "exit 2 against student" in text
    assert "student against teacher" not in text
    assert "It helped." in text


def test_a_report_without_times_has_no_row_of_them() -> None:
    exits = (EarlyExit(role="exit1", stage="layer1", latency=None),)
    lines = shown(tables.report_table(report("student", "exit1", exits=exits)))
    assert not [line for line in lines if "latency" in line]


def _scenarios() -> LatencyReport:
    points = tuple(
        SweepPoint(
            batch_size=size, p50_seconds=0.001 * size,
            images_per_second=Estimated(value=1000.4 * size, low=900, high=2500),
        )
        for size in (1, 2, 4)
    )  # fmt: skip
    place = {"runtime": "onnxruntime", "device": "cpu", "threads": 2}
    sweep = Sweep(
        model="student", **place, rounds=12, points=points, best_batch_size=2, stopped_by="time", stopped="Time was up."
    )
    p50, p95, p99 = (Percentile(seconds=value) for value in (0.002, 0.0005, 0.0312))
    rate = ServedRate(requests_per_second=1234.56, n=500, utilisation=0.5, p50=p50, p95=p95, p99=p99, met=True)
    server = ServerResult(
        model="teacher", **place, input="end_to_end", objective_seconds=0.05, service_seconds=0.001,
        highest_rate=1234.56, lowest_missed=1300, rates=(rate,), notes=("a note",),
    )  # fmt: skip
    nothing = {"points": (), "best_batch_size": None}
    none = {"highest_rate": None, "lowest_missed": 7, "rates": ()}
    return latency(0.02, 0.005).model_copy(
        update={
            "sweeps": (sweep, sweep.model_copy(update=nothing)), "servers": (server, server.model_copy(update=none)),
        }
    )  # fmt: skip


def test_sweeps_and_servers_have_tables_of_their_own() -> None:
    compared, swept, served = (shown(table) for table in tables.latency_tables(_scenarios()))
    assert compared[0].startswith("student against teacher")
    assert swept[0] == "batch sweep device model best batch images/s 95 % interval p50 up to why no larger"
    assert swept[2] == "onnxruntime cpu, 2 threads student 2 2,001 900 to 2,500 2 ms 4 Time was up."
    assert swept[3] == "onnxruntime cpu, 2 threads student - - - - - Time was up."
    assert served[2] == ("onnxruntime from bytes cpu, 2 threads teacher 50 ms 1,234.6/s 1,300.0/s 2 ms 500 µs 31.2 ms")
    assert served[3] == "onnxruntime from bytes cpu, 2 threads teacher 50 ms - 7.0/s - - -"
    assert tables.speed_doubts(_scenarios())[0] == "onnxruntime from bytes, cpu, 2 threads, teacher: a note"


def test_what_was_timed_from_bytes_is_told_apart() -> None:
    alone = latency(0.02, 0.005)
    (compared,) = alone.comparisons
    whole = latency(0.03, 0.015).comparisons[0].model_copy(update={"input": "end_to_end"})
    both = alone.model_copy(update={"comparisons": (compared, whole)})
    first, second = shown(tables.speedup_table(both))[-2:]
    assert first.startswith("eager, batch 8 cpu, 1 thread 20 ms 5 ms")
    assert second.startswith("eager from bytes, batch 8 cpu, 1 thread 30 ms 15 ms")
    assert shown(tables.report_table(report("teacher", "student", latency=both)))[-2:] == [
        "p50 latency, eager, batch 8 20 ms 5 ms", "p50 latency, eager from bytes, batch 8 30 ms 15 ms",
    ]  # fmt: skip


def test_what_was_not_measured_has_no_table() -> None:
    assert len(tables.latency_tables(latency(0.02, 0.005))) == 1
    alone = _scenarios().model_copy(update={"comparisons": (), "servers": ()})
    assert [shown(table)[0].split()[0] for table in tables.latency_tables(alone)] == ["batch"]


KD = "objective 0.1 cross_entropy, 0.9 soft_targets"
BARE = {"architecture": "resnet20"}


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({}, ["strategy offline", "teacher resnet56", "student resnet8", KD]),
        (
            {"teacher": {"members": [GIVEN, GIVEN | {"architecture": "resnet110"}], "merge": "confidence"}, "seeds": 3},
            ["teacher resnet56 + resnet110 (confidence)", "seeds 3"],
        ),
        (
            {"assistants": [{"architecture": "resnet44"}, BARE]},
            ["teacher resnet56", "assistants resnet44, resnet20", "student resnet8"],
        ),
        (
            {"method": {"preset": ["kd", "at"]}},
            [f"{KD}, 1000 attention_transfer (kd + at)"],
        ),
        ({"method": {"preset": "fitnet"}}, ["objective 1 cross_entropy, 100 hint (fitnet)"]),
        (
            {"teacher": [BARE, BARE], "method": {"strategy": "online"}},
            ["teacher resnet20 + resnet20 (mean_logits)", "objective 1 cross_entropy, 1 soft_targets"],
        ),
        (
            {"teacher": None, "method": {"strategy": "self_distillation"}},
            ["strategy self_distillation", "teacher itself", "objective 0.9 hard, 0.1 soft, 1e-06 hint"],
        ),
        (
            {"method": {"strategy": "data_free", "synthesis": "dafl"}},
            ["strategy data_free", "objective 1 soft_targets, on images made by dafl"],
        ),
    ],
)  # fmt: skip
def test_a_job_tells_who_takes_part_and_what_is_learned(peer: Any, changes: dict[str, Any], lines: list[str]) -> None:
    told = shown(tables.job_table(peer.job(spec=parse(SPEC | changes)), ()))
    assert [line for line in lines if line not in told] == []
    assert [line for line in told if line.startswith("seeds")] == [line for line in lines if line.startswith("seeds")]


@pytest.mark.parametrize(
    ("position", "line"),
    [
        (7, "status queued place 7 in 'gpu', priority 90"),
        (1000, "status queued place 1000 or behind it in 'gpu', priority 90"),
    ],
)
def test_a_queued_job_tells_its_place(peer: Any, position: int, line: str) -> None:
    place = QueuePlace(name="gpu", position=position)
    assert line in shown(tables.job_table(peer.job(status="queued", queue=place, priority=90), ()))


def test_the_catalogues_say_when_to_use_what() -> None:
    entry = ObjectiveTerm(
        name="offline", summary="s", paper="Somebody, 2015", when_to_use="Always.", defaults={}, json_schema={},
        presets={"kd": (), "dkd": ()},
    )  # fmt: skip
    assert "offline Always. Somebody, 2015" in shown(tables.terms_table([entry]))
    assert "offline Always. kd, dkd Somebody, 2015" in shown(tables.strategies_table([entry]))
