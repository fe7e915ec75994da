"""The spec that a worker writes down for its trainer is the spec that the trainer reads, for every strategy."""

from pathlib import Path
from typing import Any

import pytest

from distillery.job_files import read
from distillery.spec import parse, resolve

WEIGHTS = {"architecture": "resnet14", "weights": "teacher.safetensors"}
STRATEGIES: dict[str, dict[str, Any]] = {
    "offline": {"teacher": [WEIGHTS, WEIGHTS], "assistants": [{"architecture": "resnet8"}]},
    "online": {"teacher": {"architecture": "resnet14"}},
    "self_distillation": {},
    "data_free": {"teacher": WEIGHTS},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_spec_survives_its_file(strategy: str, tmp_path: Path) -> None:
    """Weights such as 1e-06 are numbers in JSON and texts in YAML 1.1."""
    sent = {"dataset": {"kind": "digits"}, "student": {"architecture": "resnet8"}, "method": {"strategy": strategy}}
    spec = resolve(parse(sent | STRATEGIES[strategy]))
    file = tmp_path / "job.json"
    file.write_text(spec.model_dump_json())
    assert parse(read(str(file))) == spec
