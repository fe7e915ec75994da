"""The service under load: 10,000 queued jobs, 50 submits and 150 reads a second, 300 slow sockets, a training job.

    python -m benchmarks.api_load [--database postgres] [--database sqlite] [--rounds 3] [--seconds 30] [--out FILE]

Anyone can run it: it makes a database of its own on TEST_DATABASE_URL (default: Postgres at 127.0.0.1:5432) or a SQLite
file, starts the API as `python -m app.serve` on a free port, and removes both. Every round begins with a new database.
Requests come at a constant rate, and their latency counts from when they were due, so that waiting in line is not
left out. The clients run on the same machine and take their share of it.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import httpx
import psutil
import psycopg

from benchmarks.api_load_client import Connections, Measured, constant_rate, dawdle, one_by_one, percentile
from benchmarks.api_load_queue import DEFAULT_SERVER, SPAWN, SPEC, claims, fill, postgres, sqlite

READY_SECONDS = 120.0
WARM_SECONDS = 5.0
PROCESSES = 4
SUBMITS, READS = 50, 150
READ_KINDS = ("job", "list", "events")
TRAINING = {
    "dataset": {"kind": "digits", "image_size": 8},
    "teacher": {"architecture": "resnet14", "train": {"epochs": 1}},
    "student": {"architecture": "resnet8"},
    "training": {"epochs": 10_000, "batch_size": 64, "seed": 0, "threads": 1, "device": "cpu"},
    "baseline": False,
}


@dataclass(frozen=True)
class Row:
    """One line of the table: how to name it, its unit, and below (or above) what it is to stay."""

    name: str
    unit: str
    below: float | None = None
    above: float | None = None


ROWS = {
    "claim_p50_1": Row("claim, 1 process, p50", "ms"),
    "claim_p99_1": Row("claim, 1 process, p99", "ms", below=50),
    f"claim_p50_{PROCESSES}": Row(f"claim, {PROCESSES} processes, p50", "ms"),
    f"claim_p99_{PROCESSES}": Row(f"claim, {PROCESSES} processes, p99", "ms", below=50),
    "finished": Row(f"claim and finish, {PROCESSES} processes", "1/s", above=500),
    "list_p50": Row("list page of 50, one client, p50", "ms"),
    "list_p99": Row("list page of 50, one client, p99", "ms", below=100),
    **{
        f"{key}{suffix}": Row(f"{name}, {where}", unit, below=below)
        for suffix, where in (("", "with slow sockets"), ("_beside", "with slow sockets, beside training"))
        for key, name, unit, below in (
            ("submit_p50", "submit p50", "ms", None),
            ("submit_p99", "submit p99", "ms", 200),
            ("read_p50", "read p50", "ms", None),
            ("read_p99", "read p99", "ms", 200),
            ("pages_p99", "of these, list pages p99", "ms", 100),
            ("failed", "5xx or broken", "", 1),
            ("refused", "4xx", "", 1),
            ("answered", "answers a second", "1/s", None),
            ("api_cpu", "processor time of the API", "s/s", None),
            ("slow_closed", "slow sockets closed meanwhile", "", None),
        )
    },
}


@dataclass
class Load:
    """What a run is asked to do, and what it has measured: by database and by row, a value a round."""

    options: argparse.Namespace
    values: dict[str, dict[str, list[float]]] = field(default_factory=dict)

    def put(self, database: str, **values: float) -> None:
        """Add this round's values."""
        for key, value in values.items():
            self.values.setdefault(database, {}).setdefault(key, []).append(value)
            print(f"  {ROWS[key].name}: {value:.1f} {ROWS[key].unit}", flush=True)


@contextlib.contextmanager
def api(database_url: str, *, key: str, folder: Path) -> Iterator[tuple[int, psutil.Process]]:
    """The API as a process, with the limits it has by default; its port, and it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    environment = {
        "DISTILLERY_DATABASE_URL": database_url,
        "DISTILLERY_ARTIFACTS": str(folder / "artifacts"),
        "DISTILLERY_API_KEY": key,
    }
    with (folder / "api.log").open("wb") as log:
        command = [sys.executable, "-m", "app.serve", "--port", str(port)]
        process = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log)
    try:
        _until(lambda: _ready(port), process)
        yield port, psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def _ready(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == httpx.codes.OK
    return False


def _until(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not condition():
        assert process.poll() is None, f"{process.args} ended with code {process.returncode}"
        assert time.monotonic() < deadline, f"{process.args} is not ready after {READY_SECONDS:.0f} s"
        time.sleep(0.1)


@contextlib.contextmanager
def training(folder: Path) -> Iterator[None]:
    """A real distillation on digits with one thread, well on its way."""
    spec, out = folder / "job.json", folder / f"out-{secrets.token_hex(4)}"
    spec.write_text(json.dumps(TRAINING))
    environment = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    with (folder / "training.log").open("wb") as log:
        command = [sys.executable, "-m", "worker.run", str(spec), "--out", str(out)]
        process = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log)
    try:
        seen = psutil.Process(process.pid)
        _until(lambda: "training" in (folder / "training.log").read_text() and seen.cpu_times().user > 1, process)
        yield
        assert process.poll() is None, "the training job has ended before the measurement"
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def slow_sockets(port: int, count: int) -> Iterator[Callable[[], int]]:
    """So many sockets that send a byte a second, all open; a function that tells how many were closed so far."""
    opened, closed = SPAWN.Value("i"), SPAWN.Value("i")
    process = SPAWN.Process(target=dawdle, args=(port, count, opened, closed), daemon=True)
    process.start()
    try:
        while count and opened.value < count:
            time.sleep(0.1)
        yield lambda: int(closed.value)
    finally:
        process.terminate()
        process.join()


def claim_round(load: Load, name: str, url: str) -> None:
    """Claims with the queue full, by one process and by several."""
    count = load.options.claims
    for processes in (1, PROCESSES):
        found = claims(url, processes=processes, each=count // processes).seconds
        tail = {f"claim_p50_{processes}": percentile(found, 0.5), f"claim_p99_{processes}": percentile(found, 0.99)}
        load.put(name, **tail)
        fill(url, count)
    load.put(name, finished=claims(url, processes=PROCESSES, each=count // PROCESSES, finish=True).per_second)
    fill(url, count)


def request_round(load: Load, name: str, url: str, *, job_ids: Sequence[str], beside_first: bool) -> None:
    """List pages alone, and then everything at once, with and without a training job."""
    options, key = load.options, secrets.token_hex(16)
    with tempfile.TemporaryDirectory(prefix="distillery-load-") as text:
        folder = Path(text)
        with api(url, key=key, folder=folder) as (port, process):
            pages = asyncio.run(_pages(port, key=key, count=options.pages))
            load.put(name, list_p50=pages.percentile(["list"], 0.5), list_p99=pages.percentile(["list"], 0.99))
            for beside in (beside_first, not beside_first):
                with (
                    training(folder) if beside else contextlib.nullcontext(),
                    slow_sockets(port, options.slow_sockets) as closed,
                ):
                    asyncio.run(_rate(port, key=key, seconds=min(WARM_SECONDS, options.seconds), job_ids=job_ids))
                    before, spent = closed(), _spent(process)
                    measured = asyncio.run(_rate(port, key=key, seconds=options.seconds, job_ids=job_ids))
                    figures = figures_of(measured, seconds=options.seconds)
                    figures |= {"api_cpu": (_spent(process) - spent) / options.seconds}
                    figures |= {"slow_closed": float(closed() - before)}
                    load.put(name, **{f"{key}{'_beside' * beside}": value for key, value in figures.items()})


def figures_of(measured: Measured, *, seconds: float) -> dict[str, float]:
    """The values of one measurement, by row."""
    answers = sum(measured.statuses.values())
    return {
        "submit_p50": measured.percentile(["submit"], 0.5),
        "submit_p99": measured.percentile(["submit"], 0.99),
        "read_p50": measured.percentile(READ_KINDS, 0.5),
        "read_p99": measured.percentile(READ_KINDS, 0.99),
        "pages_p99": measured.percentile(["list"], 0.99),
        "failed": float(measured.failed),
        "refused": float(sum(count for status, count in measured.statuses.items() if 400 <= status < 500)),
        "answered": answers / seconds,
    }


async def _pages(port: int, *, key: str, count: int) -> Measured:
    connections = Connections(port, key=key)
    await one_by_one(connections, "/v1/jobs", count=min(20, count))
    try:
        return await one_by_one(connections, "/v1/jobs", count=count)
    finally:
        connections.close()


async def _rate(port: int, *, key: str, seconds: float, job_ids: Sequence[str]) -> Measured:
    connections, body = Connections(port, key=key), json.dumps(SPEC).encode()
    try:
        return await constant_rate(
            connections, seconds=seconds, submits=SUBMITS, reads=READS, body=body, job_ids=job_ids
        )
    finally:
        connections.close()


def _spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(load: Load) -> None:
    """All rounds."""
    for number in range(load.options.rounds):
        for name in load.options.database:
            print(f"{name}, round {number + 1} of {load.options.rounds}, load {os.getloadavg()[0]:.1f}", flush=True)
            with {"postgres": postgres, "sqlite": sqlite}[name]() as url:
                began = time.perf_counter()
                job_ids = fill(url, load.options.queued)
                print(f"  {len(job_ids) / (time.perf_counter() - began):.0f} jobs a second queued in bulk", flush=True)
                claim_round(load, name, url)
                request_round(load, name, url, job_ids=job_ids, beside_first=number % 2 == 1)


def machine(load_before: float) -> list[str]:
    """Where the figures come from."""
    with psycopg.connect(os.environ.get("TEST_DATABASE_URL", DEFAULT_SERVER)) as connection:
        server = connection.info.server_version
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    cpu = next((line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), "")
    packages = ", ".join(f"{name} {version(name)}" for name in ("uvicorn", "fastapi", "sqlalchemy", "psycopg"))
    return [
        f"- Machine: {cpu or platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}; "
        f"load before the run {load_before:.1f}. Service, Postgres, clients and the training job share it.",
        f"- Python {platform.python_version()}, {packages}; Postgres {server // 10000}.{server % 10000}.",
    ]


def report(load: Load, *, command: str, load_before: float) -> str:
    """The page: how it was measured, and a table for each database."""
    options = load.options
    lines = ["# The service under load, as measured", "", f"Written by `{command}`, {time.strftime('%Y-%m-%d')}.", ""]
    lines += machine(load_before)
    lines += [
        f"- {options.rounds} round(s), each on a new database with {options.queued:,} queued jobs: median (smallest to "
        f"largest). Requests came for {options.seconds:g} s at {SUBMITS} submits and {READS} reads a second (half of "
        "them jobs, a third list pages, a sixth pages of events), and count from when they were due.",
        f"- {options.slow_sockets} sockets sent a byte a second all the while, more than the service holds; those that "
        "it closed came back after a second. The API ran with its default limits and a key.",
    ]
    for name, values in load.values.items():
        lines += ["", f"## {name.capitalize()}", "", "| | measured | unit | target |", "|---|---|---|---|"]
        lines += [_line(ROWS[key], values[key]) for key in ROWS if key in values]
    return "\n".join(lines) + "\n"


def _line(row: Row, values: Sequence[float]) -> str:
    middle, digits = statistics.median(values), 2 if row.unit == "s/s" else 1 if row.unit == "ms" else 0
    said = f"{middle:.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
    target, met = "", True
    if row.below is not None:
        target, met = f"below {row.below:g}" if row.below > 1 else "none", middle < row.below
    elif row.above is not None:
        target, met = f"above {row.above:g}", middle > row.above
    return f"| {row.name} | {said} | {row.unit} | {target if met else f'{target}: **missed**'} |"


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", action="append", choices=("postgres", "sqlite"), help="one or both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0, help="of requests at a constant rate")
    parser.add_argument("--queued", type=int, default=10_000, help="jobs in the queue")
    parser.add_argument("--claims", type=int, default=1000, help="claims of a round, by all processes together")
    parser.add_argument("--pages", type=int, default=300, help="list pages of a round")
    parser.add_argument("--slow-sockets", type=int, default=300)
    parser.add_argument("--out", type=Path, help="file for the page")
    options = parser.parse_args(arguments)
    options.database = options.database or ["postgres", "sqlite"]
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the page."""
    load_before = os.getloadavg()[0]
    load = Load(options_of(arguments))
    measure(load)
    given = " ".join(sys.argv[1:] if arguments is None else arguments)
    page = report(load, command=f"python -m benchmarks.api_load {given}".strip(), load_before=load_before)
    print(page)
    if load.options.out:
        load.options.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
