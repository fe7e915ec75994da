"""Who is beaten by whom: dominance, ties, costs that nobody knows, and what may be mixed."""

from typing import Any

import pytest

from distillery.errors import EnvironmentsDiffer
from distillery.pareto import AXES, Axis, Known, ParetoPoint, Source, Wanted, marked, pareto
from tests.latency_reports import NOISE, against, comparison, report, row, sha256_of


def point(name: str, accuracy: float, p95: float | None, **changes: Any) -> ParetoPoint:
    told: dict[str, Any] = {
        "name": name, "source": "bmk_1", "job_id": None, "model_id": None, "architecture": "resnet8",
        "runtime": "eager", "device": "cpu", "batch_size": 1, "precision": "float32", "accuracy": accuracy,
        "p95_seconds": p95, "peak_memory_bytes": None, "file_bytes": 1, "degraded": False, "noisy": False,
        "weights_sha256": "", "fingerprint": "",
    }  # fmt: skip
    return ParetoPoint(**told | changes)


def on_front(points: list[ParetoPoint], axis: Axis = "p95") -> list[str]:
    return [each.name for each in marked(points, against=(axis,)) if each.front]


def known(name: str, accuracy: float | None = None) -> Known:
    return Known(name, f"job_{name}", f"mdl_{name}", "resnet8", accuracy)


def test_a_point_is_on_the_front_unless_another_is_better_in_one_and_no_worse_in_the_other() -> None:
    points = [point("slow", 0.95, 3.0), point("fast", 0.90, 1.0), point("beaten", 0.89, 2.0), point("mid", 0.93, 2.0)]
    assert on_front(points) == ["slow", "fast", "mid"]


def test_the_same_accuracy_for_more_time_is_beaten_and_so_is_less_accuracy_for_the_same() -> None:
    assert on_front([point("one", 0.9, 1.0), point("dearer", 0.9, 1.1)]) == ["one"]
    assert on_front([point("worse", 0.8, 1.0), point("one", 0.9, 1.0)]) == ["one"]


def test_equals_do_not_beat_each_other() -> None:
    points = [point("one", 0.9, 1.0), point("twin", 0.9, 1.0), point("beaten", 0.9, 1.5)]
    assert on_front(points) == ["one", "twin"]


def test_who_dominates_is_as_the_definition_says() -> None:
    """Held against the definition, pair by pair, on a grid with many ties."""
    grid = [point(f"{a}{c}", a / 4, float(c)) for a in range(4) for c in range(4) if (a * 7 + c * 5) % 3]

    def beaten(one: ParetoPoint) -> bool:
        return any(
            other.accuracy >= one.accuracy
            and other.p95_seconds <= one.p95_seconds  # type: ignore[operator]  # all are known here
            and (other.accuracy, other.p95_seconds) != (one.accuracy, one.p95_seconds)
            for other in grid
        )

    assert on_front(grid) == [each.name for each in grid if not beaten(each)]


def test_a_cost_that_is_not_known_is_on_no_front_and_beats_nobody() -> None:
    points = [point("untold", 0.99, None), point("told", 0.5, 9.0)]
    assert on_front(points) == ["told"]
    assert on_front(points, "memory") == []
    assert on_front(points, "size") == ["untold"]


def test_each_cost_has_a_front_of_its_own() -> None:
    points = [
        point("small", 0.8, 2.0, file_bytes=1, peak_memory_bytes=5),
        point("quick", 0.8, 1.0, file_bytes=2, peak_memory_bytes=5),
    ]
    assert [each.front for each in marked(points, against=AXES)] == [("memory", "size"), ("p95", "memory")]
    assert [each.front for each in marked(points, against=("size",))] == [("size",), ()]
    assert marked([], against=AXES) == []


def test_the_accuracy_is_that_of_the_whole_test_split_less_what_the_runtime_loses() -> None:
    rows = [row("b", 1.0, runtime="onnxruntime-int8", precision="int8", accuracy=0.88, accuracy_lost=0.02)]
    told = report([comparison(row("a", 2.0, runtime="onnxruntime-int8"), each) for each in rows])
    found = pareto([Source("bmk_1", told, {"b": known("b", 0.93), "a": known("a")})], wanted=Wanted("project"))
    assert {each.name: each.accuracy for each in found.points} == pytest.approx({"b": 0.91, "a": 0.9})
    assert [each.name for each in found.points] == ["b", "a"]
    assert found.points[0].p95_seconds == 2.0


def test_only_students_of_the_batch_size_stand_in_the_table() -> None:
    large = comparison(row("t", 9.0, batch_size=8), row("s", 4.0, batch_size=8))
    told = report([comparison(row("t", 2.0), row("s", 1.0)), large])
    sources = [Source("job_1", told, {"s": known("s")})]
    found = pareto(sources, wanted=Wanted("project"))
    assert [(each.name, each.batch_size, each.p95_seconds) for each in found.points] == [("s", 1, 2.0)]
    assert found.batch_sizes == (1, 8)
    assert pareto(sources, wanted=Wanted("project", batch_size=8)).points[0].p95_seconds == 8.0
    assert pareto(sources, wanted=Wanted("project", runtime="onnxruntime")).points == ()
    assert pareto(sources, wanted=Wanted("project", device="cuda")).points == ()


def test_a_network_alone_is_no_rival_of_one_timed_from_encoded_bytes() -> None:
    whole = comparison(row("t", 9.0, input="end_to_end"), row("s", 4.0, input="end_to_end"), input="end_to_end")
    told = report([whole, comparison(row("t", 2.0), row("s", 1.0))])
    sources = [Source("job_1", told, {"s": known("s")})]
    assert [each.p95_seconds for each in pareto(sources, wanted=Wanted("project")).points] == [2.0]
    found = pareto(sources, wanted=Wanted("project", input="end_to_end")).points
    assert [(each.input, each.p95_seconds) for each in found] == [("end_to_end", 8.0)]


def test_of_the_same_weights_the_newest_measurement_is_taken() -> None:
    new, old = against("t", {"t": 2.0, "s": 1.0}), against("t", {"t": 2.0, "s": 5.0}, fingerprint="0" * 64)
    sources = [Source("bmk_new", new, {"s": known("s")}), Source("bmk_old", old, {"s": known("s")})]
    (found,) = pareto(sources, wanted=Wanted("project")).points
    assert (found.source, found.p95_seconds, found.weights_sha256) == ("bmk_new", 2.0, sha256_of("s"))
    (of_old,) = pareto(sources, wanted=Wanted("project", fingerprint="000000")).points
    assert of_old.source == "bmk_old"


def test_environments_are_not_mixed_unless_it_is_forced() -> None:
    one = Source("bmk_1", against("t", {"t": 2.0, "a": 1.0}), {"a": known("a")})
    elsewhere = against("t", {"t": 1.0, "b": 0.5}, fingerprint="0" * 64, cpu="A slow one", threads=4)
    sources = [one, Source("bmk_2", elsewhere, {"b": known("b")})]
    with pytest.raises(EnvironmentsDiffer, match=r"cpu: A fast one \| A slow one; threads: 1 \| 4") as refused:
        pareto(sources, wanted=Wanted("project"))
    assert "ffffffffffff, 000000000000" in refused.value.hint
    forced = pareto(sources, wanted=Wanted("project"), force=True)
    assert len(forced.points) == 2
    assert "that was forced" in forced.warnings[0]
    assert pareto(sources, wanted=Wanted("project", fingerprint="ffffff")).warnings == ()


def test_accuracies_on_other_data_are_not_mixed() -> None:
    one = Source("bmk_1", against("t", {"t": 2.0, "a": 1.0}), {"a": known("a")})
    other = Source("bmk_2", against("t", {"t": 2.0, "b": 1.0}, data="flowers"), {"b": known("b")})
    with pytest.raises(EnvironmentsDiffer, match=r"data: digits \| flowers"):
        pareto([one, other], wanted=Wanted("project"))


def test_a_noisy_measurement_is_marked() -> None:
    quiet = comparison(row("t", 2.0), row("a", 1.0))
    noisy = comparison(row("t", 2.0), row("b", 1.0), noise=(NOISE,))
    invalid = comparison(row("t", 2.0), row("c", 1.0), verdict="invalid")
    students = {name: known(name) for name in "abc"}
    found = pareto([Source("bmk_1", report([quiet, noisy, invalid]), students)], wanted=Wanted("project"))
    assert {each.name: each.noisy for each in found.points} == {"a": False, "b": True, "c": True}
