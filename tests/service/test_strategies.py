"""Jobs that teach each other through a running service: a student of one is the teacher of the next."""

import pytest

from distillery.client import Client
from distillery.errors import ServiceRefused
from distillery.report import Report
from distillery.views import Job

DIGITS = {"kind": "digits", "image_size": 8}
RECIPE = {
    "epochs": 4, "batch_size": 64, "optimizer": {"name": "adamw", "lr": 3e-3}, "seed": 0, "threads": 1,
    "precision": "fp32",
}  # fmt: skip
SHARED = {"dataset": DIGITS, "training": RECIPE, "latency": None, "export": ["safetensors"], "baseline": False}


def done(client: Client, **spec: object) -> tuple[Job, Report]:
    job = client.wait(client.submit({**SHARED, **spec}).id, timeout=120)
    assert job.status == "succeeded", job.error
    return job, client.report(job.id)


def test_students_teach_by_job_and_by_model(embedded_service: str) -> None:
    with Client(embedded_service) as client:
        first, alone = done(client, student={"architecture": "resnet14"}, method={"strategy": "self_distillation"})
        assert [each.role for each in alone.quality] == ["student", "exit1", "exit2"]
        assert {"exit1.safetensors", "exit2.safetensors"} <= {each.name for each in client.artifacts(first.id)}
        with pytest.raises(ServiceRefused, match="no teacher to time it against"):
            client.measure_latency(first.id, {"batch_sizes": [1], "runtimes": ["eager"]})

        members = [{"architecture": "resnet14", "job": first.id}, {"architecture": "resnet8", "train": {"epochs": 4}}]
        second, several = done(client, student={"architecture": "resnet8"}, teacher={"members": members})
        assert [each.role for each in several.quality] == ["teacher", "student", "teacher1", "teacher2"]
        assert several.quality[2].top1 == alone.quality[0].top1

        kept = {"architecture": "resnet8", "model": second.student_model_id}
        third, unseen = done(
            client,
            student={"architecture": "resnet8"},
            teacher=kept,
            method={"strategy": "data_free", "synthesis": "dafl", "steps_per_epoch": 20},
        )
        assert unseen.quality[0].top1 == several.quality[1].top1
        assert "synthetic.png" in {each.name for each in client.artifacts(third.id)}
