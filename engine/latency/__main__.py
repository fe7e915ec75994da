"""python -m engine.latency --job resolved.json --teacher teacher.safetensors --student student.safetensors --out DIR

Repeats the latency measurement of a job. Writes DIR/latency.json, DIR/latency_samples.parquet (.csv where pyarrow is
not installed) and, where Jinja2 is installed, DIR/latency.html, and prints a table.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distillery.errors import DistilleryError, InvalidRequest, MissingDependency, UnreadableData
from distillery.report import LatencyReport, LatencyRow, Percentile, ServerResult, Sweep
from distillery.spec import JobSpec, LatencySpec, parse
from distillery.spec.student import StudentSpec
from distillery.spec.teacher import TeacherSpec
from engine import benchmark_page
from engine.checkpoint import written_whole
from engine.data.dataset import Dataset
from engine.data.readers import load
from engine.delivered import graph_of, network_of
from engine.latency.compare import Contestant, compare, repeat_command
from engine.latency.places import devices_alone
from engine.weights import read_metadata


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when measured, 1 when something was wrong, said on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        report = _measured(arguments)
    except DistilleryError as error:
        sys.stderr.write(f"{error.title}: {error}\n")
        return 1
    sys.stdout.write("".join(f"{line}\n" for line in table(report)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m engine.latency", description=__doc__)
    parser.add_argument("--job", type=Path, required=True, help="the resolved spec of the job, JSON or YAML")
    parser.add_argument("--teacher", type=Path, required=True, help="the teacher's weights (.safetensors or .onnx)")
    parser.add_argument("--student", type=Path, required=True, help="the student's weights (.safetensors)")
    parser.add_argument("--out", type=Path, required=True, help="folder for latency.json and the raw samples")
    parser.add_argument("--threads", type=int, help="CPU threads, in place of the spec's")
    parser.add_argument("--dataset", type=Path, help="the packed file of a stored data set")
    parser.add_argument("--unlabelled", type=Path, help="the packed file of its unlabelled images")
    parser.add_argument("--data-root", type=Path, help="folder that holds data sets named in the spec")
    return parser


def _measured(arguments: argparse.Namespace) -> LatencyReport:
    job = _job(arguments.job, threads=arguments.threads)
    dataset = load(
        job.dataset, data_root=arguments.data_root, stored=arguments.dataset, unlabelled=arguments.unlabelled
    )
    _demand_same_data(job, dataset)
    dataset = _normalised_as(arguments.student, dataset)
    with devices_alone(job.latency or LatencySpec(), on_wait=_waiter()):
        report = _compared(arguments, job, dataset)
    with written_whole(arguments.out / "latency.json") as writer:
        writer.write(report.model_dump_json(indent=2).encode() + b"\n")
    _draw(report, name=job.name, out=arguments.out)
    return report


def _draw(report: LatencyReport, *, name: str, out: Path) -> None:
    try:
        page = benchmark_page.render(report, name=name, samples=out / _samples_name())
    except MissingDependency as absent:  # the figures stand without a page
        sys.stderr.write(f"latency.html is left out: {absent}\n")
        return
    with written_whole(out / "latency.html") as writer:
        writer.write(page.encode())


def _samples_name() -> str:
    return f"latency_samples.{'parquet' if find_spec('pyarrow') else 'csv'}"


def _waiter() -> Callable[[], None]:
    """Tells once that one waits."""
    told: list[bool] = []

    def on_wait() -> None:
        if not told:
            told.append(True)
            sys.stderr.write("Waiting: something is trained or measured on the device.\n")

    return on_wait


def _compared(arguments: argparse.Namespace, job: JobSpec, dataset: Dataset) -> LatencyReport:
    return compare(
        _contestant(arguments.teacher, job.teachers[0] if job.teachers else job.student, dataset=dataset),
        student=_contestant(arguments.student, job.student, dataset=dataset),
        dataset=dataset,
        spec=job.latency or LatencySpec(),
        repeat_with=repeat_command(
            job=arguments.job.name,
            teacher=arguments.teacher.name,
            student=arguments.student.name,
            threads=arguments.threads,
        ),
        samples_file=arguments.out / _samples_name(),
    )


def _job(path: Path, *, threads: int | None) -> JobSpec:
    sent = _read(path)
    if threads is not None and isinstance(sent, dict):
        sent = {**sent, "latency": {**(sent.get("latency") or {}), "threads": threads}}
    return parse(sent)


def _read(path: Path) -> Any:
    """The spec as plain data; JSON is read without PyYAML, which the engine does not need otherwise."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as failed:
        raise InvalidRequest(
            f"The job {path.name} cannot be read: {failed}.", hint="Give the path of a job spec."
        ) from failed
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    try:
        import yaml
    except ImportError as absent:
        raise MissingDependency(
            f"{path.name} is not JSON, and reading YAML needs PyYAML.", hint="Install it with: pip install pyyaml"
        ) from absent
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as failed:
        raise InvalidRequest(f"{path.name} is neither JSON nor YAML: {failed}", hint="Give a job spec.") from failed


def _demand_same_data(job: JobSpec, dataset: Dataset) -> None:
    recorded = job.provenance.data_sha256
    if recorded is not None and recorded != dataset.sha256:
        raise UnreadableData(
            f"The data set {dataset.name} is not the one of the job: its sha256 is {dataset.sha256}, not {recorded}.",
            hint="Point the spec at the same data, or take 'data_sha256' out of 'provenance'.",
            pointer="/provenance/data_sha256",
        )


def _normalised_as(weights: Path, dataset: Dataset) -> Dataset:
    """The data under the normalisation that the student was trained with, which may be its teacher's."""
    told = read_metadata(weights)
    mean = tuple(json.loads(told["mean"])) if "mean" in told else dataset.mean
    std = tuple(json.loads(told["std"])) if "std" in told else dataset.std
    return replace(dataset, mean=mean, std=std)


def _contestant(weights: Path, said: TeacherSpec | StudentSpec, *, dataset: Dataset) -> Contestant:
    if weights.suffix == ".onnx":
        network = graph_of(
            weights,
            classes=len(dataset.classes),
            image_size=dataset.image_size,
            channels=dataset.channels,
            mean=dataset.mean,
            std=dataset.std,
            preprocessing=getattr(said, "preprocessing", None),
        )
        return Contestant(network=network, weights=weights)
    return Contestant(network=network_of(weights, dataset=dataset, otherwise=said.architecture), weights=weights)


def table(report: LatencyReport) -> Iterator[str]:
    """The report as aligned lines of text."""
    where, times = f"{'runtime':<12} {'device':<6} {'batch':>5} {'model':<8}", f"{'p50 ms':>9} {'p95 ms':>9}"
    yield f"{where} {times} {'images/s':>10} {'accuracy':>9}"
    for comparison in report.comparisons:
        for row in comparison.rows:
            where = f"{row.runtime:<12} {row.device:<6} {row.batch_size:>5} {row.model:<8}"
            times = f"{_milliseconds(row.p50):>9} {_milliseconds(row.p95):>9}"
            from_bytes = "  from bytes" if row.input == "end_to_end" else ""
            yield f"{where} {times} {row.images_per_second:>10.1f} {row.accuracy:>9.4f}{from_bytes}{_lost(row)}"
        speedup, control = comparison.speedup, comparison.control
        yield (
            f"  {comparison.verdict}: {speedup.value:.2f} times ({speedup.low:.2f} to {speedup.high:.2f}), "
            f"control {control.value:.3f} ({control.low:.3f} to {control.high:.3f}), {comparison.rounds} rounds"
        )
        yield from (f"  {each.detail}" for each in comparison.noise)
        yield from (f"  {note}" for note in comparison.notes)
    yield from _scenario_lines(report)
    for failure in report.failures:
        yield f"{failure.place}: broke off: {failure.detail}"
    yield from report.notes


def _scenario_lines(report: LatencyReport) -> Iterator[str]:
    """Every batch size of the sweeps and every rate of the servers."""
    for sweep in report.sweeps:
        yield f"batch sweep, {_place(sweep)}: best {sweep.best_batch_size or 'none'}, {sweep.stopped}"
        for point in sweep.points:
            rate = point.images_per_second
            yield f"  {point.batch_size:>5} {rate.value:>12.1f} images/s ({rate.low:.1f} to {rate.high:.1f})"
        yield from (f"  {note}" for note in sweep.notes)
    for server in report.servers:
        highest = "no rate" if server.highest_rate is None else f"up to {server.highest_rate:.1f} requests/s"
        yield f"server, {_place(server)}: {highest} with p99 within {1000 * server.objective_seconds:.3f} ms"
        for each in server.rates:
            p50, p99 = _milliseconds(each.p50), _milliseconds(each.p99)
            outcome = "met" if each.met else "missed"
            yield f"  {each.requests_per_second:>10.1f} requests/s {p50:>9} ms p50 {p99:>9} ms p99  {outcome}"
        yield from (f"  {note}" for note in server.notes)


def _place(measured: Sweep | ServerResult) -> str:
    return f"{measured.runtime} on {measured.device}, {measured.input}, {measured.model}"


def _lost(row: LatencyRow) -> str:
    return f"  degraded: {100 * row.accuracy_lost:.1f} points lost" if row.degraded else ""


def _milliseconds(percentile: Percentile) -> str:
    return "-" if percentile.seconds is None else f"{1000 * percentile.seconds:.3f}"


if __name__ == "__main__":
    sys.exit(main())
