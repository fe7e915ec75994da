"""`distillery models …`: networks that were trained elsewhere, as teachers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillery import console
from distillery.cli_options import SERVER, AsJson, Server, client

if TYPE_CHECKING:
    from rich.table import Table

    from distillery.views import Model

app = typer.Typer(
    help="Bring networks that were trained elsewhere, and see those that the service keeps.", no_args_is_help=True,
    rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)  # fmt: skip
ModelId = Annotated[str, typer.Argument(metavar="MODEL", help="A model's id.", show_default=False)]


@app.command()
def add(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Weights as .safetensors, an .onnx graph, or a table.")
    ] = None,
    path: Annotated[
        str | None, typer.Option(help="In place of a file: a path that the workers see, or s3://bucket/key.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model.  [default: that of the file]")] = None,
    architecture: Annotated[
        str | None, typer.Option("--architecture", "-a", help="Of safetensors: a name of `distillery architectures`.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the images that it reads, in pixels.", min=4)] = None,
    mean: Annotated[str | None, typer.Option(help="Mean of each channel, as 0.485,0.456,0.406.")] = None,
    std: Annotated[str | None, typer.Option(help="Deviation of each channel, likewise.")] = None,
    classes: Annotated[str | None, typer.Option(help="Names of the outputs in order, with commas between.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Measure it on the test split of this data set: an id, or a name.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Any other field, as preprocessing.layout=flat."),
    ] = None,
    server: Server = SERVER,
    as_json: AsJson = False,
) -> None:
    """Add a teacher and print its id, for `teacher: {model: …}` of a job."""
    from distillery import bringing, job_files

    asked: dict[str, Any] = {"path": path} if path else {}
    asked |= {"architecture": architecture} if architecture else {}
    asked |= {"classes": classes.split(",")} if classes else {}
    asked |= {"dataset": bringing.dataset_named(dataset)} if dataset else {}
    files = [file] if file else []
    called = name or bringing.name_of(files, path=path)
    with client(server) as service, bringing.shown(console.stderr()) as show:
        if read := bringing.preprocessing(
            service, architecture=architecture, image_size=image_size, mean=mean, std=std
        ):
            asked["preprocessing"] = read
        job_files.put(asked, settings or ())
        made = service.add_model(*files, name=called, on_sent=show.sent, on_look=show.look, **asked)
    if as_json:
        return console.print_json(made)
    console.line(made.id)
    for text in bringing.told_of_model(made):
        console.note(text)
    return None


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .pt, .pth, .th, .ckpt or .bin file of PyTorch.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="File to write.  [default: the same with .safetensors]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Turn a pickled state dict into safetensors, here on your machine: the service never reads pickles."""
    from distillery.convert import convert as converted

    result = converted(file, out=out)
    if as_json:
        return console.print_json({"path": str(result.path), "tensors": result.tensors, "notes": list(result.notes)})
    console.line(str(result.path))
    for text in result.notes:
        console.note(text)
    return None


@app.command(name="list")
def list_models(server: Server = SERVER, as_json: AsJson = False) -> None:
    """List the models that the service keeps, newest first."""
    with client(server) as service:
        found = list(service.models())
    console.result(found, lambda: _table(found), as_json=as_json, empty="There are no models.")


@app.command()
def show(model_id: ModelId, server: Server = SERVER, as_json: AsJson = False) -> None:
    """Show what is known of a model."""
    from distillery import bringing

    with client(server) as service:
        found = service.model(model_id)
    if as_json:
        return console.print_json(found)
    console.line(f"{found.id} {found.name}: {found.status}")
    for text in bringing.told_of_model(found):
        console.line(text)
    return None


@app.command()
def remove(model_id: ModelId, server: Server = SERVER, as_json: AsJson = False) -> None:
    """Forget a model, unless a job that has not ended needs it."""
    with client(server) as service:
        service.delete_model(model_id)
    return console.print_json({"id": model_id}) if as_json else console.note(f"{model_id} is gone.")


def _table(found: "list[Model]") -> "Table":
    from rich.table import Table

    table = Table("id", "name", "role", "architecture", "status", "accuracy", box=None, header_style="bold")
    for each in found:
        accuracy = "" if each.accuracy is None else f"{each.accuracy:.2%}"
        table.add_row(each.id, each.name, each.role, each.architecture, each.status, accuracy)
    return table
