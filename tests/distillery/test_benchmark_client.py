"""`client.benchmarks`, of either client: asked for once, waited for, listed page by page."""

import inspect
import json
from typing import Any

import pytest

from distillery.benchmark_client import AsyncBenchmarks, Benchmarks
from distillery.errors import JobEndedBadly
from distillery.pareto import Wanted, pareto
from distillery.views import BenchmarkSummary, JobError, Page
from tests.distillery.test_cli_benchmarks import ID, JOB, NOW, RESULT, view
from tests.distillery.test_client import Ask, ask

__all__ = ["ask"]
QUESTION = {"models": [{"job": JOB}]}


def test_both_clients_have_the_same_methods() -> None:
    def surface(kind: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(each).parameters) for name, each in methods if not name.startswith("_")}

    assert surface(Benchmarks) == surface(AsyncBenchmarks)


def test_a_benchmark_is_asked_for_once_and_waited_for(ask: Ask, peer: Any) -> None:
    peer.script = [
        peer.hangs_up, peer.says(view("queued"), status=202), peer.says(view("running")),
        peer.says(view(result=RESULT)),
    ]  # fmt: skip
    seen: list[str] = []
    found = ask(peer.url, lambda client: client.benchmarks.run(QUESTION, on_look=lambda now: seen.append(now.status)))
    assert (found.result, seen) == (RESULT, ["queued", "running"])
    lost, asked, *looks = peer.seen
    key = {"idempotency-key": asked.headers["idempotency-key"]}
    assert lost.headers.items() >= key.items() and json.loads(asked.body) == QUESTION
    assert [each.path for each in looks] == [f"/v1/benchmarks/{ID}?wait=1"] * 2


def test_one_may_go_on_without_waiting(ask: Ask, peer: Any) -> None:
    peer.script = [peer.says(view("queued"), status=202)]
    assert ask(peer.url, lambda client: client.benchmarks.run(QUESTION, wait=False)).status == "queued"


def test_a_benchmark_that_ends_badly_says_why(ask: Ask, peer: Any) -> None:
    error = JobError(type="x", title="x", detail="No such device.", code="X", hint="Ask for another.")
    peer.script = [peer.says(view("failed", error=error), status=202)]
    with pytest.raises(JobEndedBadly, match=r"No such device\.") as refused:
        ask(peer.url, lambda client: client.benchmarks.run(QUESTION))
    assert refused.value.hint == "Ask for another."
    peer.script = [peer.says(view("cancelled"), status=202)]
    with pytest.raises(JobEndedBadly, match="cancelled"):
        ask(peer.url, lambda client: client.benchmarks.run(QUESTION))


def test_benchmarks_come_page_by_page(ask: Ask, peer: Any) -> None:
    one = BenchmarkSummary(id=ID, job_id=None, name="two", status="queued", models=("a",), created_at=NOW)
    peer.script = [
        peer.says(Page[BenchmarkSummary](data=(one,), next_page_token="more")),
        peer.says(Page[BenchmarkSummary](data=(one, one))),
    ]
    assert len(ask(peer.url, lambda client: client.benchmarks.list(label="project=flowers"))) == 3
    assert ["label=project%3Dflowers" in each.path for each in peer.seen] == [True, True]
    assert "page_token=more" in peer.seen[1].path


def test_a_pareto_table_is_asked_for_as_it_was_chosen(ask: Ask, peer: Any) -> None:
    peer.script = [peer.says(pareto([], wanted=Wanted("project=x")))]
    choice: dict[str, Any] = {"against": ("p95", "size"), "batch_size": 8, "device": "cpu"}
    ask(peer.url, lambda client: client.benchmarks.pareto("project=x", force=True, **choice))
    query = peer.seen[0].path.partition("?")[2]
    assert query == "label=project%3Dx&force=true&against=p95&against=size&batch_size=8&device=cpu"
