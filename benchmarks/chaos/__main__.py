"""Kills, stops, empties and crashes everything at random under a thousand jobs, and says what was lost and doubled.

    python -m benchmarks.chaos --seed 7 --markdown docs/measured/chaos.md        (make chaos CHAOS="--seed 7 ...")

Three parts, which `--parts` chooses from: `servers` (Postgres and Redis of its own, three Celery workers and an
embedded one), `sqlite` (embedded workers only, a fifth of the jobs and kills and half of the stops) and `weights` (a
real distillation). About 25 minutes on two cores. Exit code 1 when a job was lost, ended twice or delivered something
wrong, when a stale write was accepted, or when an invariant is broken; then the workers' logs are kept.
"""

import argparse
import contextlib
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.chaos import verdict, watch, weights
from benchmarks.chaos.page import page
from benchmarks.chaos.plan import Plan
from benchmarks.chaos.storm import Servers, Storm
from benchmarks.chaos.verdict import Verdict
from benchmarks.chaos.weights import Survival
from store.db import migrate
from tests.faults.servers import private_postgres, private_redis

_PARTS = ("servers", "sqlite", "weights")
_ASKED = 0.03
"""Share of the jobs that are cancelled, and of those that are paused and resumed."""


def main(arguments: list[str] | None = None) -> int:
    """Run the parts that are asked for; 1 when a promise was broken."""
    given = _options(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the private servers go too
    folder = Path(tempfile.mkdtemp(prefix="distillery-chaos-"))
    verdicts: dict[str, Verdict] = {}
    survival: Survival | None = None
    for part in given.parts.split(","):
        print(f"{part}, seed {given.seed}", flush=True)
        place = folder / part
        place.mkdir()
        if part == "weights":
            survival = weights.survive(place, kills=given.weight_kills, seed=given.seed)
            continue
        name = "Postgres and Redis" if part == "servers" else "SQLite"
        verdicts[name] = _storm(part, given, folder=place)
    written = page(_command(given), verdicts, survival)
    print(written)
    if given.markdown:
        given.markdown.write_text(written)
    if any(each.complaints for each in (*verdicts.values(), survival) if each is not None):
        print(f"The promise was broken. The workers' logs are in {folder}.")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", default=",".join(_PARTS), help="of servers, sqlite, weights")
    for name, count in (("jobs", 1000), ("kills", 300), ("stops", 60), ("flushes", 20), ("crashes", 10)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--weight-kills", type=int, default=20, help="of the real distillation")
    parser.add_argument("--seed", type=int, default=random.randrange(10_000))  # noqa: S311 - faults, not secrets
    parser.add_argument("--markdown", type=Path, help="file to write the page to")
    given = parser.parse_args(arguments)
    if unknown := set(given.parts.split(",")) - set(_PARTS):
        parser.error(f"unknown parts: {', '.join(sorted(unknown))}; there are {', '.join(_PARTS)}")
    return given


def _command(given: argparse.Namespace) -> str:
    names = ("parts", "jobs", "kills", "stops", "flushes", "crashes", "weight_kills", "seed")
    chosen = " ".join(f"--{name.replace('_', '-')} {getattr(given, name)}" for name in names)
    return f"python -m benchmarks.chaos {chosen}"


def _storm(part: str, given: argparse.Namespace, *, folder: Path) -> Verdict:
    plan = _plan(part, given)
    with _servers(part, folder) as servers:
        migrate(servers.database_url)
        storm = Storm(plan, servers, folder=folder)
        watch.begin(storm.database)
        storm.run(tell=lambda line: print(line, flush=True))
        found = verdict.judge(storm)
        storm.database.close()
    return found


def _plan(part: str, given: argparse.Namespace) -> Plan:
    if part == "servers":
        asked = round(given.jobs * _ASKED)
        return Plan(
            jobs=given.jobs, kills=given.kills, stops=given.stops, flushes=given.flushes, crashes=given.crashes,
            cancels=asked, pauses=asked, celery=3, embedded=1, seed=given.seed,
        )  # fmt: skip
    jobs = given.jobs // 5
    return Plan(
        jobs=jobs, kills=given.kills // 5, stops=given.stops // 2, flushes=0, crashes=0,
        cancels=round(jobs * _ASKED), pauses=round(jobs * _ASKED), celery=0, embedded=4, seed=given.seed,
    )  # fmt: skip


@contextlib.contextmanager
def _servers(part: str, folder: Path) -> Iterator[Servers]:
    if part == "sqlite":
        yield Servers(f"sqlite:///{folder / 'distillery.db'}")
        return
    with private_postgres() as postgres, private_redis() as redis:
        yield Servers(postgres.url, redis.url, crash=postgres.restart, flush=redis.flush)


if __name__ == "__main__":
    sys.exit(main())
