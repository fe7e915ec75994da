"""A teacher that was trained elsewhere: which file, which normalisation, which hash."""

import json
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from distillery.errors import InvalidRequest, UnusableWeights
from distillery.spec.teacher import TeacherSpec
from engine.checkpoint import sha256_of
from engine.data.dataset import Dataset
from engine.weights import load_safetensors, load_state, read_metadata, torchvision_weights
from models import build


@dataclass(frozen=True)
class LoadedTeacher:
    """A network with its weights, the normalisation they were trained with, and their hash."""

    network: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: str


def load_teacher(spec: TeacherSpec, *, dataset: Dataset, given: Path | None, own_scale: bool = False) -> LoadedTeacher:
    """Build the teacher and load its weights from disk; `given` is the file a supervisor fetched for `job` or `model`.

    Its normalisation comes with the weights; where it does not, it is that of the data, or `own_scale` refuses.

    Raises:
        UnusableWeights: the file is missing, foreign, or does not fit the architecture or the data's classes.
        InvalidRequest: the spec names a job or a model, and no service is there to fetch it.
    """
    if spec.weights and spec.weights.startswith("torchvision:"):
        return _from_torchvision(spec, dataset=dataset)
    path = given or _local_file(spec)
    metadata = read_metadata(path)
    _same_classes(metadata, dataset, path=path)
    if own_scale and not {"mean", "std"} <= metadata.keys():
        raise UnusableWeights(
            f"{path.name} does not tell the mean and deviation that its images are brought to, and a data-free job "
            "has no images to measure them on.",
            hint="Write 'mean' and 'std' as JSON lists into the metadata of the safetensors file; a student or teacher "
            "that a job delivered has them.",
            pointer="/teacher/weights",
        )
    network = _built(spec, dataset)
    load_safetensors(network, path)
    mean = tuple(json.loads(metadata["mean"])) if "mean" in metadata else dataset.mean
    std = tuple(json.loads(metadata["std"])) if "std" in metadata else dataset.std
    return LoadedTeacher(network, mean, std, sha256_of(path))


def _built(spec: TeacherSpec, dataset: Dataset) -> nn.Module:
    return build(
        spec.architecture, classes=len(dataset.classes), image_size=dataset.image_size, channels=dataset.channels
    )


def _local_file(spec: TeacherSpec) -> Path:
    if spec.weights is None:
        raise InvalidRequest(
            "A teacher by 'job' or 'model' lies in a service, and this run has none.",
            hint="Download its student.safetensors and name that file in teacher.weights.",
            pointer="/teacher",
        )
    return Path(spec.weights)


def _same_classes(metadata: dict[str, str], dataset: Dataset, *, path: Path) -> None:
    """A teacher whose classes stand in another order would teach nonsense without failing."""
    if "classes" not in metadata:
        return
    classes = tuple(json.loads(metadata["classes"]))
    if classes != dataset.classes:
        raise UnusableWeights(
            f"{path.name} was trained on the classes {_shown(classes)}, but the data has {_shown(dataset.classes)}.",
            hint="Use a teacher of the same classes in the same order.",
            pointer="/teacher",
        )


def _shown(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:5]) + (f", … ({len(classes)})" if len(classes) > 5 else "")


def _from_torchvision(spec: TeacherSpec, *, dataset: Dataset) -> LoadedTeacher:
    name = (spec.weights or "").partition(":")[2]
    found = torchvision_weights(spec.architecture, name)
    network = _built(spec, dataset)
    load_state(network, found.state, source=f"{spec.architecture} ({name})")
    return LoadedTeacher(network, found.mean, found.std, found.sha256)
