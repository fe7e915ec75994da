"""What the turns say: rates, ratios to the best peer of each round, shares of the floor, the cost of a whole job."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.contest.turns import FOREIGN_SHARE, Rounds, Turn, quiet

PEERS = ("torchdistill", "textbook")
FLOOR = "floor: "


@dataclass(frozen=True)
class Measured:
    """A pair of networks, measured."""

    teacher: str
    student: str
    rounds: Rounds
    facts: Mapping[str, Mapping[str, object]]
    """What each contender said of itself."""
    operations: Mapping[str, float]
    """Floating-point operations that each contender spends on an image, at the least."""
    taught: str
    """Where the teacher's weights come from."""
    jobs: Mapping[str, Sequence[Turn]] = field(default_factory=dict)
    """All turns of a whole job, where it was measured."""

    @property
    def contestants(self) -> list[str]:
        return [name for name in self.rounds[0] if not name.startswith(FLOOR)]

    @property
    def counted(self) -> Rounds:
        """The quiet rounds, or all where none was quiet."""
        return quiet(self.rounds) or self.rounds


Pace = Callable[[Turn], float]


def wall(turn: Turn) -> float:
    return turn.per_second


def cpu(turn: Turn) -> float:
    return turn.per_cpu_second


def spread(values: Sequence[float], *, digits: int) -> str:
    """The median, and the smallest and largest."""
    return f"{median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def ratios(rounds: Rounds, name: str, *, pace: Pace) -> list[float]:
    """Of each round, against the best peer of that round."""
    best = [max(pace(turns[peer]) for peer in PEERS if peer in turns) for turns in rounds]
    return [pace(turns[name]) / one for turns, one in zip(rounds, best, strict=True)]


def shares_of_floor(measured: Measured, name: str) -> list[float]:
    """Of each round: the operations that the training needs, over those that convolutions reached."""
    floor = f"{FLOOR}{measured.facts[name]['precision']}"
    needed = measured.operations[name]
    return [turns[name].per_second * needed / turns[floor].per_second for turns in measured.counted]


def rates_table(measured: Measured) -> list[str]:
    """A line for each contestant, then one for each floor."""
    rounds, facts = measured.counted, measured.facts
    lines = [
        "| loop | arithmetic | images/s | times the best peer | … per CPU second | share of its floor |",
        "|---|---|---|---|---|---|",
    ]
    for name in measured.contestants:
        ours = name not in PEERS
        cells = [
            f"**{name}**" if ours else name,
            str(facts[name]["precision"]),
            spread([turns[name].per_second for turns in rounds], digits=0),
            spread(ratios(rounds, name, pace=wall), digits=2),
            spread(ratios(rounds, name, pace=cpu), digits=2),
            spread(shares_of_floor(measured, name), digits=2),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    floors = [name for name in measured.rounds[0] if name.startswith(FLOOR)]
    said = [f"{name.removeprefix(FLOOR)} {spread(_giga(rounds, name), digits=0)} GFLOP/s" for name in floors]
    each = ", ".join(f"{name} {measured.operations[name] / 1e6:,.0f}" for name in measured.contestants)
    return [*lines, "", f"Convolutions reached {'; '.join(said)}. Millions of operations an image: {each}."]


def _giga(rounds: Rounds, name: str) -> list[float]:
    return [turns[name].per_second / 1e9 for turns in rounds]


def forms_told(measured: Measured) -> list[str]:
    """What each trial of the teacher's forms came to."""
    told = {name: measured.facts[name].get("form") for name in measured.contestants}
    return [f"- {name}: {form}" for name, form in told.items() if form]


def rounds_table(measured: Measured) -> list[str]:
    """Every round as it was, and whether others were at work."""
    names = measured.contestants
    lines = [f"| round | {' | '.join(names)} | most taken by others |", f"|---|{'---|' * (len(names) + 1)}"]
    for number, turns in enumerate(measured.rounds, 1):
        foreign = max(turn.foreign for turn in turns.values())
        mark = " **(loaded)**" if foreign > FOREIGN_SHARE else ""
        rates = " | ".join(f"{turns[name].per_second:,.0f}" for name in names)
        lines.append(f"| {number} | {rates} | {foreign:.1%}{mark} |")
    return [*lines, "", load_told(measured.rounds)]


def load_told(rounds: Rounds) -> str:
    """One sentence on foreign load."""
    calm = len(quiet(rounds))
    if calm == len(rounds):
        return f"In no turn did others take more than {FOREIGN_SHARE:.0%} of the machine's processor time."
    counted = f"the figures above are those of the other {calm}" if calm else "**so the figures above mean little**"
    return (
        f"In {len(rounds) - calm} of {len(rounds)} rounds others took more than {FOREIGN_SHARE:.0%} of the machine's "
        f"processor time in some turn; {counted}."
    )


@dataclass(frozen=True)
class Cost:
    """What jobs took, all turns together."""

    seconds: float
    cpu: float
    foreign: float
    """Share of the machine that others took over all turns: in a last turn of a few milliseconds it says nothing."""

    @classmethod
    def of(cls, turns: Sequence[Turn], *, times: int = 1) -> "Cost":
        seconds = sum(turn.wall for turn in turns)
        foreign = sum(turn.foreign * turn.wall for turn in turns) / seconds
        return cls(seconds=times * seconds, cpu=times * sum(turn.cpu for turn in turns), foreign=foreign)


def costs_table(costs: Mapping[str, Cost]) -> list[str]:
    """Seconds of each, and how many times as long the cheapest peer took."""
    best = min((costs[name] for name in costs if name in PEERS), key=lambda cost: cost.seconds)
    best_cpu = min(costs[name].cpu for name in costs if name in PEERS)
    lines = ["| loop | seconds | CPU seconds | the best peer took | … of CPU time | taken by others |"]
    lines.append("|---|---|---|---|---|---|")
    for name, cost in costs.items():
        ratio, of_cpu = f"{best.seconds / cost.seconds:.2f} times that", f"{best_cpu / cost.cpu:.2f} times that"
        mark = " **(loaded)**" if cost.foreign > FOREIGN_SHARE else ""
        cells = [name if name in PEERS else f"**{name}**", f"{cost.seconds:,.1f}", f"{cost.cpu:,.1f}", ratio, of_cpu]
        lines.append(f"| {' | '.join(cells)} | {cost.foreign:.1%}{mark} |")
    return lines


def command_of(script: str, arguments: Sequence[str]) -> str:
    """What to type for the same again; of absolute paths only the names."""
    shown = [Path(word).name if Path(word).is_absolute() else word for word in arguments]
    return " ".join(["python -m", f"benchmarks.{script}", *shown])
