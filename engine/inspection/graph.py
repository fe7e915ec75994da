"""An ONNX graph as a black box: run on noise and, where there is data, on real images."""

from typing import Literal

import torch

from distillery.errors import InvalidRequest
from distillery.views import Measured, ModelFacts
from engine.black_box import OnnxNetwork, looks_like, read, told_preprocessing
from engine.checkpoint import written_whole
from engine.data.dataset import Dataset
from engine.data.views import Normalisation
from engine.inspection.measure import measured
from engine.inspection.subject import Inspected, Subject
from engine.intake import weights_onnx

FILE = "model.onnx"
_MEDIA_TYPE = "application/octet-stream"
_TRIED = 32
"""Real images on which it is seen whether it gives probabilities."""
_ZIPMAP = (
    "It gives a dictionary for each image (scikit-learn's ZipMap), which is slow to read. Export it with "
    "options={'zipmap': False}."
)


def inspect(subject: Subject) -> Inspected:
    """A graph that was found harmless.

    Raises:
        UnusableWeights: it does not run on such images, or answers for other classes.
        InvalidRequest: nobody tells what it expects of an image.
    """
    content = read(subject.path)
    said = subject.said
    expects = said.preprocessing or told_preprocessing(weights_onnx.check(content))
    if expects is None:
        raise InvalidRequest(
            f"{subject.named} is an ONNX graph, which does not tell what it expects of an image.",
            hint="Give its preprocessing: image_size, channels, mean, std, scale, layout, channel_order.",
            pointer="/preprocessing",
        )
    count = len(said.classes) if said.classes is not None else None
    if count is None and subject.dataset is not None:
        count = len(subject.dataset.classes)
    network = OnnxNetwork(content, preprocessing=expects, classes=count, outputs=said.outputs)
    told = network.graph.class_names
    classes = subject.named_classes(network.classes, told=told if len(told) == network.classes else None)
    accuracy = _measured(network, subject)
    with written_whole(subject.out / FILE, expected_bytes=len(content)) as writer:
        writer.write(content)
    facts = ModelFacts(
        format="onnx",
        architecture="onnx",
        classes=classes,
        preprocessing=expects,
        outputs=network.outputs,
        batch=network.graph.batch,
        layers=network.layers,
        parameters=network.parameter_count(),
        measured=accuracy,
        notes=tuple(_notes(network, guessed=said.outputs == "auto")),
        file=FILE,
        sha256=network.sha256,
        size_bytes=len(content),
    )
    return Inspected(facts, subject.out / FILE, _MEDIA_TYPE)


def _notes(network: OnnxNetwork, *, guessed: bool) -> list[str]:
    notes = []
    if guessed:
        why = "positive and add up to 1" if network.outputs == "probabilities" else "no probabilities"
        notes.append(f"Its answers were taken for {network.outputs}: the rows that were looked at are {why}.")
    if network.graph.batch is not None:
        notes.append(f"It takes batches of {network.graph.batch} alone: others are filled up or cut, which costs time.")
    if network.graph.zipped:
        notes.append(_ZIPMAP)
    renamed = [(layer, name) for layer, name in network.named_outputs if layer != name]
    notes += [f"Its output '{name}' is read as the layer '{layer}'." for layer, name in renamed]
    return notes


def _measured(network: OnnxNetwork, subject: Subject) -> Measured | None:
    data, spec = subject.dataset, subject.said.dataset
    if data is None or spec is None:
        return None
    fitted = network.fitted(mean=data.mean, std=data.std, image_size=data.image_size, channels=data.channels)
    if subject.said.outputs == "auto":
        fitted.outputs = network.outputs = _seen(fitted, data)
    return measured(fitted, data, spec=spec, mean=data.mean, std=data.std)


def _seen(network: OnnxNetwork, data: Dataset) -> Literal["logits", "probabilities"]:
    """What its answers to real images look like, as they stand in the graph."""
    network.outputs = "logits"
    normalise = Normalisation(mean=data.mean, std=data.std, device=torch.device("cpu"))
    with torch.inference_mode():
        return looks_like(network(normalise(data.test.images[:_TRIED])).numpy())
