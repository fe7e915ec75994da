"""Predictions: latency under load, what dynamic batching brings, the cold start, and what becomes of too many requests.

    python benchmarks/inference.py [--rounds 5] [--seconds 5] [--clients 1 --clients 16] [--image-size 32] [--out FILE]

Anyone can run it: it distils a small job on digits, and starts the real API and real inference workers over it, all
below a folder of its own that it removes. Clients wait for each answer before they ask again. Batches of up to 64 and
of 1 are measured in interleaved blocks of random order, so that what else the machine does comes to both.
"""

import argparse
import asyncio
import contextlib
import math
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
from api_load_client import Connections, percentile
from inference_service import ROLES, Subject, Way, distilled, pair

WARM_SECONDS = 0.5
LIMITED = 8
"""Requests that API and worker of the overload take at once."""


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


def block(way: Way, *, clients: int, seconds: float) -> Block:
    """So many clients for so long."""
    return asyncio.run(_block(way, clients=clients, seconds=seconds))


async def _block(way: Way, *, clients: int, seconds: float) -> Block:
    found, connections = Block(), Connections(way.port, key=way.key)
    began = time.perf_counter()

    async def client() -> None:
        while (asked := time.perf_counter()) < began + seconds:
            status, _ = await connections.request("POST", way.path, way.body)
            found.statuses[status] += 1
            took = time.perf_counter() - asked
            {200: found.seconds, 429: found.refused}.get(status, []).append(took)

    try:
        await asyncio.gather(*(client() for _ in range(clients)))
    finally:
        connections.close()
    found.lasted = time.perf_counter() - began
    return found


Blocks = dict[tuple[str, str, int, int], list[Block]]
"""By door, role, clients and the largest batch."""
DOORS = {"API": Subject.through_api, "worker": Subject.to_worker}


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
                block(subject.through_api(pairs[batch], role), clients=1, seconds=WARM_SECONDS)
        cells = [(door, role, clients) for door in DOORS for role in ROLES for clients in options.clients]
        for number in range(options.rounds):
            for door, role, clients in cells:
                for batch in chance.sample((64, 1), 2):
                    way = DOORS[door](subject, pairs[batch], role)
                    one = block(way, clients=clients, seconds=options.seconds)
                    assert set(one.statuses) == {200}, one.statuses
                    found.setdefault((door, role, clients, batch), []).append(one)
                    told = f"{door}, {role}, {clients} clients, batch {batch}: {one.per_second:.0f}/s"
                    print(f"round {number + 1}: {told}", flush=True)
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
        way = subject.through_api(running, "teacher")
        block(way, clients=options.crowd, seconds=options.seconds)  # its memory as it will be
        alone = block(way, clients=LIMITED, seconds=options.seconds)
        whole, memory = Block(), [running.memory]
        for _ in range(options.rounds):
            part = block(way, clients=options.crowd, seconds=options.seconds)
            memory.append(running.memory)
            whole.seconds += part.seconds
            whole.refused += part.refused
            whole.statuses += part.statuses
            whole.lasted += part.lasted
    return Overload(alone, whole, memory)


def load_table(found: Blocks) -> list[str]:
    """Latency and throughput, and the gain of batching round by round."""
    lines = [
        "| asked | network | clients | p50, ms | p95, ms | images/s | images/s, batch of 1 | gain |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for door, role, clients, batch in found:
        if batch == 1:
            continue
        batched, single = (found[door, role, clients, each] for each in (64, 1))
        seconds = [value for each in batched for value in each.seconds]
        ratios = [one.per_second / other.per_second for one, other in zip(batched, single, strict=True)]
        gain = math.exp(statistics.fmean(map(math.log, ratios)))
        rates = [statistics.median(each.per_second for each in blocks) for blocks in (batched, single)]
        lines.append(
            f"| {door} | {role} | {clients} | {percentile(seconds, 0.5):.1f} | {percentile(seconds, 0.95):.1f} | "
            f"{rates[0]:.0f} | {rates[1]:.0f} | {gain:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
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
        f"{options.image_size} pixels; one image a request, as base64 in JSON.",
        f"- {options.rounds} round(s) of {options.seconds:g} s for each cell.",
        "", "## Under load", "",
        "Each client waits for its answer before it asks again. The gain is the throughput with batches of up to 64 "
        "against batches of 1, in interleaved blocks: the geometric mean, and the smallest and largest of the rounds. "
        "Below, the worker is asked as the API asks it: the API has work of its own with each request.",
        "", *load_table(blocks),
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
        subject = distilled(
            Path(folder), teacher=options.teacher, student=options.student, image_size=options.image_size
        )
        command = f"python benchmarks/inference.py {given}".strip()
        text = page(subject, options, command=command, load_before=load_before)
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
