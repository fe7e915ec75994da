"""Hostile data-set files: python -m tests.hostile.make_corpus FOLDER

Every file lies, unfolds, leads outside, or is a program under another name. The same files come out every time. Those
that could run code would leave a marker file at the path in the environment variable DISTILLERY_MARKER, which must
never appear.
"""

import json
import sys
from pathlib import Path

from tests.hostile import data_archives, data_arrays, data_images, data_tables
from tests.hostile.cases import Case

EXPECTED = "expected.json"


def cases() -> list[Case]:
    """All of them, in a fixed order."""
    found = [case for module in (data_archives, data_images, data_arrays, data_tables) for case in module.cases()]
    assert len({case.file_name for case in found}) == len(found), "Two cases have one name."
    return found


def make(folder: Path) -> int:
    """Write every file, and beside them what each must be refused as; gives how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    expected = {}
    for case in cases():
        case.write(folder)
        expected[case.file_name] = case.refused_as
    (folder / EXPECTED).write_text(json.dumps(expected, indent=1))
    return len(expected)


if __name__ == "__main__":
    print(f"{make(Path(sys.argv[1])):,} files")
