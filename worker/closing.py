"""The end of a study: evaluate on the untouched test split, export, measure latency, report."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor, nn

from distillery.report import LatencyReport, Report
from engine import evaluate, report, report_page
from engine.checkpoint import sha256_of, written_whole
from engine.data.views import ordered
from engine.export import check_onnx, export_onnx
from engine.latency import Contestant, compare
from engine.latency.compare import repeat_command
from engine.loop import Stopped
from engine.report import Candidate, Role
from engine.weights import describe, save_safetensors
from worker.journal import Journal
from worker.messages import Finished, ModelFacts
from worker.ready import Ready, loaded

TRAINED_IN: dict[Role, str] = {"teacher": "teaching", "student": "training", "baseline": "baseline"}
_CHECKED_IMAGES = 32


def close(ready: Ready, *, teacher: nn.Module, journal: Journal) -> None:
    """Deliver every artifact of the study and tell that it is finished."""
    journal.enter("evaluating")
    networks = _networks(ready, teacher=teacher, journal=journal)
    logits = {role: _answers(ready, network) for role, network in networks.items()}
    last = {role: _last_answers(ready, role, journal=journal) for role in networks}
    journal.enter("exporting")
    files = {role: _save_weights(ready, role, network, journal=journal) for role, network in networks.items()}
    onnx = _export(ready, networks["student"], journal=journal) if "onnx" in ready.spec.export else None
    candidates = {
        role: Candidate(
            architecture=_architecture(ready, role),
            network=network,
            logits=logits[role],
            last_logits=last[role],
            file_bytes=files[role].stat().st_size,
            trained=journal.finished.get(TRAINED_IN[role]),
        )
        for role, network in networks.items()
    }
    _reproduce(ready, journal=journal)
    latency = _measure(ready, networks, files=files, onnx=onnx, journal=journal)
    _finish(ready, candidates, latency=latency, files=files, journal=journal)


def _networks(ready: Ready, *, teacher: nn.Module, journal: Journal) -> dict[Role, nn.Module]:
    networks: dict[Role, nn.Module] = {"teacher": teacher}
    for role in ("student", "baseline"):
        trained = journal.finished.get(TRAINED_IN[role])
        if trained is not None:
            networks[role] = loaded(ready, ready.spec.student.architecture, trained.best)
    return networks


def _architecture(ready: Ready, role: Role) -> str:
    return ready.spec.teacher.architecture if role == "teacher" else ready.spec.student.architecture


def _answers(ready: Ready, network: nn.Module) -> Tensor:
    data = ready.dataset
    return evaluate.predict(network, data.test, mean=data.mean, std=data.std, device=ready.device)


def _last_answers(ready: Ready, role: Role, *, journal: Journal) -> Tensor | None:
    trained = journal.finished.get(TRAINED_IN[role])
    if trained is None:
        return None
    return _answers(ready, loaded(ready, _architecture(ready, role), trained.last))


def _save_weights(ready: Ready, role: Role, network: nn.Module, *, journal: Journal) -> Path:
    path = journal.out / f"{role}.safetensors"
    save_safetensors(network, path, metadata=_facts(ready, role))
    journal.deliver(path, media_type="application/vnd.safetensors")
    return path


def _facts(ready: Ready, role: Role) -> dict[str, str]:
    data = ready.dataset
    return describe(
        architecture=_architecture(ready, role),
        classes=data.classes,
        image_size=data.image_size,
        channels=data.channels,
        mean=data.mean,
        std=data.std,
    )


def _export(ready: Ready, student: nn.Module, *, journal: Journal) -> Path:
    """The student as ONNX, held against the eager network on real test images."""
    data, path = ready.dataset, journal.out / "student.onnx"
    export_onnx(student, path, channels=data.channels, image_size=data.image_size)
    few = next(ordered(data.test, batch_size=_CHECKED_IMAGES, mean=data.mean, std=data.std))
    check_onnx(path, student, samples=few.images.cpu())
    journal.deliver(path, media_type="application/octet-stream")
    return path


def _reproduce(ready: Ready, *, journal: Journal) -> None:
    path = journal.out / "reproduce.yaml"
    _write(path, yaml.safe_dump(ready.spec.model_dump(mode="json"), sort_keys=False))
    journal.deliver(path, media_type="application/yaml")


def _measure(
    ready: Ready,
    networks: Mapping[Role, nn.Module],
    *,
    files: Mapping[Role, Path],
    onnx: Path | None,
    journal: Journal,
) -> LatencyReport | None:
    if ready.spec.latency is None:
        return None
    journal.enter("measuring")
    samples = journal.out / "latency_samples.csv"

    def leave_when_asked() -> None:
        if journal.stop_requested():
            journal.save(None)
            raise Stopped

    measured = compare(
        Contestant(networks["teacher"], weights=files["teacher"]),
        student=Contestant(networks["student"], weights=files["student"], onnx=onnx),
        dataset=ready.dataset,
        spec=ready.spec.latency,
        repeat_with=repeat_command(job="reproduce.yaml", teacher="teacher.safetensors", student="student.safetensors"),
        samples_file=samples,
        on_block=leave_when_asked,
    )
    journal.deliver(samples, media_type="text/csv")
    _write(journal.out / "latency.json", measured.model_dump_json(indent=2))
    journal.deliver(journal.out / "latency.json", media_type="application/json")
    return measured


def _finish(
    ready: Ready,
    candidates: Mapping[Role, Candidate],
    *,
    latency: LatencyReport | None,
    files: Mapping[Role, Path],
    journal: Journal,
) -> None:
    told = report.assemble(
        candidates["student"],
        teacher=candidates["teacher"],
        baseline=candidates.get("baseline"),
        dataset=ready.dataset,
        spec=ready.spec,
        latency=latency,
        warnings=journal.warnings,
    )
    for warning in told.warnings[len(journal.warnings) :]:
        journal.warn(warning)
    _write(journal.out / "report.html", report_page.render(told))
    journal.deliver(journal.out / "report.html", media_type="text/html; charset=utf-8")
    _write(journal.out / "report.json", told.model_dump_json(indent=2))
    journal.deliver(journal.out / "report.json", media_type="application/json")
    roles: list[Any] = ["student"] if ready.teacher is not None else ["student", "teacher"]
    models = tuple(_model(ready, role, told, path=files[role]) for role in roles)
    journal.teller.tell(Finished(summary=told.summary, models=models))


def _model(ready: Ready, role: Any, told: Report, *, path: Path) -> ModelFacts:
    data = ready.dataset
    return ModelFacts(
        role=role,
        artifact=path.name,
        architecture=_architecture(ready, role),
        classes=data.classes,
        image_size=data.image_size,
        channels=data.channels,
        mean=data.mean,
        std=data.std,
        accuracy=next(each.top1.value for each in told.quality if each.role == role),
        sha256=sha256_of(path),
    )


def _write(path: Path, text: str) -> None:
    with written_whole(path) as writer:
        writer.write(text.encode())
