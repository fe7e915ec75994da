"""How work ends well: what its program found becomes rows, in the transaction that ends the attempt."""

from collections.abc import Callable
from functools import partial
from typing import Any

from distillery.report import LatencyReport
from distillery.views import DatasetFacts
from store import benchmarks, datasets, leases, models, preflights
from store.leases import Claim
from worker.messages import Benchmarked, Finished, Ingested, Inspected, Rehearsed
from worker.recorder import Verdict

_TOLD = 20


def good_end(claim: Claim, verdict: Verdict | None) -> Callable[[Any], None] | None:
    """What to write with a session; None when the program has not said that it succeeded."""
    match verdict:
        case Finished():
            return partial(leases.succeed, claim=claim, summary=verdict.summary, models=verdict.models)
        case Ingested():
            facts = verdict.facts
            keep = partial(datasets.keep, dataset_id=claim.id, facts=facts)
            return partial(leases.succeed, claim=claim, summary=_counted(facts), keep=keep)
        case Inspected():
            found = verdict.facts
            keep = partial(models.keep, model_id=claim.id, facts=found)
            told = f"{found.format} of {found.architecture}: {len(found.classes)} classes."
            return partial(leases.succeed, claim=claim, summary=told, keep=keep)
        case Rehearsed():
            keep = partial(preflights.keep, preflight_id=claim.id, result=verdict.result)
            return partial(leases.succeed, claim=claim, summary="The job can run.", keep=keep)
        case Benchmarked():
            keep = partial(benchmarks.keep, benchmark_id=claim.id, result=verdict.result)
            return partial(leases.succeed, claim=claim, summary=speedups(verdict.result), keep=keep)
        case _:
            return None


def speedups(report: LatencyReport) -> str:
    """Each comparison in a few words, of very many the first."""
    shown = [
        f"{each.runtime}, batch {each.batch_size}, {each.device}: {each.speedup.value:.2f}x ({each.verdict})"
        for each in report.comparisons[:_TOLD]
    ]
    more = len(report.comparisons) - len(shown)
    return "; ".join([*shown, *([f"and {more} more"] if more else [])])


def _counted(facts: DatasetFacts) -> str:
    splits = ", ".join(f"{count:,} for {split}" for split, count in facts.splits.items() if count)
    broken = f"; {facts.broken_count:,} broken ones were left out" if facts.broken_count else ""
    return f"{len(facts.classes)} classes; samples: {splits}{broken}."
