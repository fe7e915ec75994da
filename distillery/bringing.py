"""Bringing data sets and models along on the command line: what is sent, how far it is, what was found."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from distillery.client import Client
from distillery.errors import InvalidRequest
from distillery.views import Dataset, Model

_SHOWN = 5


def name_of(files: Sequence[Path], *, path: str | None) -> str:
    """What a thing is called after its files.

    Raises:
        InvalidRequest: there are neither files nor a path.
    """
    if files:
        return files[0].name.partition(".")[0] or files[0].name
    if path:
        return path.rstrip("/").rpartition("/")[2] or path
    raise InvalidRequest("There is nothing to add.", hint="Name a file, or a place that the workers see with --path.")


def dataset_named(text: str) -> dict[str, str]:
    """`dataset` of a spec, from an id or a name."""
    return {"id": text} if text.startswith("dts_") else {"name": text}


def preprocessing(
    client: Client, *, architecture: str | None, image_size: int | None, mean: str | None, std: str | None
) -> dict[str, Any]:
    """The field of that name from options of the command line; empty when none was given.

    The size that is left out is the one that the architecture was made for.

    Raises:
        InvalidRequest: the size is missing and unknown, or one of the others is no list of numbers.
    """
    numbers = {"mean": _numbers(mean, option="--mean"), "std": _numbers(std, option="--std")}
    given: dict[str, Any] = {name: values for name, values in numbers.items() if values}
    if not given and not image_size:
        return {}
    if given:
        given["channels"] = 1 if len(given.get("mean") or given["std"]) == 1 else 3
    native = (each.input[1] for each in client.architectures() if each.name == architecture)
    side = image_size or next(native, None)
    if side is None:
        raise InvalidRequest("--mean and --std need the size of the images too.", hint="Add --image-size 32.")
    return {**given, "image_size": side}


def _numbers(text: str | None, *, option: str) -> list[float]:
    try:
        return [float(part) for part in (text or "").split(",") if part.strip()]
    except ValueError:
        raise InvalidRequest(
            f"{option} is '{text}', which is no list of numbers.", hint="Write it like 0.485,0.456,0.406."
        ) from None


@dataclass
class Show:
    """A bar for each file that is sent, and one for what the worker does with it."""

    bars: Progress
    _tasks: dict[str, TaskID] = field(default_factory=dict)

    def sent(self, name: str, here: int, whole: int) -> None:
        """So many bytes of a file have arrived."""
        self._update(f"sending {name}", here, whole)

    def look(self, made: Dataset | Model) -> None:
        """What is made of the files, as it is now."""
        progress = made.progress if isinstance(made, Dataset) else None
        if progress is None:
            self._update(made.status, 0, None)
        else:
            self._update(progress.phase, progress.step, progress.total_steps or None)

    def _update(self, what: str, here: int, whole: int | None) -> None:
        if what not in self._tasks:
            self._tasks[what] = self.bars.add_task(what, total=whole)
        self.bars.update(self._tasks[what], completed=here, total=whole)


@contextmanager
def shown(console: Console) -> Iterator[Show]:
    """Bars for as long as the block lasts; nothing where nobody watches."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:
        yield Show(bars)


def told_of_dataset(dataset: Dataset) -> Iterator[str]:
    """What was found in it, in a few lines."""
    facts = dataset.facts
    if facts is None:
        if dataset.error:
            yield f"{dataset.error.detail} {dataset.error.hint}".rstrip()
        return
    splits = ", ".join(f"{count:,} for {split}" for split, count in facts.splits.items() if count)
    yield f"{facts.task} ({facts.format}), {len(facts.classes)} classes ({_few(facts.classes)}); samples: {splits}."
    if facts.channels:
        side = f"{facts.height}x{facts.width}" if facts.height else "of several sizes"
        yield f"Images are {side}, {'grey' if facts.channels == 1 else 'RGB'}."
    yield from facts.notes
    for each in facts.broken[:_SHOWN]:
        yield f"Broken: {each.member}: {each.reason}"
    if facts.broken_count > _SHOWN:
        yield f"{facts.broken_count:,} members are broken in all."


def told_of_model(model: Model) -> Iterator[str]:
    """What is known of it, in a few lines."""
    if model.error:
        yield f"{model.error.detail} {model.error.hint}".rstrip()
    if model.architecture:
        names = f" ({_few(model.classes)})" if model.classes else ""
        yield f"{model.format}, {model.architecture}, {len(model.classes)} classes{names}."
    for each in model.measured:
        span = f"{each.top1.low:.2%} to {each.top1.high:.2%}"
        yield f"{each.top1.value:.2%} right on the {each.images:,} test images of {each.data} ({span})."
    if model.facts is not None:
        yield from model.facts.notes


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
