"""`distillery predict`: what networks say of images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distillery import console
from distillery.cli_options import SERVER, AsJson, Server, client

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from distillery.predictions import ImagePrediction, JobPrediction, ModelPrediction, NetworkPrediction

_JOB = "job_"


def predict(
    asked: Annotated[str, typer.Argument(metavar="ID", help="A job's id, or a model's.", show_default=False)],
    files: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="PNG, JPEG or WebP files, 64 at most.")],
    top_k: Annotated[int, typer.Option(help="How many classes to tell of each image.", min=1, max=100)] = 3,
    logits: Annotated[bool, typer.Option("--logits", help="With --json: all logits besides.")] = False,
    eager: Annotated[
        bool, typer.Option("--eager", help="Run the weights in PyTorch, also where there is an ONNX export.")
    ] = False,
    server: Server = SERVER,
    as_json: AsJson = False,
) -> None:
    """Ask a job's student and teacher, or a kept model, what is on images."""
    with client(server) as service:
        if asked.startswith(_JOB):
            both = service.predict_job(asked, files, top_k=top_k, logits=logits, runtime="eager" if eager else "auto")
            return console.print_json(both) if as_json else _show_job(both, files)
        one = service.predict_model(asked, files, top_k=top_k, logits=logits, runtime="eager" if eager else "auto")
        return console.print_json(one) if as_json else _show_model(one, files)


def _show_job(found: "JobPrediction", files: "Sequence[Path]") -> None:
    networks = [found.student, *([found.teacher] if found.teacher else [])]
    table = _table("image", *(each.role for each in networks), *(["agree"] if found.agree else []))
    for place, file in enumerate(files):
        agree = [("yes" if found.agree[place] else "no")] if found.agree else []
        table.add_row(str(file), *(_told(each.predictions[place]) for each in networks), *agree)
    console.stdout().print(table)
    for each in networks:
        console.note(_times(each))
    if found.note:
        console.note(found.note)


def _show_model(found: "ModelPrediction", files: "Sequence[Path]") -> None:
    table = _table("image", found.architecture)
    for file, each in zip(files, found.predictions, strict=True):
        table.add_row(str(file), _told(each))
    console.stdout().print(table)
    console.note(_times(found))


def _table(*columns: str) -> "Table":
    from rich.table import Table

    return Table(*columns, box=None, header_style="bold")


def _told(found: "ImagePrediction") -> str:
    from rich.markup import escape

    return escape(", ".join(f"{each.name} {each.probability:.1%}" for each in found.top))


def _times(found: "NetworkPrediction") -> str:
    times = found.timings
    loaded = f", after {times.load * 1000:,.0f} ms of loading" if found.cold else ""
    return (
        f"{found.role} {found.architecture} in {found.runtime}: {times.compute * 1000:.2f} ms for a batch of "
        f"{found.batch_size}, {times.total * 1000:.1f} ms in all{loaded}"
    )
