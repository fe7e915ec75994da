"""Predictions: latency under load, what dynamic batching brings, the cold start, and what becomes of too many requests.

    python benchmarks/inference.py [--rounds 5] [--seconds 5] [--clients 1 --clients 16] [--image-size 32] [--out FILE]

Anyone can run it: it distils a small job on digits, and starts the real API and real inference workers over it, all
below a folder of its own that it removes. Clients wait for each answer before they ask again. Batches of up to 64 and
of 1 are measured in interleaved blocks of random order, so that what else the machine does comes to both.
"""

import argparse
import asyncio
import base64
import contextlib
import io
import json
import math
import os
import platform
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import psutil
from api_load_client import Connections, percentile
from PIL import Image

from distillery import spec as specs
from distillery.client import Client
from distillery.spec.dataset import DigitsData
from engine.data.readers import load
from store import inference, jobs
from store.artifacts import Artifacts
from store.config import LeaseConfig
from store.db import Database, migrate
from worker.attempt import run_one

READY_SECONDS = 120.0
WARM_SECONDS = 0.5
LIMITED = 8
"""Requests that API and worker of the overload take at once."""
ROLES = ("student", "teacher")
MEBIBYTE = 1 << 20


@dataclass
class Block:
    """What became of the requests of some clients in some seconds."""

    seconds: list[float] = field(default_factory=list)
    """Of each answer of 200."""
    refused: list[float] = field(default_factory=list)
    """Of each answer of 429."""
    statuses: Counter[int] = field(default_factory=Counter)
    lasted: float = 0.0

    @property
    def per_second(self) -> float:
        """Images answered."""
        return len(self.seconds) / self.lasted


@dataclass(frozen=True)
class Pair:
    """An API and an inference worker over a database of their own."""

    port: int
    api: psutil.Process
    worker: psutil.Process
    announced_seconds: float
    """From the start of the worker's process until the API can find it."""

    @property
    def memory(self) -> float:
        """Of both together, in MiB."""
        return float(self.api.memory_info().rss + self.worker.memory_info().rss) / MEBIBYTE


@dataclass(frozen=True)
class Subject:
    """What is asked about what."""

    folder: Path
    models: dict[str, str]
    """The id of each role."""
    body: bytes


def distilled(options: argparse.Namespace, folder: Path) -> Subject:
    """Run the job, here."""
    data = {"kind": "digits", "image_size": options.image_size}
    training = {"epochs": 1, "batch_size": 64, "seed": 0, "device": "cpu", "precision": "fp32"}
    sent = specs.parse(
        {
            "dataset": data,
            "teacher": {"architecture": options.teacher, "train": {"epochs": 1}},
            "student": {"architecture": options.student},
            "training": training,
            "baseline": False,
            "latency": None,
        }
    )
    url = f"sqlite:///{folder / 'distillery.db'}"
    migrate(url)
    database = Database(url)
    with database.transaction() as session:
        job_id = jobs.submit(session, sent=sent, resolved=specs.resolve(sent)).id
    run_one(
        database, Artifacts(str(folder / "artifacts")), worker="benchmark", queues=("default",), lease=LeaseConfig(),
        stop=threading.Event(), work_root=folder / "work",
    )  # fmt: skip
    with database.read() as session:
        job = jobs.get(session, job_id)
    assert job.status == "succeeded", job.error
    database.close()
    with pair(folder, "distillery.db") as running, Client(f"http://127.0.0.1:{running.port}") as client:
        kept = {model.role: model.id for model in client.models()}
    digit = load(DigitsData.model_validate(data)).test.images[0][0]
    held = io.BytesIO()
    Image.fromarray(digit.numpy()).save(held, "PNG")
    body = json.dumps({"images": [base64.b64encode(held.getvalue()).decode()], "top_k": 1}).encode()
    return Subject(folder, {role: kept[role] for role in ROLES}, body)


@contextlib.contextmanager
def pair(folder: Path, database: str, **environment: str) -> Iterator[Pair]:
    """Both processes, ready."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    url = f"sqlite:///{folder / database}"
    told = {
        "DISTILLERY_DATABASE_URL": url, "DISTILLERY_ARTIFACTS": str(folder / "artifacts"),
        "DISTILLERY_WORK_DIR": str(folder / "work"), "DISTILLERY_API_KEY": "", "DISTILLERY_PREDICTIONS": "256",
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        api = stack.enter_context(process(folder, "app.serve", "--port", str(port), **told | environment))
        until(lambda: ready(port), api)
        began = time.monotonic()
        worker = stack.enter_context(process(folder, "worker.inference", **told | environment))
        until(lambda: announced(url), worker)
        yield Pair(port, psutil.Process(api.pid), psutil.Process(worker.pid), time.monotonic() - began)


@contextlib.contextmanager
def process(folder: Path, *command: str, **environment: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of ours, ended by SIGTERM."""
    with (folder / f"{command[0]}.log").open("ab") as log:
        running = subprocess.Popen(
            [sys.executable, "-m", *command], env=os.environ | environment, stdout=log, stderr=log
        )
    try:
        yield running
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(timeout=60)


def until(condition: Callable[[], bool], running: "subprocess.Popen[bytes]") -> None:
    """Return when it holds."""
    deadline = time.monotonic() + READY_SECONDS
    while not condition():
        assert running.poll() is None, f"{running.args} ended with code {running.returncode}"
        assert time.monotonic() < deadline, f"{running.args} is not ready after {READY_SECONDS:.0f} s"
        time.sleep(0.01)


def ready(port: int) -> bool:
    """Whether the API serves."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == httpx.codes.OK
    return False


def announced(url: str) -> bool:
    """Whether the API would find a worker."""
    with contextlib.closing(Database(url)) as database, database.read() as session:
        return bool(inference.living(session))


def block(subject: Subject, at: Pair, role: str, *, clients: int, seconds: float) -> Block:
    """So many clients for so long."""
    path = f"/v1/models/{subject.models[role]}/predict"
    return asyncio.run(_block(at.port, path, subject.body, clients=clients, seconds=seconds))


async def _block(port: int, path: str, body: bytes, *, clients: int, seconds: float) -> Block:
    found, connections = Block(), Connections(port, key="none")
    began = time.perf_counter()

    async def client() -> None:
        while (asked := time.perf_counter()) < began + seconds:
            status, _ = await connections.request("POST", path, body)
            found.statuses[status] += 1
            took = time.perf_counter() - asked
            {200: found.seconds, 429: found.refused}.get(status, []).append(took)

    try:
        await asyncio.gather(*(client() for _ in range(clients)))
    finally:
        connections.close()
    found.lasted = time.perf_counter() - began
    return found


Blocks = dict[tuple[str, int, int], list[Block]]
"""By role, clients and the largest batch."""


def under_load(subject: Subject, options: argparse.Namespace) -> Blocks:
    """Batches of up to 64 against batches of 1."""
    found: Blocks = {}
    chance = random.Random(0)  # noqa: S311 - an order
    with contextlib.ExitStack() as stack:
        pairs = {}
        for batch in (64, 1):
            shutil.copy(subject.folder / "distillery.db", subject.folder / f"batch{batch}.db")
            settings = {"DISTILLERY_INFERENCE_BATCH": str(batch)}
            pairs[batch] = stack.enter_context(pair(subject.folder, f"batch{batch}.db", **settings))
            for role in ROLES:
                block(subject, pairs[batch], role, clients=1, seconds=WARM_SECONDS)
        for number in range(options.rounds):
            for role in ROLES:
                for clients in options.clients:
                    for batch in chance.sample((64, 1), 2):
                        one = block(subject, pairs[batch], role, clients=clients, seconds=options.seconds)
                        assert set(one.statuses) == {200}, one.statuses
                        found.setdefault((role, clients, batch), []).append(one)
                        print(
                            f"round {number + 1}: {role}, {clients} clients, batch {batch}: {one.per_second:.0f}/s",
                            flush=True,
                        )
    return found


Starts = dict[str, list[float]]


def cold_starts(subject: Subject, options: argparse.Namespace) -> Starts:
    """A fresh worker each time: until it is found, its first answer, and the first of another network."""
    found: Starts = {"announced": [], "first": [], "second": [], "warm": []}
    for _ in range(options.rounds):
        with pair(subject.folder, "distillery.db") as running:
            found["announced"].append(running.announced_seconds)
            for name, role in (("first", "student"), ("second", "teacher"), ("warm", "teacher")):
                with httpx.Client(base_url=f"http://127.0.0.1:{running.port}", timeout=120) as http:
                    found[name].append(_timed(http, subject, role, cold=name != "warm"))
    return found


def _timed(http: httpx.Client, subject: Subject, role: str, *, cold: bool) -> float:
    began = time.perf_counter()
    headers = {"Content-Type": "application/json"}
    answer = http.post(f"/v1/models/{subject.models[role]}/predict", content=subject.body, headers=headers)
    took = time.perf_counter() - began
    assert answer.json()["cold"] == cold, answer.text
    return took


@dataclass(frozen=True)
class Overload:
    """Far more clients than places, who all ask again at once."""

    alone: Block
    crowded: Block
    memory: Sequence[float]
    """MiB of both processes before, and after each part of the crowd's time."""


def overloaded(subject: Subject, options: argparse.Namespace) -> Overload:
    """A service that takes few requests at once, and a crowd."""
    few = {"DISTILLERY_PREDICTIONS": str(LIMITED), "DISTILLERY_INFERENCE_REQUESTS": str(LIMITED)}
    with pair(subject.folder, "distillery.db", **few) as running:
        block(subject, running, "teacher", clients=options.crowd, seconds=options.seconds)  # its memory as it will be
        alone = block(subject, running, "teacher", clients=LIMITED, seconds=options.seconds)
        whole, memory = Block(), [running.memory]
        for _ in range(options.rounds):
            part = block(subject, running, "teacher", clients=options.crowd, seconds=options.seconds)
            memory.append(running.memory)
            whole.seconds += part.seconds
            whole.refused += part.refused
            whole.statuses += part.statuses
            whole.lasted += part.lasted
    return Overload(alone, whole, memory)


def load_table(found: Blocks, options: argparse.Namespace) -> list[str]:
    """Latency and throughput, and the gain of batching round by round."""
    lines = [
        "| network | clients | p50, ms | p95, ms | images/s | images/s, batch of 1 | gain |",
        "|---|---|---|---|---|---|---|",
    ]
    for role in ROLES:
        for clients in options.clients:
            batched, single = found[role, clients, 64], found[role, clients, 1]
            seconds = [value for each in batched for value in each.seconds]
            ratios = [one.per_second / other.per_second for one, other in zip(batched, single, strict=True)]
            gain = math.exp(statistics.fmean(map(math.log, ratios)))
            rates = (statistics.median(each.per_second for each in blocks) for blocks in (batched, single))
            lines.append(
                f"| {role} | {clients} | {percentile(seconds, 0.5):.1f} | {percentile(seconds, 0.95):.1f} | "
                f"{next(rates):.0f} | {next(rates):.0f} | {gain:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
            )
    return lines


def start_table(found: Starts) -> list[str]:
    """The cold starts."""
    named = {
        "announced": "process started until it can be asked (it has loaded no network and no PyTorch)",
        "first": "first answer of all: PyTorch, the student's file, the student",
        "second": "first answer of the teacher: its file, the teacher",
        "warm": "second answer of the teacher",
    }
    lines = ["| | median, ms | smallest to largest |", "|---|---|---|"]
    for name, text in named.items():
        values = [1000 * value for value in found[name]]
        lines.append(f"| {text} | {statistics.median(values):.0f} | {min(values):.0f} to {max(values):.0f} |")
    return lines


def overload_table(found: Overload, options: argparse.Namespace) -> list[str]:
    """What the crowd was told, and what it did to those who were served."""
    crowd, total = found.crowded, sum(found.crowded.statuses.values())
    others = {status: count for status, count in crowd.statuses.items() if status not in (200, 429)}
    kept = ", ".join(f"{value:.0f}" for value in found.memory)
    rows = {
        "answered with 200": f"{crowd.statuses[200] / total:.1%}, {crowd.per_second:.0f}/s",
        "answered with 429": f"{crowd.statuses[429] / total:.1%}",
        "anything else": str(others or "none"),
        "p95 of a 429": f"{percentile(crowd.refused, 0.95):.1f} ms",
        "p50 and p95 of a 200": f"{percentile(crowd.seconds, 0.5):.1f} and {percentile(crowd.seconds, 0.95):.1f} ms",
        f"the same with {LIMITED} clients": f"{percentile(found.alone.seconds, 0.5):.1f} and "
        f"{percentile(found.alone.seconds, 0.95):.1f} ms, {found.alone.per_second:.0f}/s",
        "memory of API and worker, MiB": kept,
    }
    head = f"| {options.crowd} clients, {LIMITED} places | |"
    return [head, "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def machine(load_before: float) -> str:
    """Where the figures come from."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    cpu = next((line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), "")
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "onnxruntime", "uvicorn"))
    return (
        f"- {cpu or platform.machine()}, {os.cpu_count()} cores, {platform.system()} {platform.release()}; Python "
        f"{platform.python_version()}, {packages}; load before the run {load_before:.1f}. API, worker and clients "
        "share the machine."
    )


def page(subject: Subject, options: argparse.Namespace, *, command: str, load_before: float) -> str:
    """Everything, measured and told."""
    blocks, starts, crowd = under_load(subject, options), cold_starts(subject, options), overloaded(subject, options)
    lines = [
        "# Predictions, as measured", "", f"Written by `{command}`, {time.strftime('%Y-%m-%d')}.", "",
        machine(load_before),
        f"- Student {options.student} in ONNX Runtime and teacher {options.teacher} in PyTorch, images of "
        f"{options.image_size} pixels; one image a request, as base64 in JSON, through the API.",
        f"- {options.rounds} round(s) of {options.seconds:g} s for each cell.",
        "", "## Under load", "",
        "Each client waits for its answer before it asks again. The gain is the throughput with batches of up to 64 "
        "against batches of 1, in interleaved blocks: the geometric mean, and the smallest and largest of the rounds.",
        "", *load_table(blocks, options),
        "", "## Cold start", "", *start_table(starts),
        "", "## Overload", "",
        "All clients ask again at once, whatever Retry-After says.", "", *overload_table(crowd, options),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def options_of(arguments: list[str] | None) -> Any:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each block")
    parser.add_argument("--clients", type=int, action="append", help="at once; may be given again")
    parser.add_argument("--crowd", type=int, default=64, help="clients of the overload")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--teacher", default="resnet56")
    parser.add_argument("--student", default="resnet20")
    parser.add_argument("--out", type=Path, help="file for the page")
    options = parser.parse_args(arguments)
    options.clients = options.clients or [1, 4, 16, 32]
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the page."""
    load_before, options = os.getloadavg()[0], options_of(arguments)
    given = " ".join(sys.argv[1:] if arguments is None else arguments)
    with tempfile.TemporaryDirectory(prefix="distillery-inference-") as folder:
        subject = distilled(options, Path(folder))
        command = f"python benchmarks/inference.py {given}".strip()
        text = page(subject, options, command=command, load_before=load_before)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
