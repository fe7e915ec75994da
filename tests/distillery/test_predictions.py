"""Asking for predictions from Python and from the command line, against a peer."""

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from distillery.cli import app
from distillery.client import AsyncClient, Client
from distillery.errors import InvalidRequest

JOB_ID, MODEL_ID = "job_" + "0" * 26, "mdl_" + "0" * 26
TOP = [{"class": "cat", "index": 1, "probability": 0.75}, {"class": "a [red] dog", "index": 0, "probability": 0.25}]
TIMES = {"decode": 0.001, "load": 0.0, "queue": 0.0, "compute": 0.002, "total": 0.004}


def network(role: str, **changes: Any) -> dict[str, Any]:
    return {
        "role": role, "architecture": "resnet8", "runtime": "eager", "sha256": "ab" * 32, "timings": TIMES,
        "predictions": [{"top": TOP, "logits": None}], "batch_size": 1, "cold": False,
    } | changes  # fmt: skip


BOTH = {"job": JOB_ID, "student": network("student"), "teacher": network("teacher", cold=True), "agree": [True]}
ALONE = BOTH | {"teacher": None, "agree": None, "note": "The student taught itself."}
KEPT = network("model") | {"model": MODEL_ID}


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    def asked(url: str, wish: Callable[[Any], Any]) -> Any:
        async def with_loop() -> Any:
            async with AsyncClient(url) as client:
                return await wish(client)

        if request.param == "async":
            return asyncio.run(with_loop())
        with Client(url) as client:
            return wish(client)

    return asked


def test_images_go_as_base64_and_both_answers_come_back(ask: Any, peer: Any, tmp_path: Path) -> None:
    peer.script = [peer.says(BOTH)]
    (tmp_path / "it.png").write_bytes(b"png")
    found = ask(peer.url, lambda c: c.predict_job(JOB_ID, [b"bytes", tmp_path / "it.png"], top_k=2, runtime="eager"))
    (request,) = peer.seen
    assert (request.method, request.path) == ("POST", f"/v1/jobs/{JOB_ID}/predict?runtime=eager")
    images = [base64.b64encode(each).decode() for each in (b"bytes", b"png")]
    assert json.loads(request.body) == {"images": images, "top_k": 2, "logits": False}
    assert found.student.predictions[0].top[0].name == "cat"
    assert (found.agree, found.teacher.cold) == ((True,), True)


def test_arrays_go_as_numbers(ask: Any, peer: Any) -> None:
    peer.script = [peer.says(KEPT)]
    arrays = np.array([[[0.0, 0.5]]])
    found = ask(peer.url, lambda c: c.predict_model(MODEL_ID, arrays=arrays, values="0-1", logits=True))
    assert json.loads(peer.seen[0].body) == {"arrays": [[[0.0, 0.5]]], "values": "0-1", "top_k": 5, "logits": True}
    assert (peer.seen[0].path, found.model) == (f"/v1/models/{MODEL_ID}/predict?runtime=auto", MODEL_ID)


def test_a_busy_service_is_asked_again_when_it_says(ask: Any, peer: Any) -> None:
    busy = peer.problem(429, "TOO_BUSY", "Full.", **{"Retry-After": "0"})
    peer.script = [busy, busy, peer.says(BOTH)]
    assert ask(peer.url, lambda c: c.predict_job(JOB_ID, [b"x"])).job == JOB_ID
    assert len(peer.seen) == 3


def test_too_many_images_and_files_that_are_not_there_are_not_sent(ask: Any, peer: Any, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="65 images"):
        ask(peer.url, lambda c: c.predict_job(JOB_ID, [b"x"] * 65))
    with pytest.raises(InvalidRequest, match="cannot be read"):
        ask(peer.url, lambda c: c.predict_job(JOB_ID, [tmp_path / "none.png"]))
    assert peer.seen == []


@pytest.fixture
def run(peer: Any, tmp_path: Path) -> Callable[..., Any]:
    (tmp_path / "it.png").write_bytes(b"png")

    def invoked(id_: str, *options: str) -> Any:
        arguments = ("predict", id_, str(tmp_path / "it.png"), *options)
        return CliRunner(env={"DISTILLERY_SERVER": peer.url, "DISTILLERY_API_KEY": ""}).invoke(app, arguments)

    return invoked


def test_the_command_shows_student_and_teacher_side_by_side(run: Any, peer: Any) -> None:
    peer.script = [peer.says(BOTH)]
    result = run(JOB_ID)
    assert result.exit_code == 0, result.output
    head, row = result.stdout.strip().splitlines()
    assert head.split() == ["image", "student", "teacher", "agree"]
    assert row.count("cat 75.0%, a [red] dog 25.0%") == 2
    assert row.rstrip().endswith("yes")
    assert "student resnet8 in eager: 2.00 ms for a batch of 1, 4.0 ms in all" in result.stderr
    assert json.loads(peer.seen[0].body)["top_k"] == 3


def test_the_command_says_why_there_is_no_teacher(run: Any, peer: Any) -> None:
    peer.script = [peer.says(ALONE)]
    result = run(JOB_ID)
    assert "teacher" not in result.stdout
    assert "The student taught itself." in result.stderr


def test_the_command_asks_models_by_their_ids(run: Any, peer: Any) -> None:
    peer.script = [peer.says(KEPT)]
    result = run(MODEL_ID, "--eager", "--logits", "--top-k", "7")
    assert "cat 75.0%" in result.stdout
    assert peer.seen[0].path == f"/v1/models/{MODEL_ID}/predict?runtime=eager"
    assert json.loads(peer.seen[0].body) | {"images": []} == {"images": [], "top_k": 7, "logits": True}


def test_the_command_prints_the_answer_as_json(run: Any, peer: Any) -> None:
    peer.script = [peer.says(BOTH)]
    told = json.loads(run(JOB_ID, "--json").stdout)
    assert told["student"]["predictions"][0]["top"] == TOP
