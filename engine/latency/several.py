"""Any number of networks against one of them: a comparison in pairs for each, told as one report."""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from distillery.errors import DistilleryError, InvalidRequest, StorageFull
from distillery.report import LatencyComparison, LatencyFailure, LatencyReport, ServerResult, Sweep
from distillery.spec import LatencySpec
from engine import black_boxes, runtimes
from engine.data.dataset import Dataset
from engine.latency.compare import Contestant, compare
from engine.latency.places import planned
from engine.latency.samples import COLUMNS, read_rows, write_rows

ALONE = (
    "Only one model was named, so it is held against itself: a speed-up other than 1 shows how much the machine alone "
    "can make of nothing."
)
_ROLE = re.compile(r"\b([Tt]he )?(teacher|student)\b")
_SIDES = {"teacher": "reference", "student": "model"}
COMPARED = "compared"
"""The column that tells of which pair a call is: the name of the model that was held against the reference."""

Alone = TypeVar("Alone", Sweep, ServerResult)


@dataclass(frozen=True, eq=False)
class Named:
    """A contestant and how the report calls it."""

    name: str
    contestant: Contestant


@dataclass(frozen=True)
class _Pair:
    """What came of one pair: a report, or why there is none."""

    model: Named
    report: LatencyReport | None
    samples: Path
    error: Exception | None = None


def compare_several(
    models: Sequence[Named],
    *,
    reference: str,
    dataset: Dataset,
    spec: LatencySpec,
    repeat_with: str,
    samples_file: Path | None = None,
    on_block: Callable[[], None] = lambda: None,
    on_pair: Callable[[int, int], None] = lambda done, of: None,
) -> LatencyReport:
    """Time every model against the one called `reference`, in every runtime, batch size and device of `spec`.

    A pair that breaks off is told among the failures, and the others stand. One model alone is held against itself.
    `on_block` is called between blocks, and what it raises abandons the measurement; `on_pair` before each pair, with
    the number of those that are done. The raw times go to `samples_file`, Parquet or CSV by
    its name.

    Raises:
        DistilleryError: of the first pair, where nothing at all could be measured.
        StorageFull: no space is left.
    """
    slow = next(each for each in models if each.name == reference)
    others = [each for each in models if each.name != reference] or [slow]
    pairs: list[_Pair] = []
    with tempfile.TemporaryDirectory(prefix="distillery-benchmark-") as folder:
        for place, other in enumerate(others):
            on_pair(place, len(others))
            samples = Path(folder) / f"{place}{samples_file.suffix if samples_file else '.csv'}"
            try:
                narrowed, notes = _for_pair(spec, slow, other)
                report = compare(
                    slow.contestant, student=other.contestant, dataset=dataset, spec=narrowed, repeat_with=repeat_with,
                    samples_file=samples, on_block=on_block,
                )  # fmt: skip
                report = report.model_copy(update={"notes": (*notes, *report.notes)})
            except StorageFull:
                raise
            except (DistilleryError, RuntimeError, MemoryError) as error:
                pairs.append(_Pair(other, None, samples, error))
            else:
                pairs.append(_Pair(other, report, samples))
        on_pair(len(others), len(others))
        merged = _merged(pairs, slow=slow, spec=spec)
        if samples_file is not None:
            write_rows((COMPARED, *COLUMNS), _calls(pairs, reference=reference), samples_file)
    return merged


def _for_pair(spec: LatencySpec, slow: Named, other: Named) -> tuple[LatencySpec, tuple[str, ...]]:
    """The runtimes that both networks run in: an ONNX graph runs in those that load one, and in no other."""
    graphs = [each.name for each in (slow, other) if black_boxes.is_opaque(each.contestant.network)]
    if not graphs:
        return spec, ()
    fitting = tuple(name for name in spec.runtimes if runtimes.find(name).form == "onnx")
    left_out = [name for name in spec.runtimes if name not in fitting]
    if not fitting:
        raise InvalidRequest(
            f"'{graphs[0]}' is an ONNX graph, which runs in none of: {', '.join(left_out)}.",
            hint="Add onnxruntime to the runtimes.",
            pointer="/measure/runtimes",
        )
    why = f"because '{graphs[0]}' is an ONNX graph, and both sides are timed in one runtime"
    notes = tuple(f"Not measured: '{other.name}' in {name}, {why}." for name in left_out)
    return spec.model_copy(update={"runtimes": fitting}), notes


def _merged(pairs: Sequence[_Pair], *, slow: Named, spec: LatencySpec) -> LatencyReport:
    told = [(pair.model, pair.report) for pair in pairs if pair.report is not None]
    failures = tuple(_failures(pairs, reference=slow.name, spec=spec))
    if not any(report.comparisons or report.sweeps or report.servers for _, report in told):
        raise _why(pairs, failures, reference=slow.name)
    first = told[0][1]
    sha256 = {slow.name: first.weights_sha256["teacher"]}
    sha256 |= {model.name: report.weights_sha256["student"] for model, report in told}
    notes = [_of_sides(note) for _, report in told for note in report.notes]
    return first.model_copy(
        update={
            "comparisons": tuple(
                _renamed(each, reference=slow.name, model=model.name)
                for model, report in told
                for each in report.comparisons
            ),
            "sweeps": _alone([(model.name, report.sweeps) for model, report in told], reference=slow.name),
            "servers": _alone([(model.name, report.servers) for model, report in told], reference=slow.name),
            "failures": failures,
            "weights_sha256": sha256,
            "notes": tuple(dict.fromkeys(([ALONE] if told[0][0] is slow else []) + notes)),
        }
    )


def _alone(told: Sequence[tuple[str, Sequence[Alone]]], *, reference: str) -> tuple[Alone, ...]:
    """What was measured of each network on its own; the reference's is that of the first pair which has one."""
    found: dict[tuple[str, str, str, str], Alone] = {}
    for model, measured in told:
        names = _names(reference, model)
        for each in measured:
            name = reference if each.model == "teacher" else model
            changed = {"model": name, "notes": tuple(_spoken(note, names) for note in each.notes)}
            found.setdefault((name, each.runtime, each.device, each.input), each.model_copy(update=changed))
    return tuple(found.values())


def _why(pairs: Sequence[_Pair], failures: Sequence[LatencyFailure], *, reference: str) -> DistilleryError:
    """The error of a benchmark of which nothing could be measured."""
    error, names = pairs[0].error, _names(reference, pairs[0].model.name)
    if isinstance(error, DistilleryError):
        error.detail = _spoken(error.detail, names)
        error.pointer = error.pointer.replace("/latency", "/measure")
        return error
    first = failures[0] if failures else None
    detail = _spoken(_first_line(error), names) if error or first is None else first.detail
    hint = (first.hint if first else "") or "Try a smaller batch, or another runtime."
    return InvalidRequest(f"Nothing could be measured. {detail}", hint=hint, pointer="/measure")


def _failures(pairs: Sequence[_Pair], *, reference: str, spec: LatencySpec) -> Iterator[LatencyFailure]:
    """What broke off within the pairs, and of a pair that broke off whole, every comparison."""
    for pair in pairs:
        names = _names(reference, pair.model.name)
        for failure in pair.report.failures if pair.report else ():
            changed = {"model": pair.model.name, "detail": _spoken(failure.detail, names)}
            yield failure.model_copy(update=changed)
        if pair.error is None:
            continue
        hint = pair.error.hint if isinstance(pair.error, DistilleryError) else ""
        detail = _spoken(_first_line(pair.error), names)
        cells = product(planned(spec)[0], dict.fromkeys(spec.inputs), dict.fromkeys(spec.batch_sizes))
        for place, given, size in cells:
            yield LatencyFailure(
                runtime=place.runtime.name, device=place.device.type, batch_size=size, input=given,
                model=pair.model.name, detail=detail, hint=hint,
            )  # fmt: skip


def _renamed(comparison: LatencyComparison, *, reference: str, model: str) -> LatencyComparison:
    names = _names(reference, model)
    slow, fast = comparison.rows
    return comparison.model_copy(
        update={
            "rows": (slow.model_copy(update={"model": reference}), fast.model_copy(update={"model": model})),
            "noise": tuple(
                each.model_copy(update={"detail": _spoken(each.detail, names)}) for each in comparison.noise
            ),
            "notes": tuple(_spoken(each, names) for each in comparison.notes),
        }
    )


def _names(reference: str, model: str) -> Mapping[str, str]:
    return {"teacher": f"'{reference}'", "student": f"'{model}'"}


def _spoken(text: str, names: Mapping[str, str]) -> str:
    """A sentence about teacher and student, of these two."""
    told = _ROLE.sub(lambda found: names[found[2]], text)
    return told[:1].upper() + told[1:]


def _of_sides(text: str) -> str:
    """A sentence about teacher and student, of any pair."""
    return _ROLE.sub(lambda found: (found[1] or "") + _SIDES[found[2]], text)


def _first_line(error: Exception | None) -> str:
    lines = (error.detail if isinstance(error, DistilleryError) else str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _calls(pairs: Sequence[_Pair], *, reference: str) -> Iterator[tuple[Any, ...]]:
    """Every call of every pair with the models' names; `control` stays what it is."""
    for pair in pairs:
        names = {"teacher": reference, "student": pair.model.name}
        for row in read_rows(pair.samples) if pair.report else ():
            told = {**row, "model": names.get(row["model"], row["model"])}
            yield (pair.model.name, *(told[column] for column in COLUMNS))
