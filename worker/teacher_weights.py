"""A teacher that was trained elsewhere: which file, which classes, which normalisation, which hash."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from distillery.errors import InvalidRequest, UnfitTeacher, UnusableWeights
from distillery.spec.teacher import TeacherSpec
from distillery.views import ModelFacts
from engine import black_box
from engine.answers_table import AnswersTable, read_table
from engine.black_box import OnnxNetwork
from engine.checkpoint import sha256_of
from engine.data.dataset import Dataset
from engine.intake import weights_onnx
from engine.weights import load_safetensors, load_state, read_metadata, torchvision_weights
from models import build

_AUGMENTED = (
    "The teacher is a table: its answers are those of the plain images, while the student sees augmented ones. "
    "Leave 'augment' of the data empty where the teacher's answer should be that of the very view."
)


@dataclass(frozen=True)
class LoadedTeacher:
    """Weights that were found to be whole, and what they expect. `fitted` makes the network."""

    architecture: str
    """A name of the catalogue; `onnx` or `table` of a black box."""
    sha256: str
    """Of the file."""
    classes: tuple[str, ...] | None
    """None where nobody told them."""
    mean: tuple[float, ...] | None
    """None of a black box, which turns whatever the job's networks read into what it expects."""
    std: tuple[float, ...] | None
    accuracy: float | None
    """As it was measured before; None where it was not."""
    maker: Callable[[Dataset], nn.Module]

    def fitted(self, dataset: Dataset) -> nn.Module:
        """The network for images as the job's networks read them: normalised by `dataset.mean` and `dataset.std`.

        Raises:
            UnusableWeights: the weights do not fit a network for this data, or a table lacks samples of it.
        """
        return self.maker(dataset)

    def notices(self, augment: tuple[str, ...]) -> tuple[str, ...]:
        """What the user should be warned of when this teacher teaches on data that is augmented so."""
        return (_AUGMENTED,) if self.architecture == "table" and augment else ()


def load_teacher(
    spec: TeacherSpec,
    *,
    dataset: Dataset,
    given: Path | None,
    facts: ModelFacts | None = None,
    own_scale: bool = False,
) -> LoadedTeacher:
    """Read the teacher's weights from disk; `given` is the file a supervisor fetched for `job` or `model`.

    `facts` are those of a model that was brought along. The normalisation comes with the weights; where it does not, it
    is that of the data, or `own_scale` refuses.

    Raises:
        UnfitTeacher: the classes are others than the data's, or stand in another order.
        UnusableWeights: the file is missing, foreign, or does not fit the architecture.
        InvalidRequest: the spec names a job or a model, and no service is there to fetch it.
    """
    if spec.weights and spec.weights.startswith("torchvision:"):
        return _from_torchvision(spec, dataset=dataset)
    path = given or _local_file(spec)
    kind = path.suffix.lower()
    if kind == ".onnx":
        return _onnx(spec, path, dataset=dataset, facts=facts)
    if kind in (".npz", ".parquet"):
        return _table(path, dataset=dataset, facts=facts)
    return _safetensors(spec, path, dataset=dataset, facts=facts, own_scale=own_scale)


def _safetensors(
    spec: TeacherSpec, path: Path, *, dataset: Dataset, facts: ModelFacts | None, own_scale: bool
) -> LoadedTeacher:
    told = read_metadata(path)
    architecture = spec.architecture or (facts.architecture if facts else told.get("architecture", ""))
    if not architecture:
        raise InvalidRequest(
            f"{path.name} does not tell its architecture.",
            hint="Name it in teacher.architecture, such as resnet56.",
            pointer="/teacher/architecture",
        )
    classes = _told_classes(told, facts)
    require_classes(classes, dataset)
    if own_scale and not {"mean", "std"} <= told.keys():
        raise UnusableWeights(
            f"{path.name} does not tell the mean and deviation that its images are brought to, and a data-free job "
            "has no images to measure them on.",
            hint="Write 'mean' and 'std' as JSON lists into the metadata of the safetensors file; a student or teacher "
            "that a job delivered has them.",
            pointer="/teacher/weights",
        )

    def fitted(data: Dataset) -> nn.Module:
        network = _built(architecture, data)
        try:
            load_safetensors(network, path)
        except UnusableWeights as error:
            raise _of_other_size(architecture, path, data, facts) or error from None
        return network

    return LoadedTeacher(
        architecture=architecture,
        sha256=sha256_of(path),
        classes=classes,
        mean=tuple(json.loads(told["mean"])) if "mean" in told else dataset.mean,
        std=tuple(json.loads(told["std"])) if "std" in told else dataset.std,
        accuracy=_recorded(facts),
        maker=fitted,
    )


def _of_other_size(architecture: str, path: Path, data: Dataset, facts: ModelFacts | None) -> UnfitTeacher | None:
    """The refusal of weights that fit the same architecture built for the size of image they were trained on."""
    if facts is None or facts.preprocessing.image_size == data.image_size:
        return None
    size = facts.preprocessing.image_size
    network = build(architecture, classes=len(data.classes), image_size=size, channels=data.channels)
    try:
        load_safetensors(network, path)
    except UnusableWeights:
        return None
    return UnfitTeacher(
        f"These weights of {architecture} are of a network for images of {size}x{size} pixels; the data has "
        f"{data.image_size}x{data.image_size}, for which its first layers are built otherwise.",
        cause="IMAGE_SIZE",
        hint=f"Set 'image_size' of the dataset to {size}.",
        pointer="/teacher",
    )


def _built(architecture: str, dataset: Dataset) -> nn.Module:
    return build(architecture, classes=len(dataset.classes), image_size=dataset.image_size, channels=dataset.channels)


def _local_file(spec: TeacherSpec) -> Path:
    if spec.weights is None:
        raise InvalidRequest(
            "A teacher by 'job' or 'model' lies in a service, and this run has none.",
            hint="Download its student.safetensors and name that file in teacher.weights.",
            pointer="/teacher",
        )
    return Path(spec.weights)


def _onnx(spec: TeacherSpec, path: Path, *, dataset: Dataset, facts: ModelFacts | None) -> LoadedTeacher:
    content = black_box.read(path)
    classes = facts.classes if facts else None
    require_classes(classes, dataset)
    graph = weights_onnx.check(content)
    expects = facts.preprocessing if facts else spec.preprocessing or black_box.told_preprocessing(graph)
    outputs = facts.outputs if facts else black_box.told_outputs(graph)
    if expects is None:
        raise InvalidRequest(
            f"{path.name} is an ONNX graph, which does not tell what it expects of an image.",
            hint="Say it in teacher.preprocessing: image_size, channels, mean, std, scale, layout.",
            pointer="/teacher/preprocessing",
        )
    made = OnnxNetwork(content, preprocessing=expects, classes=len(dataset.classes), outputs=outputs)
    return LoadedTeacher("onnx", made.sha256, classes, None, None, _recorded(facts), _fitter(made))


def _fitter(made: OnnxNetwork) -> Callable[[Dataset], nn.Module]:
    def fitted(data: Dataset) -> nn.Module:
        return made.fitted(mean=data.mean, std=data.std, image_size=data.image_size, channels=data.channels)

    return fitted


def _table(path: Path, *, dataset: Dataset, facts: ModelFacts | None) -> LoadedTeacher:
    classes = facts.classes if facts else None
    require_classes(classes, dataset)
    table = read_table(path, classes=len(dataset.classes), outputs=facts.outputs if facts else "auto")

    def fitted(data: Dataset) -> AnswersTable:
        table.require(data)
        return table

    return LoadedTeacher("table", sha256_of(path), classes, None, None, _recorded(facts), fitted)


def _recorded(facts: ModelFacts | None) -> float | None:
    return facts.measured.top1.value if facts and facts.measured else None


def _told_classes(told: Mapping[str, str], facts: ModelFacts | None) -> tuple[str, ...] | None:
    if facts is not None:
        return facts.classes
    return tuple(json.loads(told["classes"])) if "classes" in told else None


def require_classes(classes: tuple[str, ...] | None, dataset: Dataset) -> None:
    """Refuse a teacher whose classes are not the data's: in another order they would teach nonsense without failing.

    Classes that have numbers for names, on either side, are only counted.

    Raises:
        UnfitTeacher: they differ, or stand in another order.
    """
    wanted = dataset.classes
    if classes is None or classes == wanted:
        return
    if len(classes) == len(wanted) and (_numbered(classes) or _numbered(wanted)):
        return
    if sorted(classes) == sorted(wanted):
        place = next(at for at, (one, other) in enumerate(zip(classes, wanted, strict=True)) if one != other)
        raise UnfitTeacher(
            f"The teacher has the data's {len(wanted)} classes in another order: {_shown(classes)} instead of "
            f"{_shown(wanted)}.",
            cause="CLASS_ORDER",
            hint=f"Output {place} of the teacher is '{classes[place]}', class {place} of the data '{wanted[place]}'. "
            "Reorder the outputs of the teacher, or the classes of the data.",
            pointer="/teacher",
        )
    raise UnfitTeacher(
        f"The teacher knows {len(classes)} classes ({_shown(classes)}), but the data has {len(wanted)} "
        f"({_shown(wanted)}).",
        cause="CLASSES_DIFFER",
        hint="Use a teacher of the same classes in the same order.",
        pointer="/teacher",
    )


def _numbered(classes: tuple[str, ...]) -> bool:
    return all(name == str(place) for place, name in enumerate(classes))


def _shown(classes: tuple[str, ...]) -> str:
    return ", ".join(classes[:5]) + (", …" if len(classes) > 5 else "")


def _from_torchvision(spec: TeacherSpec, *, dataset: Dataset) -> LoadedTeacher:
    name = (spec.weights or "").partition(":")[2]
    found = torchvision_weights(spec.architecture, name)

    def fitted(data: Dataset) -> nn.Module:
        network = _built(spec.architecture, data)
        load_state(network, found.state, source=f"{spec.architecture} ({name})")
        return network

    return LoadedTeacher(
        architecture=spec.architecture,
        sha256=found.sha256,
        classes=None if len(found.classes) != len(dataset.classes) else found.classes,
        mean=found.mean,
        std=found.std,
        accuracy=None,
        maker=fitted,
    )
