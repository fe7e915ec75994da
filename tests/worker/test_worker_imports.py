"""Which process carries what: no torch beside Celery, no database beside torch, neither in what the API imports."""

import json
import subprocess
import sys
from pathlib import Path

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


TO_ITS_FIRST_STEP = """
import sys
from pathlib import Path
from distillery.spec import parse, resolve
from worker.journal import Journal
from worker.messages import Measured
from worker.study import distil

class Reached(Exception):
    pass

class Teller:
    def tell(self, message):
        if isinstance(message, Measured):
            raise Reached

spec = resolve(parse({"dataset": {"kind": "digits", "image_size": 8}, "student": {"architecture": "resnet8"},
    "teacher": {"architecture": "resnet8", "train": {"epochs": 1}}, "training": {"epochs": 1, "device": "cpu"}}))
try:
    distil(spec, journal=Journal(out=Path(sys.argv[1]), teller=Teller(), spec=spec), teacher_weights={}, resume=None)
except Reached:
    print([name for name in sys.argv[2:] if name in sys.modules])
"""


def test_a_trainer_comes_to_its_first_step_without_what_it_needs_later_or_never(tmp_path: Path) -> None:
    """torch.compile, Triton and what exports, draws and measures took 2.5 of the 5 seconds to the first step."""
    later = ("torch._dynamo", "torch._inductor", "sympy", "triton", "onnx", "matplotlib", "jinja2", "worker.closing")
    command = [sys.executable, "-c", TO_ITS_FIRST_STEP, str(tmp_path), *later]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
