"""Data sets and models that are brought along: asked for, made by a worker, named by jobs, deleted."""

import hashlib
from functools import partial
from typing import Any

from distillery.spec import JobSpec
from distillery.spec.preprocessing import Preprocessing
from distillery.views import DatasetFacts, JobError, ModelFacts
from store import datasets, leases, models, orphans, preflights
from store.tables import JobRow
from tests.app.raw_http import SPEC

WEIGHTS = b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "
"""A file of safetensors without a tensor: what a worker would say of it is not asked here."""
PACKED = b"the packed form of some flowers"


def send(live: Any, content: bytes, *, name: str = "flowers.zip") -> str:
    """Upload these bytes; the id."""
    spec = {"name": name, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    upload = live.http.post("/v1/uploads", json=spec).json()
    assert live.http.put(f"/v1/uploads/{upload['id']}/parts/1", content=content).json()["complete"]
    return str(upload["id"])


def asked(live: Any, content: bytes = b"zip", **options: Any) -> str:
    """Ask for a data set of these bytes; its id."""
    answer = live.http.post("/v1/datasets", json={"name": "flowers", "uploads": [send(live, content)]} | options)
    assert answer.status_code == 202, answer.text
    assert answer.json()["status"] == "queued"
    return str(answer.json()["id"])


def facts_of(content: bytes, **changes: Any) -> DatasetFacts:
    told: dict[str, Any] = {
        "task": "image-classification", "format": "image_folder", "classes": ("rose", "tulip"),
        "splits": {"train": 8, "validation": 1, "test": 2}, "channels": 3, "height": 32, "width": 32,
        "sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content),
    }  # fmt: skip
    return DatasetFacts.model_validate(told | changes)


def packed(live: Any, dataset_id: str, content: bytes = PACKED, **changes: Any) -> None:
    """What a worker does: pack it."""
    claim = live.worker.claim(dataset_id)
    live.worker.deliver(claim, datasets.PACKED, content)
    live.worker.deliver(claim, "preview.json", b"{}", media_type="application/json")
    keep = partial(datasets.keep, dataset_id=dataset_id, facts=facts_of(content, **changes))
    live.worker.do(leases.succeed, claim, summary="2 classes", keep=keep)


def files_of(live: Any) -> list[str]:
    """Every file below `jobs`, after the deletions that the outbox holds."""
    from worker.maintenance import Maintenance

    Maintenance(live.worker.database, live.worker.artifacts, lease=_lease()).delete()
    return sorted(each.path for page in live.worker.artifacts.listed("jobs") for each in page)


def _lease() -> Any:
    from store.config import LeaseConfig

    return LeaseConfig()


def test_a_data_set_is_made_and_shown(either: Any) -> None:
    dataset_id = asked(either)
    packed(either, dataset_id)
    view = either.http.get(f"/v1/datasets/{dataset_id}").json()
    assert (view["status"], view["name"], view["facts"]["classes"]) == ("succeeded", "flowers", ["rose", "tulip"])
    assert [each["id"] for each in either.http.get("/v1/datasets").json()["data"]] == [dataset_id]
    preview = either.http.get(f"/v1/datasets/{dataset_id}/preview")
    assert (preview.status_code, preview.content, preview.headers["vary"]) == (200, b"{}", "Accept")
    assert either.http.get("/v1/jobs").json()["data"] == []


def test_the_same_bytes_are_kept_once_and_go_with_the_last_that_names_them(either: Any) -> None:
    first, second = asked(either, b"one"), asked(either, b"two")
    for each in (first, second):
        packed(either, each)
    kept = [path for path in files_of(either) if path.endswith(datasets.PACKED)]
    assert len(kept) == 1
    with either.worker.database.read() as session:
        assert datasets.packed_file(session, first) == datasets.packed_file(session, second)
        assert orphans.missing(session, either.worker.artifacts, verify=True) == []
    assert either.http.delete(f"/v1/datasets/{first}").status_code == 204
    assert kept[0] in files_of(either)
    assert either.http.delete(f"/v1/datasets/{second}").status_code == 204
    assert files_of(either) == []


def test_a_job_names_a_data_set_which_then_stays(either: Any, check_problem: Any) -> None:
    dataset_id = asked(either)
    problem = check_problem(
        either.http.post("/v1/jobs", json=SPEC | {"dataset": {"id": dataset_id}}), 422, "INVALID_SPEC"
    )
    assert problem.errors[0].pointer == "/dataset/id"
    assert "Wait" in problem.errors[0].hint
    packed(either, dataset_id)
    job = either.submit(dataset={"id": dataset_id})
    problem = check_problem(either.http.delete(f"/v1/datasets/{dataset_id}"), 409, "WRONG_STATE")
    assert job["id"] in problem.detail
    either.http.post(f"/v1/jobs/{job['id']}:cancel")
    assert either.http.delete(f"/v1/datasets/{dataset_id}").status_code == 204


def test_a_failed_import_says_why_and_teaches_nobody(alone: Any, check_problem: Any) -> None:
    dataset_id = asked(alone)
    claim = alone.worker.claim(dataset_id)
    error = JobError(
        type="urn:x", title="Bad", detail="It is a bomb.", code="HOSTILE_FILE", hint="Send another.", pointer="/uploads"
    )
    alone.worker.do(leases.fail, claim, error=error)
    view = alone.http.get(f"/v1/datasets/{dataset_id}").json()
    assert (view["status"], view["error"]["code"], view["error"]["hint"]) == ("failed", "HOSTILE_FILE", "Send another.")
    problem = check_problem(
        alone.http.post("/v1/jobs", json=SPEC | {"dataset": {"id": dataset_id}}), 422, "INVALID_SPEC"
    )
    assert "It is a bomb." in problem.errors[0].detail


def test_texts_are_kept_and_no_job_learns_from_them_yet(alone: Any, check_problem: Any) -> None:
    dataset_id = asked(alone)
    packed(alone, dataset_id, task="text-classification", channels=0, height=None, width=None)
    problem = check_problem(
        alone.http.post("/v1/jobs", json=SPEC | {"dataset": {"id": dataset_id}}), 422, "INVALID_SPEC"
    )
    assert problem.errors[0].code == "WRONG_TASK"


def test_an_unlabelled_data_set_must_be_there_too(alone: Any, check_problem: Any) -> None:
    spec = SPEC | {"dataset": {"name": "digits", "unlabelled": {"id": "dts_" + "0" * 26}}}
    problem = check_problem(alone.http.post("/v1/jobs", json=spec), 422, "INVALID_SPEC")
    assert problem.errors[0].pointer == "/dataset/unlabelled/id"


def checked(live: Any, **changes: Any) -> str:
    """A model that a worker has taken in; its id."""
    content = WEIGHTS
    answer = live.http.post("/v1/models", json={"name": "mine", "uploads": [send(live, content, name="a.safetensors")]})
    assert answer.status_code == 202, answer.text
    model_id = str(answer.json()["id"])
    claim = live.worker.claim(model_id)
    live.worker.deliver(claim, "model.safetensors", content)
    told: dict[str, Any] = {
        "format": "safetensors", "architecture": "resnet56", "classes": ("a", "b"), "file": "model.safetensors",
        "preprocessing": Preprocessing(image_size=32), "sha256": hashlib.sha256(content).hexdigest(),
        "size_bytes": len(content),
    }  # fmt: skip
    facts = ModelFacts.model_validate(told | changes)
    keep = partial(models.keep, model_id=model_id, facts=facts)
    live.worker.do(leases.succeed, claim, summary="ok", keep=keep)
    return model_id


def test_a_model_is_taken_in_and_teaches_under_its_own_architecture(either: Any, check_problem: Any) -> None:
    model_id = checked(either)
    view = either.http.get(f"/v1/models/{model_id}").json()
    assert (view["status"], view["role"], view["job_id"], view["architecture"]) == (
        "succeeded", "uploaded", None, "resnet56",
    )  # fmt: skip
    job = either.submit(teacher={"model": model_id})
    assert job["resolved_spec"]["teacher"]["architecture"] == "resnet56"
    check_problem(either.http.delete(f"/v1/models/{model_id}"), 409, "WRONG_STATE")
    either.http.post(f"/v1/jobs/{job['id']}:cancel")
    assert either.http.delete(f"/v1/models/{model_id}").status_code == 204
    assert files_of(either) == []


def test_a_black_box_teaches_without_a_row_in_the_catalogue(alone: Any) -> None:
    model_id = checked(alone, format="onnx", architecture="onnx")
    spec = SPEC | {"teacher": {"model": model_id}}
    told = alone.http.post("/v1/jobs:validate", json=spec).json()
    assert any("nobody can see into it" in note for note in told["estimate"]["notes"])
    assert alone.submit(teacher={"model": model_id})["resolved_spec"]["teacher"]["architecture"] == "onnx"


def test_a_model_that_is_not_checked_yet_cannot_teach(alone: Any, check_problem: Any) -> None:
    answer = alone.http.post("/v1/models", json={"name": "mine", "path": "/data/a.safetensors"})
    model_id = answer.json()["id"]
    problem = check_problem(
        alone.http.post("/v1/jobs", json=SPEC | {"teacher": {"model": model_id}}), 422, "INVALID_SPEC"
    )
    assert problem.errors[0].pointer == "/teacher/model"


def test_a_trial_goes_before_all_jobs_and_is_forgotten_after_a_day(either: Any) -> None:
    either.submit()
    told = either.http.post("/v1/jobs:validate?wait=1", json=SPEC).json()
    trial = told["preflight"]
    assert trial["status"] == "queued"
    with either.worker.database.transaction() as session:
        claim = leases.claim(session, worker="w", queues=["default"], lease_seconds=60)
    assert claim is not None
    assert (claim.id, claim.kind) == (trial["id"], "preflight")
    assert isinstance(claim.asked, JobSpec)
    error = JobError(type="urn:x", title="t", detail="The teacher is too weak.", code="TEACHER_TOO_WEAK")
    either.worker.do(leases.fail, claim, error=error)
    view = either.http.get(f"/v1/preflights/{trial['id']}?wait=5").json()
    assert (view["status"], view["error"]["code"]) == ("failed", "TEACHER_TOO_WEAK")
    with either.worker.database.transaction() as session:
        session.get(JobRow, trial["id"]).finished_at -= preflights.KEPT_SECONDS
    with either.worker.database.transaction() as session:
        assert preflights.sweep(session) == 1
    assert either.http.get(f"/v1/preflights/{trial['id']}").status_code == 404
