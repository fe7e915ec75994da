"""The networks of a report: their order, what they are called, and by what line and mark each is known in the plots."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from distillery.report import Report
from engine.plots import TONES

MAIN = ("teacher", "student", "baseline")
"""The roles with a line and a mark of their own."""
OTHERS = 5
"""Lines and marks for the other roles; the tones beyond have the colours of the main three."""
_ORDER = ("teacher", "assistant", "student", "exit", "baseline")


def in_order(roles: Iterable[str]) -> list[str]:
    """Those that taught first, then the student, its exits, and the baseline."""
    return sorted(roles, key=_place)


def _place(role: str) -> tuple[int, int, str]:
    family, number = _parts(role)
    return (_ORDER.index(family) if family in _ORDER else len(_ORDER), number, role)


def _parts(role: str) -> tuple[str, int]:
    """`teacher2` is the second of the teachers, `teacher` their head."""
    found = re.fullmatch(r"([a-z]+)([0-9]*)", role)
    return (role, 0) if found is None else (found[1], int(found[2] or 0))


def role_name(role: str) -> str:
    """In words: Teacher, Assistant 2."""
    family, number = _parts(role)
    return f"{family.capitalize()} {number}" if number else family.capitalize()


def kinds(roles: Iterable[str]) -> dict[str, str]:
    """The CSS class of each; beyond five others they begin anew."""
    others = [role for role in in_order(roles) if role not in MAIN]
    return {**{role: role for role in MAIN}, **{role: TONES[at % OTHERS] for at, role in enumerate(others)}}


def captions(report: Report) -> dict[str, str]:
    """The heads of the columns: names, and of several teachers how many they are."""
    found = {each.role: role_name(each.role) for each in report.quality}
    members = several(report.spec)
    if "teacher" in found and members:
        merge = report.spec["teacher"].get("merge")
        told = f"the first of {members}" if strategy(report.spec) == "online" else f"{members} networks, {merge}"
        found["teacher"] = f"Teacher ({told})"
    return found


def several(spec: Mapping[str, Any]) -> int:
    """How many members the ensemble of teachers has; 0 where there is none."""
    teacher = spec.get("teacher")
    return len(teacher["members"]) if isinstance(teacher, dict) and "members" in teacher else 0


def strategy(spec: Mapping[str, Any]) -> str:
    """`offline`, `online`, `self_distillation` or `data_free`."""
    method = spec.get("method")
    return str(method.get("strategy", "offline")) if isinstance(method, dict) else "offline"


def built(report: Report) -> dict[str, str]:
    """What each network is: its architecture, the members of an ensemble counted, and where an exit stands."""
    stages = {each.role: each.stage for each in report.exits}
    found = {each.role: _counted(each.architecture) for each in report.quality}
    return found | {role: f"behind {stage}" for role, stage in stages.items() if role in found}


def _counted(architecture: str) -> str:
    times = Counter(architecture.split(" + "))
    return " + ".join(f"{times[each]} \N{MULTIPLICATION SIGN} {each}" if times[each] > 1 else each for each in times)
