"""Each of the 23 kinds of fault that the service is made for (docs/reliability.md) has a test that is about it."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROWS = range(1, 24)
_ROW = re.compile(r"Row (\d+): \S")


def _tests() -> Iterator[tuple[str, str]]:
    """Name and docstring of every test."""
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                yield f"{path.relative_to(TESTS)}::{node.name}", ast.get_docstring(node) or ""


def test_every_kind_of_fault_has_a_test() -> None:
    rows = {int(found[1]) for _, docstring in _tests() if (found := _ROW.match(docstring))}
    assert rows == set(ROWS), (
        f"without a test: {sorted(set(ROWS) - rows)}; not in the table: {sorted(rows - set(ROWS))}"
    )
