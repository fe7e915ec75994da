"""The OpenAPI document is complete, and changes only on purpose."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from app.openapi import document

FROZEN = Path(__file__).with_name("openapi.json")
UPDATE = "If the change is meant: python -m app.openapi > tests/app/openapi.json"


def test_the_document_is_the_frozen_one(live: Any) -> None:
    served = live.http.get("/openapi.json").json()
    frozen = json.loads(FROZEN.read_text())
    changed = [
        path for path in {*served["paths"], *frozen["paths"]} if served["paths"].get(path) != frozen["paths"].get(path)
    ]
    assert not changed, UPDATE
    assert served == frozen, UPDATE


def test_the_command_prints_the_document_without_a_database(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "app.openapi"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert printed.stdout == FROZEN.read_text(), UPDATE
    assert not Path("unused").exists()
    assert not Path("unused.db").exists()


def test_every_operation_tells_its_answers_and_its_problems(live: Any) -> None:
    described = document(live.app)
    assert described["openapi"].startswith("3.1")
    names = []
    for path, operations in described["paths"].items():
        for operation in operations.values():
            names.append(operation["operationId"])
            assert operation["description"], path
            answers = operation["responses"]
            assert any(status.startswith("2") for status in answers), path
            for status, answer in answers.items():
                if status == "204":
                    assert "content" not in answer, path
                elif status.startswith("2"):
                    assert all("schema" in content for content in answer["content"].values()), path
                    assert answer["content"], path
                elif status >= "400" and (path, status) != ("/readyz", "503"):
                    schema = answer["content"]["application/problem+json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/Problem"}, path
            for parameter in operation.get("parameters", ()):
                assert parameter["description"], (path, parameter["name"])
    assert len(names) == len(set(names))
    assert "HTTPValidationError" not in described["components"]["schemas"]


def test_every_route_is_in_the_document(live: Any) -> None:
    described = document(live.app)["paths"]
    for route in live.app.state.routes:
        if route.include_in_schema:
            assert {method.lower() for method in route.methods} <= set(described[route.path])
    hidden = [route for route in live.app.state.routes if not route.include_in_schema]
    assert {route.path for route in hidden if route.methods != {"HEAD"}} == {"/openapi.json"}
