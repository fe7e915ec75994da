"""Which measurements may be held against each other: those of one machine, with the same versions and threads."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distillery.errors import EnvironmentsDiffer
from distillery.report import LatencyReport

_PASSING = ("load_average_1min", "layout")
"""What changes from one minute to the next, or is the same everywhere."""
_MOST_TOLD = 12
_ABSENT = "not told"


def key_of(report: LatencyReport) -> str:
    """What is equal for reports of one environment: the fingerprint, or where there is none, what it would be of."""
    if report.fingerprint:
        return report.fingerprint
    return json.dumps(_lasting(report.environment), sort_keys=True, default=str)


def differences(environments: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    """Of each fact that is not the same in all of them, its values in their order. Facts of facts have dotted names."""
    flat = [dict(_flat(_lasting(each))) for each in environments]
    names = dict.fromkeys(name for each in flat for name in each)
    told = {name: tuple(str(each.get(name, _ABSENT)) for each in flat) for name in names}
    return {name: values for name, values in told.items() if len(set(values)) > 1}


def demand_one(reports: Mapping[str, LatencyReport], *, force: bool, hint: str) -> tuple[str, ...]:
    """Make sure that the reports come from one environment and data set; `hint` says what else could be done.

    Gives what to warn of: nothing, or with `force` what is mixed.

    Raises:
        EnvironmentsDiffer: they do not, and nothing forces it; the detail names what differs.
    """
    first_of: dict[tuple[str, Any], tuple[str, Mapping[str, Any]]] = {}
    for name, report in reports.items():
        first_of.setdefault((key_of(report), report.environment.get("data")), (name, report.environment))
    if len(first_of) < 2:
        return ()
    names = [name for name, _ in first_of.values()]
    told = differences([environment for _, environment in first_of.values()])
    lines = [f"{fact}: {' | '.join(values)}" for fact, values in told.items()]
    more = f"; and {len(lines) - _MOST_TOLD} more" if len(lines) > _MOST_TOLD else ""
    what = "; ".join(lines[:_MOST_TOLD]) + more if lines else "their fingerprints"
    detail = f"These were measured in {len(names)} different environments ({', '.join(names)}). What differs: {what}."
    if force:
        return (f"{detail} They are held against each other because that was forced: a difference may be the machine.",)
    raise EnvironmentsDiffer(detail, hint=hint)


def _lasting(environment: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in environment.items() if name not in _PASSING}


def _flat(facts: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
