"""Which process carries what: no torch beside Celery, no database beside torch, neither in what the API imports."""

import json
import subprocess
import sys

import pytest

SERVICE = {"celery", "redis", "kombu", "sqlalchemy", "store", "alembic", "obstore"}


def _loaded(statement: str) -> set[str]:
    names = "sorted({name.partition('.')[0] for name in sys.modules})"
    code = f"{statement}\nimport json, sys\nprint(json.dumps({names}))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return set(json.loads(done.stdout))


def test_what_the_api_imports_of_the_workers_brings_no_store_no_torch_and_no_broker() -> None:
    assert not _loaded("import worker.queue") & {"torch", "store", "sqlalchemy", "engine", "celery", "kombu"}


@pytest.mark.parametrize("module", ["worker.tasks", "worker.serve", "worker.embedded"])
def test_a_worker_process_never_imports_torch(module: str) -> None:
    assert not _loaded(f"import {module}, worker.attempt") & {"torch", "torchvision", "engine", "models", "numpy"}


@pytest.mark.parametrize("module", ["worker.run", "worker.messages"])
def test_the_trainer_knows_no_queue_and_no_database(module: str) -> None:
    assert not _loaded(f"import {module}") & SERVICE
