"""Predictions with real processes: a job that a worker really distilled, an API, and inference workers beside it."""

import base64
import contextlib
import io
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from app import predictions
from distillery import spec as specs
from distillery.client import Client
from distillery.predictions import MOST_BODY_BYTES, JobPrediction, ModelPrediction
from distillery.spec.dataset import DigitsData
from store import files, jobs
from store.artifacts import Artifacts
from store.config import LeaseConfig
from store.db import Database
from worker.attempt import run_one

DIGITS: dict[str, Any] = {"kind": "digits", "image_size": 8}
TRAINING = {
    "epochs": 1, "batch_size": 64, "optimizer": {"name": "adamw", "lr": 3e-3}, "seed": 1, "threads": 1,
    "precision": "fp32", "device": "cpu",
}  # fmt: skip
TAUGHT = {
    "dataset": DIGITS, "teacher": {"architecture": "resnet14", "train": {"epochs": 2}},
    "student": {"architecture": "resnet8"}, "training": TRAINING, "baseline": False, "latency": None,
}  # fmt: skip
SELF_TAUGHT = {
    "dataset": DIGITS, "student": {"architecture": "resnet8"}, "method": {"strategy": "self_distillation"},
    "training": TRAINING, "baseline": False, "latency": None, "export": ["safetensors"],
}  # fmt: skip


@dataclass(frozen=True)
class Shop:
    """A database and artifacts with two jobs that have really run."""

    folder: Path
    taught: str
    self_taught: str

    @property
    def url(self) -> str:
        return f"sqlite:///{self.folder / 'distillery.db'}"

    def copied(self, folder: Path) -> "Shop":
        shutil.copy(self.folder / "distillery.db", folder / "distillery.db")
        shutil.copytree(self.folder / "artifacts", folder / "artifacts")
        return Shop(folder, self.taught, self.self_taught)


@pytest.fixture(scope="session")
def distilled(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> Shop:
    """Distilled once for all tests."""
    folder = tmp_path_factory.mktemp("distilled")
    shutil.copy(sqlite_template, folder / "distillery.db")
    database = Database(f"sqlite:///{folder / 'distillery.db'}")
    ids = []
    for each in (TAUGHT, SELF_TAUGHT):
        sent = specs.parse(each)
        with database.transaction() as session:
            ids.append(jobs.submit(session, sent=sent, resolved=specs.resolve(sent)).id)
        work(Shop(folder, "", ""))
        with database.read() as session:
            job = jobs.get(session, ids[-1])
        assert job.status == "succeeded", job.error
    database.close()
    return Shop(folder, *ids)


def work(shop: Shop) -> None:
    """Do one piece of queued work, as a worker does it."""
    with contextlib.closing(Database(shop.url)) as database:
        options: dict[str, Any] = {"worker": "here", "queues": ("default",), "lease": LeaseConfig()}
        place = Artifacts(str(shop.folder / "artifacts"))
        assert run_one(database, place, stop=threading.Event(), work_root=shop.folder / "working", **options)


@dataclass(frozen=True)
class Served:
    """An API over a copy of the shop, and an inference worker."""

    shop: Shop
    live: Any
    inference: Any
    wait_until: Any

    def ask(self, **options: Any) -> httpx.Response:
        """Ask the taught job."""
        answer: httpx.Response = self.live.http.post(f"/v1/jobs/{self.shop.taught}/predict", **options)
        return answer

    def ask_about(self, digit: torch.Tensor, **options: Any) -> httpx.Response:
        return self.ask(content=png(digit), headers={"Content-Type": "image/png"}, **options)

    def until_under_way(self, count: int) -> None:
        """Return when so many requests have a place in the API."""
        self.wait_until(lambda: self.live.app.state.predictions.under_way == count)

    @contextlib.contextmanager
    def asked_at_once(self, count: int, digit: torch.Tensor) -> "Iterator[list[Future[httpx.Response]]]":
        """So many requests at the same time, from the beginning of the block; at its end all are answered."""
        with ThreadPoolExecutor(count) as pool:
            yield [pool.submit(self.ask_about, digit) for _ in range(count)]


@pytest.fixture(scope="session")
def serving(launch_on: Callable[..., Any], inference_on: Callable[..., Any], wait_until: Any) -> Callable[..., Any]:
    """Serves a shop, with variables of the test's own for the inference worker."""

    @contextlib.contextmanager
    def serve(shop: Shop, **environment: str) -> Iterator[Served]:
        with (
            inference_on(shop.url, shop.folder, **environment) as process,
            launch_on(shop.url, shop.folder) as live,
        ):
            process.start()
            yield Served(shop, live, process, wait_until)

    return serve


@pytest.fixture(scope="module")
def served(distilled: Shop, serving: Callable[..., Any], tmp_path_factory: Any) -> Iterator[Served]:
    """Shared by the tests that only ask."""
    with serving(distilled.copied(tmp_path_factory.mktemp("served"))) as found:
        yield found


@pytest.fixture
def serve_own(distilled: Shop, serving: Callable[..., Any], tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """Serves for one test, with variables of its own for the inference worker."""
    with contextlib.ExitStack() as stack:
        yield lambda **environment: stack.enter_context(serving(distilled.copied(tmp_path), **environment))


@pytest.fixture(scope="module")
def digits() -> Any:
    """The test split of the jobs."""
    from engine.data.readers import load

    return load(DigitsData(**DIGITS)).test


def png(digit: torch.Tensor) -> bytes:
    held = io.BytesIO()
    Image.fromarray(digit[0].numpy()).save(held, "PNG")
    return held.getvalue()


def in_base64(*contents: bytes) -> list[str]:
    return [base64.b64encode(each).decode() for each in contents]


def expected_logits(shop: Shop, name: str, digits: Any, folder: Path) -> np.ndarray[Any, Any]:
    """What the engine says with the delivered file."""
    from engine.data.readers import load
    from engine.delivered import network_of
    from engine.evaluate import predict

    database = Database(shop.url)
    with database.read() as session:
        key, row = files.artifact_key(session, shop.taught, name), files.artifact(session, shop.taught, name)
    database.close()
    Artifacts(str(shop.folder / "artifacts")).fetch(key, folder / name, sha256=row.sha256)
    data = load(DigitsData(**DIGITS))
    network = network_of(folder / name, dataset=data, otherwise="")
    found = predict(network, digits, mean=data.mean, std=data.std, device=torch.device("cpu"), batch_size=64)
    return np.asarray(found)


def told_logits(answers: list[JobPrediction], role: str) -> np.ndarray[Any, Any]:
    return np.array([each.logits for answer in answers for each in getattr(answer, role).predictions])


@pytest.mark.parametrize("runtime", ["auto", "eager"])
def test_student_and_teacher_answer_as_the_engine_does(
    served: Served, digits: Any, tmp_path: Path, runtime: Any
) -> None:
    answers = []
    with Client(served.live.url) as client:
        for start in range(0, len(digits), 64):
            images = [png(each) for each in digits.images[start : start + 64]]
            answers.append(client.predict_job(served.shop.taught, images, top_k=10, logits=True, runtime=runtime))
    for role, name in (("student", "student.safetensors"), ("teacher", "teacher.safetensors")):
        expected = expected_logits(served.shop, name, digits, tmp_path)
        found = told_logits(answers, role)
        assert np.allclose(found, expected, atol=1e-3 * np.abs(expected).max())
        tops = [each.top for answer in answers for each in getattr(answer, role).predictions]
        assert np.mean([top[0].index for top in tops] == expected.argmax(1)) > 0.995
        shares = np.exp(found) / np.exp(found).sum(1, keepdims=True)
        assert np.allclose([top[0].probability for top in tops], shares.max(1), atol=1e-6)
        assert all(top[0].name == str(top[0].index) for top in tops)
        assert all(sum(each.probability for each in top) == pytest.approx(1) for top in tops)
    agree = np.array([each for answer in answers for each in answer.agree or ()])
    assert np.array_equal(agree, told_logits(answers, "student").argmax(1) == told_logits(answers, "teacher").argmax(1))
    assert answers[0].student.runtime == ("onnxruntime" if runtime == "auto" else "eager")
    assert answers[0].teacher is not None
    assert answers[0].teacher.runtime == "eager"


def test_images_and_both_kinds_of_arrays_are_answered_alike(served: Served, digits: Any) -> None:
    few = digits.images[:6]
    asked: list[dict[str, Any]] = [
        {"images": in_base64(*map(png, few))},
        {"arrays": few.tolist(), "values": "0-255"},
        {"arrays": (few / 255).tolist(), "values": "0-1"},
    ]
    found = [JobPrediction.model_validate(served.ask(json=each | {"logits": True}).json()) for each in asked]
    for other in found[1:]:
        for role in ("student", "teacher"):
            assert np.allclose(told_logits([found[0]], role), told_logits([other], role), atol=1e-4)


def test_the_raw_bytes_of_an_image_are_enough(served: Served, digits: Any) -> None:
    answer = JobPrediction.model_validate(served.ask_about(digits.images[3], params={"top_k": 2}).json())
    assert (answer.job, answer.note) == (served.shop.taught, "")
    for each in (answer.student, answer.teacher):
        assert each is not None
        (prediction,) = each.predictions
        assert (len(prediction.top), prediction.logits) == (2, None)
        times = each.timings
        assert times.total >= times.decode + times.queue + times.compute > 0
        assert each.batch_size == 1


def test_a_network_is_loaded_once_and_says_when(serve_own: Any, digits: Any) -> None:
    served = serve_own()
    first, second = (JobPrediction.model_validate(served.ask_about(digits.images[0]).json()) for _ in range(2))
    assert (first.student.cold, second.student.cold) == (True, False)
    assert first.student.timings.load > 0
    assert second.student.timings.load == 0
    assert first.student.predictions == second.student.predictions


def test_kept_models_are_asked_by_their_ids(served: Served, digits: Any) -> None:
    both = JobPrediction.model_validate(served.ask_about(digits.images[0]).json())
    with Client(served.live.url) as client:
        kept = {model.role: model for model in client.models() if model.job_id == served.shop.taught}
        for role, model in kept.items():
            answer = client.predict_model(model.id, [png(digits.images[0])])
            assert isinstance(answer, ModelPrediction)
            assert (answer.model, answer.role) == (model.id, "model")
            assert answer.predictions[0].top == getattr(both, role).predictions[0].top
    assert set(kept) == {"student", "teacher"}


def test_a_network_of_another_framework_is_asked_as_it_was_brought(
    serve_own: Any, digits: Any, check_problem: Any
) -> None:
    served = serve_own()
    folder, shop = served.shop.folder, served.shop
    (onnx,) = (folder / "artifacts").rglob(f"{shop.taught}/**/student.onnx")
    student = next(m for m in served.live.http.get("/v1/models").json()["data"] if m["role"] == "student")
    reads = {name: student[name] for name in ("image_size", "channels", "mean", "std")}
    np.savez(folder / "table.npz", ids=np.arange(4), probabilities=np.full((4, 10), 0.1, dtype=np.float32))
    asked = [
        {"name": "graph", "path": str(onnx), "preprocessing": reads},
        {"name": "table", "path": str(folder / "table.npz"), "preprocessing": reads},
    ]
    ids = [served.live.http.post("/v1/models", json=each).json()["id"] for each in asked]
    work(shop)
    work(shop)
    as_student = served.ask_about(digits.images[0], params={"logits": "true"}).json()["student"]
    path = f"/v1/models/{ids[0]}/predict?logits=true"
    answer = served.live.http.post(path, content=png(digits.images[0]), headers=PNG_TYPE)
    assert answer.status_code == 200, answer.text
    found = ModelPrediction.model_validate(answer.json())
    assert (found.runtime, found.architecture) == ("onnxruntime", "onnx")
    assert np.allclose(found.predictions[0].logits, as_student["predictions"][0]["logits"], atol=1e-3)
    assert len(served.inference.figures()["loaded"]) == 3  # the same bytes, run in another way
    answer = served.live.http.post(f"/v1/models/{ids[1]}/predict", content=b"x", headers=PNG_TYPE)
    assert "table of answers" in check_problem(answer, 409, "WRONG_STATE").detail


def test_a_job_that_taught_itself_has_no_teacher_to_ask(served: Served, digits: Any) -> None:
    path = f"/v1/jobs/{served.shop.self_taught}/predict"
    answer = served.live.http.post(path, content=png(digits.images[0]), headers={"Content-Type": "image/png"})
    found = JobPrediction.model_validate(answer.json())
    assert (found.teacher, found.agree) == (None, None)
    assert "taught itself" in found.note
    assert found.student.runtime == "eager"  # no ONNX was delivered


def test_a_photograph_of_any_size_is_cut_and_resized_as_the_engine_does_it(served: Served) -> None:
    from engine.data.image_folder import decoded_bytes
    from engine.data.resize import squared

    photograph = np.random.default_rng(0).integers(0, 256, (53, 37, 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(photograph).save(held, "JPEG")
    pixels = squared(decoded_bytes(held.getvalue(), channels=1, named="it").unsqueeze(0), size=8)
    whole = served.ask(content=held.getvalue(), headers={"Content-Type": "image/jpeg"}, params={"logits": "true"})
    small = served.ask(json={"arrays": pixels.tolist(), "values": "0-255", "logits": True})
    assert whole.json()["student"]["predictions"] == small.json()["student"]["predictions"]


def test_a_broken_image_is_told_by_its_place_in_the_batch(served: Served, digits: Any, check_problem: Any) -> None:
    images = in_base64(png(digits.images[0]), png(digits.images[1])[:60], png(digits.images[2]))
    problem = check_problem(served.ask(json={"images": images}), 422, "INVALID_INPUT")
    assert [each.pointer for each in problem.errors] == ["/images/1"]
    assert problem.errors[0].hint


PNG_TYPE = {"Content-Type": "image/png"}


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"content": b"x", "headers": {"Content-Type": "image/gif"}}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ({"content": b"x"}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ({"content": b"x", "headers": PNG_TYPE | {"Content-Encoding": "gzip"}}, 415, "UNSUPPORTED_MEDIA_TYPE"),
        ({"content": b"", "headers": PNG_TYPE}, 422, "INVALID_REQUEST"),
        ({"content": b"x", "headers": PNG_TYPE}, 422, "INVALID_INPUT"),
        ({"content": b"x", "headers": PNG_TYPE, "params": {"top_k": 0}}, 422, "INVALID_REQUEST"),
        ({"content": b"x", "headers": PNG_TYPE, "params": {"runtime": "tpu"}}, 422, "INVALID_REQUEST"),
        ({"content": b"x", "headers": PNG_TYPE, "params": {"topk": 3}}, 422, "INVALID_REQUEST"),
        ({"json": {"images": ["AAAA"], "size": 3}}, 422, "INVALID_INPUT"),
        ({"content": b"[" * 200_000, "headers": {"Content-Type": "application/json"}}, 422, "INVALID_INPUT"),
    ],
)
def test_what_cannot_be_predicted_is_refused(
    served: Served, check_problem: Any, options: dict[str, Any], status: int, code: str
) -> None:
    check_problem(served.ask(**options), status, code)


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_that_is_too_large_is_refused(served: Served, check_problem: Any, announced: bool) -> None:
    def pieces() -> Iterator[bytes]:
        yield from (bytes(1 << 20) for _ in range((MOST_BODY_BYTES >> 20) + 1))

    body: Any = bytes(MOST_BODY_BYTES + 1) if announced else pieces()
    with contextlib.suppress(httpx.WriteError):  # it hangs up on whoever goes on
        check_problem(served.ask(content=body, headers=PNG_TYPE), 413, "TOO_LARGE")
    assert served.live.app.state.predictions.under_way == 0


def test_what_is_not_there_or_not_ready_is_told_apart(served: Served, check_problem: Any) -> None:
    ask = served.live.http.post
    options = {"content": b"x", "headers": PNG_TYPE}
    check_problem(ask(f"/v1/jobs/job_{'0' * 26}/predict", **options), 404, "NOT_FOUND")
    check_problem(ask(f"/v1/models/mdl_{'0' * 26}/predict", **options), 404, "NOT_FOUND")
    queued = served.live.submit()["id"]
    problem = check_problem(ask(f"/v1/jobs/{queued}/predict", **options), 409, "WRONG_STATE")
    assert "queued" in problem.detail
    served.live.http.post(f"/v1/jobs/{queued}:cancel")
    problem = check_problem(ask(f"/v1/jobs/{queued}/predict", **options), 409, "WRONG_STATE")
    assert "cancelled" in problem.detail
    check_problem(served.live.http.get(f"/v1/jobs/{queued}/predict"), 405, "METHOD_NOT_ALLOWED")


def test_a_damaged_file_is_found_and_never_loaded(serve_own: Any, digits: Any, check_problem: Any) -> None:
    served = serve_own()
    (student,) = (served.shop.folder / "artifacts").rglob(f"{served.shop.taught}/**/student.onnx")
    student.write_bytes(student.read_bytes()[:-1] + b"\x00")
    check_problem(served.ask_about(digits.images[0]), 500, "CORRUPT_FILE")
    assert served.inference.figures()["loaded"] == []
    assert list((served.shop.folder / "work").glob("inf_*/*.onnx")) == []


def test_without_an_inference_worker_the_answer_says_how_to_start_one(
    distilled: Shop, launch_on: Any, tmp_path: Path, digits: Any, check_problem: Any
) -> None:
    shop = distilled.copied(tmp_path)
    with launch_on(shop.url, shop.folder) as live:
        answer = live.http.post(f"/v1/jobs/{shop.taught}/predict", content=png(digits.images[0]), headers=PNG_TYPE)
        problem = check_problem(answer, 503, "UNAVAILABLE")
    assert "python -m worker.inference" in problem.hint
    assert answer.headers["retry-after"]


def test_a_killed_worker_is_missed_at_once_and_another_takes_its_place(
    serve_own: Any, digits: Any, check_problem: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictions, "KNOWN_SECONDS", 3600)  # what is known is looked up again when it does not hold
    served = serve_own()
    assert served.ask_about(digits.images[0]).status_code == 200
    served.inference.stop(signal.SIGKILL)
    check_problem(served.ask_about(digits.images[0]), 503, "UNAVAILABLE")
    served.inference.start()
    # The row of the dead one is still there, and must not be in the way.
    assert len(served.inference.living()) == 2
    assert served.ask_about(digits.images[0]).status_code == 200


def test_a_model_that_was_deleted_is_soon_unknown(serve_own: Any, digits: Any, wait_until: Any) -> None:
    served = serve_own()
    http, shop = served.live.http, served.shop
    (model,) = (
        m for m in http.get("/v1/models").json()["data"] if m["job_id"] == shop.taught and m["role"] == "teacher"
    )
    path, options = f"/v1/models/{model['id']}/predict", {"content": png(digits.images[0]), "headers": PNG_TYPE}
    assert http.post(path, **options).status_code == 200
    assert http.delete(f"/v1/models/{model['id']}").status_code == 204
    wait_until(lambda: http.post(path, **options).status_code == 404, seconds=10 * predictions.KNOWN_SECONDS)


def test_a_worker_that_is_told_to_leave_withdraws_and_leaves_nothing(serve_own: Any, digits: Any) -> None:
    served = serve_own()
    assert served.ask_about(digits.images[0]).status_code == 200
    token = served.inference.worker.token
    assert served.inference.stop() == 0
    assert served.inference.living() == []
    assert [each.name for each in (served.shop.folder / "work").iterdir() if each.is_dir()] == []
    log = served.inference.log.read_text()
    assert "Traceback" not in log
    assert token not in log


def test_nobody_is_answered_without_the_token(served: Served) -> None:
    worker = served.inference.worker
    wrong = ["Bearer", f"Basic {worker.token}", f"Bearer {worker.token}x", f"Bearer {worker.token[:-1]}"]
    for headers in ({}, *({"Authorization": each} for each in wrong)):
        assert httpx.post(f"{worker.url}/predict", content=b"x", headers=headers).status_code == 401
        assert httpx.get(f"{worker.url}/figures", headers=headers).status_code == 401
    assert "127.0.0.1" in worker.url


def test_the_least_used_network_makes_room(serve_own: Any, digits: Any, check_problem: Any) -> None:
    served = serve_own(DISTILLERY_INFERENCE_MEMORY="800000")
    http, shop = served.live.http, served.shop
    models = {
        each["role"]: each["id"] for each in http.get("/v1/models").json()["data"] if each["job_id"] == shop.taught
    }
    sizes = {each["name"]: each["size_bytes"] for each in http.get(f"/v1/jobs/{shop.taught}/artifacts").json()["data"]}
    assert sizes["teacher.safetensors"] < 800_000 < sizes["teacher.safetensors"] + sizes["student.safetensors"]

    def ask(role: str) -> bool:
        path = f"/v1/models/{models[role]}/predict?runtime=eager"
        answer = http.post(path, content=png(digits.images[0]), headers=PNG_TYPE)
        assert answer.status_code == 200, answer.text
        assert served.inference.figures()["loaded_bytes"] <= 800_000
        return bool(answer.json()["cold"])

    assert [ask(role) for role in ("student", "student", "teacher", "teacher", "student")] == [
        True, False, True, False, True,
    ]  # fmt: skip
    assert len(served.inference.figures()["loaded"]) == 1
    problem = check_problem(served.ask_about(digits.images[0]), 409, "WRONG_STATE")
    assert "DISTILLERY_INFERENCE_MEMORY" in problem.hint


def test_requests_that_come_together_are_computed_together(serve_own: Any, digits: Any) -> None:
    served = serve_own()
    alone = served.ask_about(digits.images[0]).json()
    served.inference.send(signal.SIGSTOP)
    with served.asked_at_once(24, digits.images[0]) as asked:
        served.until_under_way(24)
        served.inference.send(signal.SIGCONT)
    found = [JobPrediction.model_validate(each.result().json()) for each in asked]
    assert max(each.student.batch_size for each in found) > 1
    for each in found:
        for role in ("student", "teacher"):
            (prediction,) = getattr(each, role).predictions
            assert prediction.top[0].index == alone[role]["predictions"][0]["top"][0]["index"]
    batches = served.inference.figures()["batches"]
    assert sum(int(size) * count for size, count in batches.items()) == 2 * 25
    assert sum(batches.values()) < 2 * 25


def test_the_api_sends_away_whom_it_has_no_room_for(
    monkeypatch: pytest.MonkeyPatch, serve_own: Any, digits: Any, check_problem: Any
) -> None:
    monkeypatch.setenv("DISTILLERY_PREDICTIONS", "3")
    served = serve_own()
    served.ask_about(digits.images[0])
    served.inference.send(signal.SIGSTOP)
    with served.asked_at_once(3, digits.images[0]) as asked:
        served.until_under_way(3)
        for _ in range(20):
            answer = served.ask_about(digits.images[0])
            check_problem(answer, 429, "TOO_BUSY")
            assert int(answer.headers["retry-after"]) >= 1
        served.inference.send(signal.SIGCONT)
    assert [each.result().status_code for each in asked] == [200] * 3
    assert served.ask_about(digits.images[0]).status_code == 200


def test_the_worker_sends_away_whom_it_has_no_room_for(serve_own: Any, digits: Any, check_problem: Any) -> None:
    served = serve_own(DISTILLERY_INFERENCE_REQUESTS="2")
    served.ask_about(digits.images[0])
    served.inference.send(signal.SIGSTOP)
    with served.asked_at_once(24, digits.images[0]) as asked:
        served.until_under_way(24)
        served.inference.send(signal.SIGCONT)
    answers = [each.result() for each in asked]
    assert {each.status_code for each in answers} == {200, 429}
    for each in answers:
        if each.status_code == 429:
            check_problem(each, 429, "TOO_BUSY")
            assert 1 <= int(each.headers["retry-after"]) <= 60
    assert served.ask_about(digits.images[0]).status_code == 200
    figures = served.inference.figures()
    assert (figures["requests"], figures["bytes"]) == (0, 0)


def test_a_client_that_hangs_up_frees_its_place(
    monkeypatch: pytest.MonkeyPatch, serve_own: Any, digits: Any, wait_until: Any
) -> None:
    monkeypatch.setenv("DISTILLERY_PREDICTIONS", "1")
    served = serve_own()
    served.ask_about(digits.images[0])
    served.inference.send(signal.SIGSTOP)
    with pytest.raises(httpx.ReadTimeout):
        served.ask_about(digits.images[0], timeout=httpx.Timeout(60, read=0.5))
    served.until_under_way(0)
    served.inference.send(signal.SIGCONT)
    assert served.ask_about(digits.images[0]).status_code == 200
    wait_until(lambda: served.inference.figures()["requests"] == 0)


def test_an_answer_that_takes_too_long_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, serve_own: Any, digits: Any, check_problem: Any
) -> None:
    monkeypatch.setenv("DISTILLERY_PREDICTION_SECONDS", "1")
    served = serve_own()
    served.inference.send(signal.SIGSTOP)
    problem = check_problem(served.ask_about(digits.images[0]), 503, "UNAVAILABLE")
    assert "within 1 seconds" in problem.detail
    served.until_under_way(0)
    served.inference.send(signal.SIGCONT)


def test_a_worker_that_says_nothing_is_soon_forgotten(serve_own: Any, wait_until: Any) -> None:
    served = serve_own()
    served.inference.send(signal.SIGSTOP)
    wait_until(lambda: served.inference.living() == [], seconds=60)
    served.inference.send(signal.SIGCONT)
    wait_until(lambda: len(served.inference.living()) == 1, seconds=60)


def test_an_environment_that_cannot_be_meant_is_told(inference_on: Any, distilled: Shop, tmp_path: Path) -> None:
    shop = distilled.copied(tmp_path)
    with inference_on(shop.url, tmp_path, DISTILLERY_INFERENCE_BATCH="0") as process:
        import subprocess
        import sys

        command = [sys.executable, "-m", "worker.inference"]
        ran = subprocess.run(command, env=os.environ | process.environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 2
    assert "DISTILLERY_INFERENCE_BATCH is 0. Make it from 1 to 64." in ran.stderr
