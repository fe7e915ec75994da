"""The API beside MLflow's tracking server: submit, get, list over 10,000 rows, and an event to 500 who listen.

    python -m benchmarks.api [--rounds 5] [--short] [--database sqlite] [--database postgres] [--no-mlflow] [--out FILE]

Anyone can run it: it makes databases of its own (SQLite files, and databases on TEST_DATABASE_URL's server), MLflow's
environment in `.peers-mlflow`, and starts both services on free ports. The same client asks both, in the same rounds
and in turn first; the ratio is that of a round. MLflow's nearest: to create a run and log its parameters is a submit,
to get a run a get, to search runs a list. It has no live streams.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.api_fanout import FanOut, fan_out
from benchmarks.api_load_client import percentile
from benchmarks.api_load_queue import postgres, sqlite
from benchmarks.api_peers import PAGE_SIZE, Running, distillery, install_mlflow, mlflow
from benchmarks.surroundings import heading, others_busy
from store.db import Database

OPERATIONS = ("submit", "get", "list")
MEMORY_LIMIT = 150.0
FOREIGN_CORES = 0.2
"""More than this, and a page says that others used the machine meanwhile."""


@dataclass(frozen=True)
class Block:
    """So many requests, and how long each and all of them took."""

    seconds: tuple[float, ...]
    lasted: float

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.lasted


@dataclass
class Found:
    """Everything measured: blocks by database, service and operation; a value a round."""

    blocks: dict[tuple[str, str, str], list[Block]] = field(default_factory=dict)
    fanouts: dict[str, list[FanOut]] = field(default_factory=dict)
    memory: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)
    foreign: list[float] = field(default_factory=list)


async def block(running: Running, operation: str, *, count: int, clients: int, offset: int) -> Block:
    """Some clients on kept connections, each of which asks again as soon as it is answered."""
    seconds: list[float] = []
    headers = {"Authorization": f"Bearer {running.key}"} if running.key else {}
    numbers = iter(range(offset, offset + count))
    act = getattr(running, operation)
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=running.url, headers=headers, timeout=60, limits=limits) as http:
        await asyncio.gather(*(running.get(http, each) for each in range(clients)))  # connections are there

        async def client() -> None:
            for number in numbers:
                asked = time.perf_counter()
                await act(http, number)
                seconds.append(time.perf_counter() - asked)

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return Block(tuple(seconds), time.perf_counter() - began)


@contextlib.contextmanager
def services(database: str, options: argparse.Namespace) -> Iterator[tuple[list[Running], str]]:
    """Both services, each on a database of its own of this kind; and the URL of ours."""
    make = {"postgres": postgres, "sqlite": sqlite}[database]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="distillery-api-")))
        url = stack.enter_context(make())
        running = [stack.enter_context(distillery(url, folder=folder, rows=options.rows))]
        if options.mlflow:
            empty = {"postgres": lambda: postgres(tables=False), "sqlite": lambda: sqlite(tables=False)}[database]
            theirs = stack.enter_context(empty())
            if database == "postgres":
                theirs = theirs.replace("postgresql://", "postgresql+psycopg2://")
            workers = options.mlflow_workers
            running.append(stack.enter_context(mlflow(theirs, folder=folder, rows=options.rows, workers=workers)))
        yield running, url


def measure(options: argparse.Namespace) -> Found:
    """All rounds of each database, the services in turn first."""
    found = Found()
    if options.mlflow:
        install_mlflow()
    for database in options.database:
        with services(database, options) as (running, url):
            for each in running:
                for operation in OPERATIONS:
                    _block(each, operation, options, offset=0, count=options.clients * 5)
            for number in range(options.rounds):
                found.foreign.append(others_busy(1.0))
                print(f"{database}, round {number + 1}, others kept {found.foreign[-1]:.2f} cores busy", flush=True)
                for operation in OPERATIONS:
                    for each in _rotated(running, number):
                        one = _block(each, operation, options, offset=number * options.requests)
                        found.blocks.setdefault((database, each.name, operation), []).append(one)
                        print(f"  {each.name} {operation}: {one.rate:.0f}/s", flush=True)
            asyncio.run(_page_through(running[0]))
            found.memory |= {(database, each.name): each.memory() for each in running}
            ours = Database(url)
            told = asyncio.run(fan_out(running[0], ours, clients=options.listeners, events=options.events))
            ours.close()
            found.fanouts[database] = [told]
            print(f"  fan-out: p50 {told.p50:.0f} ms, {told.delivered_per_second:.0f}/s", flush=True)
    return found


def _rotated(running: Sequence[Running], number: int) -> Sequence[Running]:
    place = number % len(running)
    return [*running[place:], *running[:place]]


def _block(
    running: Running, operation: str, options: argparse.Namespace, *, offset: int, count: int | None = None
) -> Block:
    count = options.requests if count is None else count
    return asyncio.run(block(running, operation, count=count, clients=options.clients, offset=offset))


async def _page_through(running: Running) -> None:
    """Every row of the list once, in the largest pages."""
    headers = {"Authorization": f"Bearer {running.key}"}
    async with httpx.AsyncClient(base_url=running.url, headers=headers, timeout=60) as http:
        token = ""
        while token is not None:
            query = {"page_size": "200"} | ({"page_token": token} if token else {})
            token = (await http.get("/v1/jobs", params=query)).raise_for_status().json()["next_page_token"]


def report(found: Found, options: argparse.Namespace, *, command: str, load_before: float) -> str:
    """The page."""
    busiest = max(found.foreign)
    trust = "" if busiest <= FOREIGN_CORES else " **These figures were not taken on a quiet machine.**"
    lines = [
        *heading("The API, as measured", command=command, load_before=load_before),
        f"- {options.rounds} round(s) of {options.requests} requests by {options.clients} client(s) on kept "
        f"connections (httpx), over {options.rows} rows and those that were added; the services in turn first. "
        "Client, services and Postgres share the machine.",
        f"- A second before each round others kept {busiest:.2f} cores busy at the most.{trust}",
        f"- A submit to MLflow is `runs/create` and `runs/log-batch` with the parameters of the spec, a get is "
        f"`runs/get`, a list `runs/search` with pages of {PAGE_SIZE} as ours. MLflow runs {options.mlflow_workers} "
        "processes, ours is one. MLflow has no live streams.",
    ]  # fmt: skip
    for database in options.database:
        lines += ["", f"## {database.capitalize()}", "", *_compared(found, database), "", *_alone(found, database)]
    return "\n".join(lines) + "\n"


def _compared(found: Found, database: str) -> Iterator[str]:
    yield "| | Distillery, 1/s | p50, ms | p99, ms | MLflow, 1/s | p50, ms | p99, ms | ratio of rates |"
    yield "|---|---|---|---|---|---|---|---|"
    for operation in OPERATIONS:
        ours = found.blocks[database, "Distillery", operation]
        theirs = found.blocks.get((database, "MLflow", operation), [])
        ratio = _spread([one.rate / other.rate for one, other in zip(ours, theirs, strict=False)], digits=2)
        yield f"| {operation} | {_cells(ours)} | {_cells(theirs)} | {ratio} |"


def _cells(blocks: Sequence[Block]) -> str:
    rates = _spread([each.rate for each in blocks], digits=0)
    tails = (_spread([percentile(each.seconds, share) for each in blocks], digits=1) for share in (0.5, 0.99))
    return " | ".join([rates, *tails])


def _alone(found: Found, database: str) -> Iterator[str]:
    (told,) = found.fanouts[database]
    yield "| | |"
    yield "|---|---|"
    yield f"| an event to all who listen, from its commit, p50 | {told.p50:.0f} ms |"
    yield f"| the same, p99 | {told.p99:.0f} ms |"
    yield f"| events delivered in a burst | {told.delivered_per_second:.0f} 1/s |"
    yield f"| processor time of the API while all only listen | {told.idle_cpu:.3f} s/s |"
    missed = "" if told.memory < MEMORY_LIMIT else " (below 150: **missed**)"
    yield f"| memory of the API with all of them | {told.memory:.0f} MB{missed} |"
    for (where, name), (megabytes, processes) in found.memory.items():
        if where == database:
            yield f"| memory of {name} after every row was listed, {processes} process(es) | {megabytes:.0f} MB |"


def _spread(values: Sequence[float], *, digits: int) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", action="append", choices=("postgres", "sqlite"), help="one or both")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=400, help="of a block")
    parser.add_argument("--clients", type=int, default=4, help="at once")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--listeners", type=int, default=500)
    parser.add_argument("--events", type=int, default=10)
    parser.add_argument("--mlflow", action=argparse.BooleanOptionalAction, default=True, help="beside MLflow")
    parser.add_argument("--mlflow-workers", type=int, default=4, help="its processes; four are its own default")
    parser.add_argument("--short", action="store_true", help="three rounds of 100 requests on SQLite alone")
    parser.add_argument("--out", type=Path, help="file for the page")
    options = parser.parse_args(arguments)
    if options.short:
        options.rounds, options.requests, options.events = 3, 100, 3
        options.database = options.database or ["sqlite"]
    options.database = options.database or ["sqlite", "postgres"]
    return options


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the page."""
    load_before, options = os.getloadavg()[0], options_of(arguments)
    found = measure(options)
    given = " ".join(sys.argv[1:] if arguments is None else arguments)
    page = report(found, options, command=f"python -m benchmarks.api {given}".strip(), load_before=load_before)
    print(page)
    if options.out:
        options.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
