"""The load benchmark at its smallest: it measures every line of its table and leaves no database behind."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = (
    "--database=postgres", "--rounds=1", "--seconds=1", "--queued=40", "--claims=8", "--pages=5", "--slow-sockets=5",
)  # fmt: skip
LINES = 27


def test_it_measures_every_line_and_cleans_up(postgres_server: str, tmp_path: Path) -> None:
    """Row 18: ten thousand queued jobs, here forty; the page in docs/measured holds a run of full size."""
    page, before = tmp_path / "load.md", load_databases(postgres_server)
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.api_load", *TINY, f"--out={page}"],
        cwd=REPOSITORY,
        env=os.environ | {"TEST_DATABASE_URL": postgres_server},
        capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = page.read_text()
    assert written in done.stdout
    assert "1 round(s), each on a new database with 40 queued jobs" in written
    figures = re.findall(r"^\| .+ \| (-?[\d.]+|nan) \(.+ to .+\) \| .* \| .* \|$", written, re.MULTILINE)
    assert len(figures) == LINES
    assert "nan" not in figures
    assert load_databases(postgres_server) <= before


def load_databases(server: str) -> set[tuple[str]]:
    """Some may be there before: a run that was killed leaves its own."""
    with psycopg.connect(server) as connection:
        return set(connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'distillery_load_%'"))
