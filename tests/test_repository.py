"""Rules that hold for the repository as a whole."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
FIXED_TOP_LEVEL = {"pyproject.toml", "app", "worker", "models", "migrations", "tests", "docker-compose.yml"}
# Written in pieces, so that this file is not its own finding.
REGISTRY_HOSTS = re.compile(
    "|".join(["pypi" r"\.org", "pythonhosted" r"\.", "npmjs" r"\.(org|com)", "deb" r"\.debian\."])
)
MACHINE_PATHS = re.compile(r"(?:^|[^A-Za-z0-9_.])/(?:work" r"|farm" r"|root" r"|home/[a-z]+)/")


def tracked_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return [REPOSITORY / name for name in listed.stdout.split("\0") if name and (REPOSITORY / name).is_file()]


def test_the_fixed_top_level_is_there() -> None:
    assert {path.name for path in REPOSITORY.iterdir()} >= FIXED_TOP_LEVEL


@pytest.mark.parametrize("pattern", [REGISTRY_HOSTS, MACHINE_PATHS], ids=["registry hosts", "machine paths"])
def test_no_tracked_file_names(pattern: re.Pattern[str]) -> None:
    found = [
        f"{path.relative_to(REPOSITORY)}:{number}"
        for path in tracked_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not found


def test_every_locked_package_is_pinned_and_hashed_and_names_no_address() -> None:
    text = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text
    blocks = re.split(r"\n(?=[a-z0-9])", text.strip())
    assert len(blocks) > 50
    assert [block.splitlines()[0] for block in blocks if "==" not in block or "--hash=sha256:" not in block] == []


def test_the_lock_holds_every_direct_dependency() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    names = {re.match(r"[A-Za-z0-9._-]+", one).group().lower() for one in wanted} - {"distillery"}
    locked = set(re.findall(r"^([a-z0-9._-]+)==", (REPOSITORY / "requirements.lock").read_text(), flags=re.MULTILINE))
    assert names - locked == set()


def test_the_compose_file_follows_the_compose_schema() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    subprocess.run([*check, "docker-compose.yml"], cwd=REPOSITORY, check=True)
