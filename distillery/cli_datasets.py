"""`distillery datasets …`: data sets of your own, brought to the service or shown to it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillery import console
from distillery.cli_options import SERVER, AsJson, Server, client

if TYPE_CHECKING:
    from rich.table import Table

    from distillery.views import Dataset

app = typer.Typer(
    help="Bring data sets of your own.", no_args_is_help=True, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)  # fmt: skip
DatasetId = Annotated[str, typer.Argument(metavar="DATASET", help="A data set's id.", show_default=False)]


@app.command()
def add(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Archives of images, idx, npz, parquet, csv or jsonl files."),
    ] = None,
    path: Annotated[
        str | None, typer.Option(help="In place of files: a path that the workers see, or s3://bucket/key.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the data set.  [default: that of the first file]")] = None,
    data_format: Annotated[str, typer.Option("--format", help="What the files are; auto looks at them.")] = "auto",
    short_side: Annotated[
        int | None, typer.Option(help="Pixels that larger images are scaled down to.  [default: 256]", min=8)
    ] = None,
    grey: Annotated[bool, typer.Option("--grey", help="Keep the images as grey.")] = False,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave broken members out instead of refusing the whole.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Any other field, as columns.text=title or test=0.1."),
    ] = None,
    server: Server = SERVER,
    as_json: AsJson = False,
) -> None:
    """Add a data set and print its id, for `dataset: {id: …}` of a job."""
    from distillery import bringing, job_files

    given = files or []
    asked: dict[str, Any] = {"format": data_format, "on_error": "skip" if skip_broken else "fail"}
    asked |= {"path": path} if path else {}
    asked |= {"short_side": short_side} if short_side else {}
    asked |= {"channels": 1} if grey else {}
    job_files.put(asked, settings or ())
    called = name or bringing.name_of(given, path=path)
    with client(server) as service, bringing.shown(console.stderr()) as show:
        made = service.datasets.add(*given, name=called, on_sent=show.sent, on_look=show.look, **asked)
    if as_json:
        return console.print_json(made)
    console.line(made.id)
    for text in bringing.told_of_dataset(made):
        console.note(text)
    return None


@app.command(name="list")
def list_datasets(server: Server = SERVER, as_json: AsJson = False) -> None:
    """List data sets, newest first."""
    with client(server) as service:
        found = list(service.datasets.list())
    console.result(found, lambda: _table(found), as_json=as_json, empty="There are no data sets.")


@app.command()
def show(dataset_id: DatasetId, server: Server = SERVER, as_json: AsJson = False) -> None:
    """Show what was found in a data set."""
    from distillery import bringing

    with client(server) as service:
        found = service.datasets.get(dataset_id)
    if as_json:
        return console.print_json(found)
    console.line(f"{found.id} {found.name}: {found.status}")
    for text in bringing.told_of_dataset(found):
        console.line(text)
    return None


@app.command()
def preview(
    dataset_id: DatasetId,
    to: Annotated[Path | None, typer.Option("--to", "-t", help="File of the contact sheet.")] = None,
    server: Server = SERVER,
    as_json: AsJson = False,
) -> None:
    """Write a contact sheet of samples as PNG, or print histograms and samples with --json."""
    with client(server) as service:
        if as_json:
            return console.line(service.datasets.preview(dataset_id).decode())
        path = to or Path(f"{dataset_id}.png")
        path.write_bytes(service.datasets.preview(dataset_id, media_type="image/png"))
    return console.line(str(path))


@app.command()
def remove(dataset_id: DatasetId, server: Server = SERVER, as_json: AsJson = False) -> None:
    """Forget a data set, unless a job that has not ended needs it."""
    with client(server) as service:
        service.datasets.remove(dataset_id)
    return console.print_json({"id": dataset_id}) if as_json else console.note(f"{dataset_id} is gone.")


def _table(found: "list[Dataset]") -> "Table":
    from rich.table import Table

    from distillery.tables import size

    table = Table("id", "name", "status", "classes", "samples", "size", box=None, header_style="bold")
    for each in found:
        facts = each.facts
        counts = f"{sum(facts.splits.values()):,}" if facts else ""
        classes, packed = (str(len(facts.classes)), size(facts.size_bytes)) if facts else ("", "")
        table.add_row(each.id, each.name, each.status, classes, counts, packed)
    return table
