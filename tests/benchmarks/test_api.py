"""The comparison of the API at its smallest, without the peer: every row is measured, and no database stays behind."""

import os
import re
import subprocess
import sys
from pathlib import Path

from benchmarks.api_peers import LOCK
from tests.benchmarks.test_api_load import load_databases

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = ("--rounds=2", "--requests=8", "--clients=2", "--rows=60", "--listeners=6", "--events=1", "--no-mlflow")


def test_it_measures_every_row_on_both_databases_and_cleans_up(postgres_server: str, tmp_path: Path) -> None:
    page, before = tmp_path / "api.md", load_databases(postgres_server)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.api", *TINY, f"--out={page}"],
        cwd=REPOSITORY, env=os.environ | {"TEST_DATABASE_URL": postgres_server}, capture_output=True, text=True,
        timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = page.read_text()
    assert written in done.stdout
    for database in ("Sqlite", "Postgres"):
        part = written.partition(f"## {database}\n")[2].partition("\n## ")[0]
        for operation in ("submit", "get", "list"):
            assert re.search(
                rf"^\| {operation} \| \d+ \(\d+ to \d+\) \| \d+\.\d \(.+\) \| .+ \| - \|$", part, re.MULTILINE
            )
        assert re.search(r"^\| an event to all who listen, from its commit, p50 \| \d+ ms \|$", part, re.MULTILINE)
        assert re.search(r"^\| memory of the API with all of them \| \d+ MB", part, re.MULTILINE)
    assert load_databases(postgres_server) <= before


def test_the_peer_is_locked_by_hashes_and_by_no_address() -> None:
    locked = LOCK.read_text()
    assert re.search(r"^mlflow==[\d.]+ \\$", locked, re.MULTILINE)
    assert "--index-url" not in locked
    assert "://" not in locked
    for package in re.findall(r"^\S+==.*\n(?P<next>.*)$", locked, re.MULTILINE):
        assert package.strip().startswith("--hash=sha256:")
