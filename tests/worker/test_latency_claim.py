"""A latency measurement is claimed like any other work; its program is given the subject's weights."""

import sys
from pathlib import Path
from typing import Any

import pytest

from distillery.report import Estimated, LatencyReport
from distillery.spec import LatencySpec
from distillery.views import Benchmark
from store import benchmarks, files
from worker.attempt import Programs

Service = Any

_COMMAND = """
import argparse, json, sys
from pathlib import Path
parser = argparse.ArgumentParser()
for name in ("job", "teacher", "student", "out"):
    parser.add_argument(f"--{name}", type=Path, required=True)
given = parser.parse_args()
print("measuring", json.loads(given.job.read_text())["latency"]["batch_sizes"])
print(given.teacher.read_text(), "against", given.student.read_text())
"""


def _program(folder: Path, *, ending: str) -> Programs:
    script = folder / "measure.py"
    script.write_text(_COMMAND + ending)
    return Programs(latency=(sys.executable, str(script)))


def _report() -> LatencyReport:
    one = Estimated(value=1, low=0.9, high=1.1)
    nothing = {"seconds": None, "reason": "too few calls"}
    row = {
        "model": "teacher", "runtime": "eager", "device": "cpu", "batch_size": 1, "threads": 1, "n": 30,
        "p50": nothing, "p90": nothing, "p95": nothing, "p99": nothing, "mean_seconds": 0.1, "stdev_seconds": 0.1,
        "images_per_second": 10, "parameters": 1, "macs": 1, "file_bytes": 1, "peak_memory_bytes": None,
        "cold_start_seconds": 1, "warmup_calls": 3, "warmup_steady": True, "accuracy": 0.5, "agreement": 1,
    }  # fmt: skip
    comparison = {
        "runtime": "eager", "device": "cpu", "batch_size": 1, "threads": 1, "rounds": 30, "control": one,
        "speedup": Estimated(value=2.5, low=2.4, high=2.6), "verdict": "faster",
        "rows": (row, row | {"model": "student"}),
    }  # fmt: skip
    return LatencyReport.model_validate(
        {
            "protocol": "1", "comparisons": (comparison,), "environment": {}, "weights_sha256": {"teacher": "0" * 64},
            "repeat_with": "python -m engine.latency",
        }
    )  # fmt: skip


@pytest.fixture
def subject(embedded: Service) -> str:
    job_id = embedded.submit(steps="2")
    assert embedded.run_one()
    return str(job_id)


def _ask(service: Service, subject: str) -> str:
    with service.database.transaction() as session:
        return benchmarks.request(session, subject, spec=LatencySpec(batch_sizes=(1, 64))).id


def _answer(service: Service, subject: str) -> Benchmark:
    with service.database.read() as session:
        return benchmarks.latest(session, subject)


def test_a_measurement_ends_with_its_report_and_its_files(embedded: Service, subject: str, tmp_path: Path) -> None:
    benchmark_id = _ask(embedded, subject)
    ending = f"(given.out / 'latency.json').write_text({_report().model_dump_json()!r})\n"
    ending += "(given.out / 'latency_samples.parquet').write_text('round,order\\n')\n"
    assert embedded.run_one(programs=_program(tmp_path, ending=ending))
    answer = _answer(embedded, subject)
    assert (answer.id, answer.status, answer.result) == (benchmark_id, "succeeded", _report())
    log = embedded.content(benchmark_id, "trainer.log").decode()
    assert "measuring [1, 64]" in log
    assert f"a teacher against {embedded.content(subject, 'student.safetensors').decode()}" in log
    with embedded.database.read() as session:
        names = [each.name for each in files.artifacts(session, benchmark_id)]
    assert names == ["latency.json", "latency_samples.parquet", "trainer.log"]


def test_a_measurement_that_says_why_it_cannot_be_made_has_failed(
    embedded: Service, subject: str, tmp_path: Path
) -> None:
    _ask(embedded, subject)
    assert embedded.run_one(programs=_program(tmp_path, ending="sys.exit('The weights cannot be used')"))
    answer = _answer(embedded, subject)
    assert answer.status == "failed"
    assert answer.error is not None
    assert answer.error.code == "LATENCY_FAILED"
    assert "The weights cannot be used" in answer.error.detail


def test_a_measurement_that_is_killed_is_tried_again(embedded: Service, subject: str, tmp_path: Path) -> None:
    _ask(embedded, subject)
    assert embedded.run_one(programs=_program(tmp_path, ending="import os; os.kill(os.getpid(), 9)"))
    assert _answer(embedded, subject).status == "queued"
