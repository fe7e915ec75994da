"""The end of a study: evaluate on the untouched test split, export, measure latency, report."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import yaml

from distillery.errors import InvalidRequest
from distillery.report import EarlyExit, LatencyReport, Report, RunForms
from distillery.spec import LatencySpec
from engine import black_boxes, model_card, report, report_page
from engine.answers_table import AnswersTable
from engine.black_box import OnnxNetwork
from engine.checkpoint import sha256_of, written_whole
from engine.device_lease import DeviceLease
from engine.latency import Contestant, compare
from engine.latency.compare import repeat_command
from engine.report import Besides
from engine.strategies.data_free import grid_png
from engine.weights import save_safetensors
from worker import exports
from worker.journal import Journal
from worker.messages import Finished, ModelFacts
from worker.parts import Cast, Part, collect, gallery, over_seeds
from worker.ready import Ready

_MAIN = ("teacher", "student", "baseline")


def close(ready: Ready, cast: Cast, *, journal: Journal, lease: DeviceLease) -> None:
    """Deliver every artifact of the study and tell that it is finished. `lease` is held, and alone while measuring."""
    journal.enter("evaluating")
    parts = collect(ready, cast, journal=journal)
    _save_all(ready, parts, journal=journal)
    candidates = {role: part.candidate(ready) for role, part in parts.items()}
    spread = over_seeds(ready, journal=journal)
    journal.enter("exporting")
    onnx = exports.deliver(ready, parts, journal=journal)
    _reproduce(ready, journal=journal)
    synthetic = _show_synthetic(journal)
    latency, exits = _measure(ready, parts, onnx=onnx, journal=journal, lease=lease)
    told = report.assemble(
        candidates["student"],
        teacher=candidates.get("teacher"),
        baseline=candidates.get("baseline"),
        dataset=ready.dataset,
        spec=ready.spec,
        latency=latency,
        besides=Besides(
            others={role: each for role, each in candidates.items() if role not in _MAIN},
            spread=spread,
            exits=exits,
            synthetic=synthetic,
        ),
        forms=[
            RunForms(run=run, teachers=tuple(forms["teachers"]), student=forms["student"][0])
            for run, forms in journal.forms.items()
        ],
        warnings=journal.warnings,
    )
    _finish(ready, parts, told, journal=journal)


def _save_all(ready: Ready, parts: Mapping[str, Part], *, journal: Journal) -> None:
    """Every network in a file of its own; several teachers of which one is a black box have none in common."""
    for role, part in parts.items():
        network = part.known.network
        if len(black_boxes.members(network)) == 1 or not black_boxes.is_opaque(network):
            part.file = _save_weights(ready, role, part, journal=journal)
    for part in parts.values():
        if part.file is None:
            own = (each.file for role, each in parts.items() if role.startswith("teacher") and each.file)
            part.file_bytes = sum(file.stat().st_size for file in own)


def _save_weights(ready: Ready, role: str, part: Part, *, journal: Journal) -> Path:
    network = part.known.network
    if isinstance(network, OnnxNetwork):
        return _save_as(journal, f"{role}.onnx", network.described())
    if isinstance(network, AnswersTable):
        return _save_as(journal, f"{role}-table.npz", network.content())
    path = journal.out / f"{role}.safetensors"
    save_safetensors(part.known.network, path, metadata=part.facts(ready))
    journal.deliver(path, media_type="application/vnd.safetensors")
    return path


def _save_as(journal: Journal, name: str, content: bytes) -> Path:
    """A black box, as it came."""
    path = journal.out / name
    _write(path, content)
    journal.deliver(path, media_type="application/octet-stream")
    return path


def _reproduce(ready: Ready, *, journal: Journal) -> None:
    path = journal.out / "reproduce.yaml"
    _write(path, yaml.safe_dump(ready.spec.model_dump(mode="json"), sort_keys=False).encode())
    journal.deliver(path, media_type="application/yaml")


def _show_synthetic(journal: Journal) -> str:
    """A sheet of the images that a data-free student learned from, as an artifact; gives it as a data URL."""
    images = gallery(journal)
    if images is None:
        return ""
    path, sheet = journal.out / "synthetic.png", grid_png(images)
    _write(path, sheet)
    journal.deliver(path, media_type="image/png")
    return "data:image/png;base64," + base64.b64encode(sheet).decode("ascii")


def _measure(
    ready: Ready, parts: Mapping[str, Part], *, onnx: Mapping[str, Path], journal: Journal, lease: DeviceLease
) -> tuple[LatencyReport | None, tuple[EarlyExit, ...]]:
    """Student against teacher, and each early exit against the whole student."""
    exits = {role: part for role, part in parts.items() if part.stage}
    asked, latency = ready.spec.latency, None
    if asked is None or not (exits or "teacher" in parts):
        return None, tuple(EarlyExit(role=role, stage=part.stage, latency=None) for role, part in exits.items())
    journal.enter("measuring")
    told = []
    with lease.alone():
        if "teacher" in parts:
            latency = _against_teacher(ready, parts, spec=asked, onnx=onnx, journal=journal)
        for role, part in exits.items():
            measured = _timed(ready, parts, ("student", role), spec=asked, onnx=onnx, journal=journal)
            told.append(EarlyExit(role=role, stage=part.stage, latency=measured))
    if latency is not None:
        _write(journal.out / "latency.json", latency.model_dump_json(indent=2).encode())
        journal.deliver(journal.out / "latency.json", media_type="application/json")
    return latency, tuple(told)


def _against_teacher(
    ready: Ready, parts: Mapping[str, Part], *, spec: LatencySpec, onnx: Mapping[str, Path], journal: Journal
) -> LatencyReport | None:
    """Student against teacher. Where the teacher is a black box that cannot be timed, that is told as a warning."""
    pair = ("teacher", "student")
    if not black_boxes.is_opaque(parts["teacher"].known.network):
        return _timed(ready, parts, pair, spec=spec, onnx=onnx, journal=journal)
    try:
        measured = _timed(ready, parts, pair, spec=spec, onnx=onnx, journal=journal)
    except InvalidRequest as impossible:
        journal.warn(impossible.detail)
        return None
    for note in measured.notes:
        if note.startswith("Not measured"):
            journal.warn(note)
    return measured


def _timed(
    ready: Ready,
    parts: Mapping[str, Part],
    pair: tuple[str, str],
    *,
    spec: LatencySpec,
    onnx: Mapping[str, Path],
    journal: Journal,
) -> LatencyReport:
    """The second of the pair against the first."""
    slow, fast = (_contestant(parts[role], onnx.get(role)) for role in pair)
    samples = journal.out / (
        "latency_samples.parquet" if pair[1] == "student" else f"latency_samples_{pair[1]}.parquet"
    )
    measured = compare(
        slow,
        student=fast,
        dataset=ready.dataset,
        spec=spec,
        repeat_with=repeat_command(
            job="reproduce.yaml", teacher=_file_name(parts, pair[0]), student=_file_name(parts, pair[1])
        ),
        samples_file=samples,
        on_block=journal.leave_when_asked,
    )
    journal.deliver(samples, media_type="application/vnd.apache.parquet")
    return measured


def _contestant(part: Part, onnx: Path | None) -> Contestant:
    return Contestant(part.known.network, weights=part.file or Path(), onnx=onnx)


def _file_name(parts: Mapping[str, Part], role: str) -> str:
    file = parts[role].file
    return file.name if file else ""


def _finish(ready: Ready, parts: Mapping[str, Part], told: Report, *, journal: Journal) -> None:
    for warning in told.warnings[len(journal.warnings) :]:
        journal.warn(warning)
    card = model_card.render(told, has_script="onnx" in ready.spec.export)
    _write(journal.out / "model_card.md", card.encode())
    journal.deliver(journal.out / "model_card.md", media_type="text/markdown; charset=utf-8")
    _write(journal.out / "report.html", report_page.render(told).encode())
    journal.deliver(journal.out / "report.html", media_type="text/html; charset=utf-8")
    _write(journal.out / "report.json", told.model_dump_json(indent=2).encode())
    journal.deliver(journal.out / "report.json", media_type="application/json")
    models = tuple(
        _model(ready, part, told, role=role) for role, part in parts.items() if role == "student" or part.teaches
    )
    journal.teller.tell(Finished(summary=told.summary, models=models))


def _model(ready: Ready, part: Part, told: Report, *, role: str) -> ModelFacts:
    data = ready.dataset
    kind: Literal["student", "teacher"] = "student" if role == "student" else "teacher"
    return ModelFacts(
        role=kind,
        artifact=part.saved.name,
        architecture=part.known.architecture,
        classes=data.classes,
        image_size=data.image_size,
        channels=data.channels,
        mean=data.mean,
        std=data.std,
        accuracy=next(each.top1.value for each in told.quality if each.role == role),
        sha256=sha256_of(part.saved),
    )


def _write(path: Path, content: bytes) -> None:
    with written_whole(path) as writer:
        writer.write(content)
