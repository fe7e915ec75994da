"""Where a spec can be measured on this machine, and the files that its runtimes load."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from distillery.errors import InvalidRequest
from distillery.spec import LatencySpec
from engine import runtimes
from engine.black_box import OnnxNetwork
from engine.data.dataset import Dataset
from engine.device_lease import DeviceLease, name_of
from engine.export import check_onnx, export_onnx
from engine.latency.loading import Subject
from engine.latency.samples import calibration
from engine.quantise import quantise
from engine.runtimes import Runtime


@dataclass(frozen=True)
class Place:
    """A runtime on a device."""

    runtime: Runtime
    device: torch.device


def planned(spec: LatencySpec) -> tuple[tuple[Place, ...], tuple[str, ...]]:
    """Where of `spec` this machine can measure, and a sentence for each runtime and device where it cannot."""
    places: list[Place] = []
    notes = []
    for device in dict.fromkeys(map(_resolved, spec.devices)):
        for name in dict.fromkeys(spec.runtimes):
            runtime = runtimes.find(name)
            if reason := runtime.absent_on(torch.device(device)):
                notes.append(f"Not measured: {name} on {device}, because {reason}.")
            else:
                places.append(Place(runtime, torch.device(device)))
    return tuple(places), tuple(notes)


def demand_a_place(spec: LatencySpec) -> None:
    """Refuse what this machine cannot measure at all, before hours are spent on what is to be measured.

    Raises:
        InvalidRequest: no runtime of the spec runs on any of its devices here.
    """
    places, notes = planned(spec)
    if not places:
        here = [each.name for each in runtimes.RUNTIMES if not each.absent_on(torch.device(_resolved("auto")))]
        raise InvalidRequest(
            f"Nothing of 'latency' can be measured on this worker. {' '.join(notes)}",
            hint=f"Here run on {_resolved('auto')}: {', '.join(here)}. Or set 'latency: null'.",
            pointer="/latency/runtimes",
        )


def _resolved(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


@contextmanager
def devices_alone(spec: LatencySpec, *, on_wait: Callable[[], None]) -> Iterator[None]:
    """Wait until nothing is trained on the devices, and keep others from it for as long as the block lasts."""
    with ExitStack() as held:
        for name in sorted({name_of(place.device) for place in planned(spec)[0]}):
            held.enter_context(DeviceLease(name, on_wait=on_wait).alone())
        yield


def for_graph(places: Sequence[Place]) -> tuple[tuple[Place, ...], tuple[str, ...]]:
    """Where of it an ONNX graph can be measured: both sides run in the same runtime, and it runs in no other."""
    kept = tuple(place for place in places if place.runtime.form == "onnx")
    names = sorted({place.runtime.name for place in places} - {place.runtime.name for place in kept})
    why = "because the teacher is an ONNX graph, and both sides are timed in one runtime"
    return kept, tuple(f"Not measured: {name}, {why}." for name in names)


def in_forms(
    pair: tuple[Subject, Subject], places: tuple[Place, ...], *, dataset: Dataset, folder: Path, samples: Tensor
) -> tuple[tuple[Subject, Subject], tuple[Place, ...], tuple[str, ...]]:
    """Give both subjects the files that they load; where one cannot be made, leave out the places that need it."""

    def with_onnx(subject: Subject) -> Subject:
        if isinstance(subject.network, OnnxNetwork):
            return subject
        path = subject.onnx
        if path is None:
            path = folder / f"{subject.model}.onnx"
            export_onnx(subject.network, path, channels=dataset.channels, image_size=dataset.image_size)
        check_onnx(path, subject.network, samples=samples)
        return replace(subject, onnx=path)

    def with_int8(subject: Subject) -> Subject:
        path = folder / f"{subject.model}.int8.onnx"
        quantise(Path(subject.onnx or ""), path, calibration=calibration(dataset))
        return replace(subject, int8=path)

    notes: list[str] = []
    for forms, make in ((("onnx", "int8"), with_onnx), (("int8",), with_int8)):
        if not any(place.runtime.form in forms for place in places):
            continue
        try:
            pair = make(pair[0]), make(pair[1])
        except InvalidRequest as impossible:
            left_out = sorted({place.runtime.name for place in places if place.runtime.form in forms})
            notes.append(f"Not measured: {', '.join(left_out)}. {impossible.detail}")
            places = tuple(place for place in places if place.runtime.form not in forms)
    return pair, places, tuple(notes)
