"""The page on events tells of every type of event, and of no other."""

import re
from pathlib import Path
from typing import get_args

from distillery.views import EventType

PAGE = Path(__file__).parents[1] / "docs" / "events.md"


def test_every_type_of_event_is_explained() -> None:
    told = re.findall(r"^\| `([a-z_]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert sorted(told) == sorted(get_args(EventType))
