"""How long one waits: for the help, for the service to be ready, and from a claim to the first step of training.

    python -m benchmarks.startup [--rounds 5] [--short] [--out FILE]

Anyone can run it: each round runs `distillery up` on a new home folder and then again on the same one, and lets it
distil two jobs on digits, the first and the second of this worker. Processor seconds are given beside the wall's: on a
machine that does other work, those tell more.
"""

import argparse
import contextlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.surroundings import heading

JOB = {
    "dataset": {"kind": "digits", "image_size": 8},
    "teacher": {"architecture": "resnet14", "train": {"epochs": 1}},
    "student": {"architecture": "resnet8"},
    "training": {"epochs": 1, "batch_size": 256, "seed": 0, "device": "cpu"},
    "baseline": False,
    "export": ["safetensors"],
    "latency": None,
}
"""Fewer than ten steps an epoch, so that each is told, the first one too."""
LOOK_SECONDS = 0.02
MOST_SECONDS = 180.0


@dataclass(frozen=True)
class Row:
    """One line of the table: what is waited for, and for how long at the most."""

    name: str
    unit: str = "s"
    below: float | None = None


ROWS = {
    "help": Row("`distillery --help`", below=0.3),
    "help_cpu": Row("its processor time"),
    "new": Row("`distillery up` with a new home, until it is ready", below=3.0),
    "new_cpu": Row("processor time of all its processes until then"),
    "kept": Row("`distillery up` with a home that was used before, until it is ready", below=3.0),
    "kept_cpu": Row("processor time of all its processes until then"),
    "heard": Row("first job: from the claim to the trainer's first word"),
    "began": Row("first job: from the claim to the first phase with steps"),
    "step": Row("first job: from the claim until its first step is told by the API", below=5.0),
    "again": Row("second job of the same worker: the same", below=5.0),
}


@dataclass
class Waits:
    """Seconds, by row; a value a round."""

    values: dict[str, list[float]] = field(default_factory=dict)

    def put(self, **values: float) -> None:
        """Add this round's values."""
        for key, value in values.items():
            self.values.setdefault(key, []).append(value)
            print(f"  {ROWS[key].name}: {value:.2f} s", flush=True)


@dataclass(frozen=True)
class Service:
    """A `distillery up` that is ready."""

    url: str
    ready_seconds: float
    cpu_seconds: float


def help_round() -> dict[str, float]:
    """The help, as a shell would show it."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "distillery", "--help"], stdout=subprocess.DEVNULL, check=True)
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"help": took, "help_cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


@contextlib.contextmanager
def up(home: Path) -> Iterator[Service]:
    """The whole service on a free port, until the block ends."""
    command = [sys.executable, "-m", "distillery", "up", "--home", str(home), "--port", "0", "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DISTILLERY_")}
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            ready = time.perf_counter() - began
            assert line, f"distillery up ended with code {process.wait()}"
            yield Service(json.loads(line)["url"], ready, _spent(psutil.Process(process.pid)))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=MOST_SECONDS)


def _spent(process: psutil.Process) -> float:
    """Processor seconds of a process, of what it waited for, and of its children."""
    own = process.cpu_times()
    spent = own.user + own.system + own.children_user + own.children_system
    return float(spent + sum(_spent(child) for child in process.children()))


def first_step(url: str) -> dict[str, float]:
    """Seconds from the claim of a job to its trainer's first word, to its first phase with steps, and to a step."""
    with httpx.Client(base_url=url, timeout=30) as http:
        answer = http.post("/v1/jobs", json=JOB)
        assert answer.is_success, answer.text
        own = f"/v1/jobs/{answer.json()['id']}"
        deadline = time.monotonic() + MOST_SECONDS
        while not http.get(f"{own}/metrics").json()["series"]:
            assert time.monotonic() < deadline, f"no step within {MOST_SECONDS:.0f} s"
            time.sleep(LOOK_SECONDS)
        seen = time.time()
        events = http.get(f"{own}/events").json()["data"]
        while http.get(own).json()["status"] in ("queued", "running"):
            assert time.monotonic() < deadline, f"no end within {MOST_SECONDS:.0f} s"
            time.sleep(10 * LOOK_SECONDS)
    claimed = _at(events, "started")
    return {
        "heard": _at(events, "phase", phase="preparing") - claimed,
        "began": _at(events, "phase", phase="teaching") - claimed,
        "step": seen - claimed,
    }


def _at(events: Sequence[dict[str, Any]], kind: str, *, phase: str = "") -> float:
    """When the first event of this kind (and phase) happened."""
    found = (each for each in events if each["type"] == kind and (not phase or each["data"].get("phase") == phase))
    return datetime.fromisoformat(next(found)["at"]).timestamp()


def measure(options: argparse.Namespace) -> Waits:
    """All rounds."""
    waits = Waits()
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", flush=True)
        waits.put(**help_round())
        with tempfile.TemporaryDirectory(prefix="distillery-startup-") as text:
            home = Path(text) / "home"
            with up(home) as service:
                waits.put(new=service.ready_seconds, new_cpu=service.cpu_seconds)
            with up(home) as service:
                waits.put(kept=service.ready_seconds, kept_cpu=service.cpu_seconds)
                waits.put(**first_step(service.url))
                waits.put(again=first_step(service.url)["step"])
    return waits


def report(waits: Waits, *, command: str, load_before: float) -> str:
    """The page."""
    lines = [*heading("Start-up, as measured", command=command, load_before=load_before)]
    rounds = max(len(each) for each in waits.values.values())
    lines += [f"- {rounds} round(s): median (smallest to largest).", "", "| | seconds | target |", "|---|---|---|"]
    for key, row in ROWS.items():
        values = waits.values[key]
        middle = statistics.median(values)
        target = "" if row.below is None else f"below {row.below:g}"
        target += ": **missed**" if row.below is not None and middle >= row.below else ""
        lines.append(f"| {row.name} | {middle:.2f} ({min(values):.2f} to {max(values):.2f}) | {target} |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--short", action="store_true", help="one round")
    parser.add_argument("--out", type=Path, help="file for the page")
    options = parser.parse_args(arguments)
    options.rounds = 1 if options.short else options.rounds
    load_before = os.getloadavg()[0]
    waits = measure(options)
    given = " ".join(sys.argv[1:] if arguments is None else arguments)
    page = report(waits, command=f"python -m benchmarks.startup {given}".strip(), load_before=load_before)
    print(page)
    if options.out:
        options.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
