"""Requests made up from the OpenAPI document: never a 5xx, and every answer is as the document says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from app.auth import OPEN_PATHS

KEY = "dk_live_of-the-fuzzed-service"
CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
    ignored_auth,
)
SCHEMA = schemathesis.openapi.from_path(Path(__file__).with_name("openapi.json"))
OPERATIONS: list[Any] = [found.ok() for found in SCHEMA.get_all_operations() if isinstance(found, Ok)]
CASES = [
    pytest.param(operation, mode, id=f"{operation.label}-{mode.value}")
    for operation in OPERATIONS
    for mode in GenerationMode
    # In a request without parameters, body or key, nothing can be wrong.
    if mode is GenerationMode.POSITIVE or operation.path not in OPEN_PATHS
]


@pytest.fixture(scope="module")
def served(launch_anywhere: Any, inference_on: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A live service with a finished job, a queued one, a model and a measurement, and what may be named in it."""
    folder = tmp_path_factory.mktemp("fuzzed")
    with (
        launch_anywhere(folder, api_key=KEY) as live,
        inference_on(f"sqlite:///{folder / 'distillery.db'}", folder) as predicting,
    ):
        predicting.start()
        yield live.url, known_ids(live)


def known_ids(live: Any) -> dict[str, str]:
    """What the path parameters may name, so that not every answer is 404."""
    hook = {"url": "https://hooks.example.com/", "types": ["queued"]}
    webhook_id = live.http.post("/v1/webhooks", json=hook).json()["id"]
    job_id = live.submit()["id"]
    claim = live.worker.claim(job_id)
    checkpoint_id = live.worker.checkpoint(claim, step=1, content=b"state")
    live.worker.succeed(claim)
    live.submit()
    return {
        "job_id": job_id,
        "checkpoint_id": checkpoint_id,
        "name": "student.safetensors",
        "model_id": live.http.get(f"/v1/jobs/{job_id}").json()["student_model_id"],
        "webhook_id": webhook_id,
        "delivery_id": live.http.get(f"/v1/webhooks/{webhook_id}/deliveries").json()["data"][0]["id"],
        "benchmark_id": live.http.post(f"/v1/jobs/{job_id}/latency").json()["id"],
    }


@pytest.mark.parametrize(("operation", "mode"), CASES)
def test_any_request_is_answered_as_the_document_says(served: Any, operation: Any, mode: GenerationMode) -> None:
    url, known = served

    @settings(
        max_examples=20,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        # Every second request is about something that there is.
        if len(str(case.query)) % 2 == 0:
            case.path_parameters = {name: known.get(name, "x") for name in case.path_parameters or {}}
        if "wait" in (case.query or {}):
            case.query["wait"] = 0
        case.call_and_validate(base_url=url, checks=CHECKS, headers={"Authorization": f"Bearer {KEY}"}, timeout=30)

    ask()
