"""`distillery benchmark …`: any models timed against each other, and what follows from the figures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distillery import console
from distillery.cli_options import SERVER, AsJson, Server, client
from distillery.errors import InvalidRequest

if TYPE_CHECKING:
    from distillery.views import Benchmark

app = typer.Typer(
    help="Time any models against each other, and see which students of a project are worth having.",
    no_args_is_help=True, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)  # fmt: skip
BenchmarkId = Annotated[str, typer.Argument(metavar="BENCHMARK", help="A benchmark's id.", show_default=False)]
Force = Annotated[bool, typer.Option("--force", help="Mix different environments all the same.")]
Labels = Annotated[
    list[str] | None, typer.Option("--label", "-l", metavar="KEY=VALUE", help="Such as project=flowers.")
]


@app.command()
def run(
    source: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="The benchmark as YAML or JSON; - reads standard input.")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", "-m", metavar="[NAME=]ID", help="mdl_…, job_… or job_…/teacher; give it again for more."
        ),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Name of the model the others are held against.  [default: the first]")
    ] = None,
    runtimes: Annotated[
        list[str] | None, typer.Option("--runtime", "-r", help="eager, compiled, onnxruntime, onnxruntime-int8 ...")
    ] = None,
    batch_sizes: Annotated[
        list[int] | None, typer.Option("--batch-size", "-b", help="Images at once; give it again for more.", min=1)
    ] = None,
    devices: Annotated[list[str] | None, typer.Option("--device", "-d", help="auto, cpu or cuda.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1)] = None,
    name: Annotated[str | None, typer.Option(help="Name of the benchmark.")] = None,
    labels: Labels = None,
    dataset: Annotated[str | None, typer.Option(help="Whose test images to read: an id, or a name.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Any other field, as measure.seconds=120."),
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the page with plots to this file, too.")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the id and do not wait for the result.")] = False,
    server: Server = SERVER,
    as_json: AsJson = False,
) -> None:
    """Have a worker time any models against each other, and show the speed-ups."""
    from distillery import bringing, job_files

    asked: dict[str, Any] = _document(source) if source else {}
    if models:
        asked["models"] = [_model(text) for text in models]
    given = {"reference": reference, "name": name}
    asked |= {key: value for key, value in given.items() if value}
    asked |= {"dataset": bringing.dataset_named(dataset)} if dataset else {}
    asked |= {"labels": {**asked.get("labels", {}), **_labels(labels)}} if labels else {}
    wanted = {"runtimes": runtimes, "batch_sizes": batch_sizes, "devices": devices, "threads": threads}
    if measure := {key: value for key, value in wanted.items() if value}:
        asked["measure"] = {**asked.get("measure", {}), **measure}
    job_files.put(asked, settings or ())
    with client(server) as service:
        if not no_wait:
            console.note("Measuring; this takes a while.")
        made = service.benchmarks.run(asked, wait=not no_wait)
        if html is not None and not no_wait:
            html.write_bytes(service.benchmarks.result(made.id, media_type="text/html"))
    return _show(made, as_json=as_json)


@app.command(name="list")
def list_benchmarks(
    label: Annotated[str | None, typer.Option("--label", "-l", help="Only with this label: key=value, or key.")] = None,
    status: Annotated[str | None, typer.Option(help="Only in this state.")] = None,
    server: Server = SERVER,
    as_json: AsJson = False,
) -> None:
    """List benchmarks, newest first."""
    with client(server) as service:
        found = list(service.benchmarks.list(label=label or "", status=status or ""))

    def table() -> Any:
        from distillery.benchmark_tables import list_table

        return list_table(found)

    console.result(found, table, as_json=as_json, empty="There are no benchmarks.")


@app.command()
def show(
    benchmark_id: BenchmarkId,
    html: Annotated[Path | None, typer.Option(help="Write the page with plots to this file instead.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write the figures to this file instead.")] = None,
    samples: Annotated[Path | None, typer.Option(help="Write the time of every call to this file instead.")] = None,
    server: Server = SERVER,
    as_json: AsJson = False,
) -> None:
    """Show how far a benchmark is, or what it found."""
    with client(server) as service:
        kept = service.benchmarks
        written = []
        for path, media_type in ((html, "text/html"), (csv, "text/csv")):
            if path is not None:
                path.write_bytes(kept.result(benchmark_id, media_type=media_type))
                written.append(str(path))
        if samples is not None:
            samples.write_bytes(kept.artifact(benchmark_id, "benchmark_samples.parquet"))
            written.append(str(samples))
        if not written:
            return _show(kept.get(benchmark_id), as_json=as_json)
    if as_json:
        return console.print_json([{"path": path} for path in written])
    for path_written in written:
        console.line(path_written)
    return None


@app.command()
def compare(
    benchmark_ids: Annotated[
        list[str], typer.Argument(metavar="BENCHMARK...", help="Ids of two or more.", show_default=False)
    ],
    force: Force = False,
    server: Server = SERVER,
    as_json: AsJson = False,
) -> None:
    """Show benchmarks side by side. Those of different environments are refused, unless it is forced."""
    with client(server) as service:
        found = service.benchmarks.compare(*benchmark_ids, force=force)
    if as_json:
        return console.print_json(found)
    from distillery.benchmark_tables import comparison_table

    console.stdout().print(comparison_table(found))
    for warning in found.warnings:
        console.note(f"warning: {warning}", style="yellow")
    return None


@app.command()
def pareto(
    label: Annotated[
        str, typer.Argument(metavar="LABEL", help="The project: project=flowers, or a key alone.", show_default=False)
    ],
    against: Annotated[
        list[str] | None, typer.Option(help="p95, memory or size; give it again for more.  [default: all three]")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="Images at once.", min=1)] = 1,
    runtime: Annotated[str | None, typer.Option("--runtime", "-r", help="Only this runtime.")] = None,
    device: Annotated[str | None, typer.Option("--device", "-d", help="Only this device: cpu or cuda.")] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="Only this environment; the first characters of its fingerprint do.")
    ] = None,
    force: Force = False,
    server: Server = SERVER,
    as_json: AsJson = False,
) -> None:
    """Hold the students of a project against each other: accuracy against p95, peak memory and size of the file."""
    choice: Any = {
        "against": against, "batch_size": batch_size, "runtime": runtime, "device": device, "fingerprint": fingerprint,
    }  # fmt: skip
    with client(server) as service:
        found = service.benchmarks.pareto(label, force=force, **{key: each for key, each in choice.items() if each})
    if as_json:
        return console.print_json(found)
    from distillery.benchmark_tables import pareto_table

    if found.points:
        console.stdout().print(pareto_table(found))
        console.note("* nobody is at least as accurate and as cheap, and better in one of the two.")
    else:
        sizes = ", ".join(map(str, found.batch_sizes))
        at = f" There are figures for batches of {sizes}." if sizes else ""
        console.note(f"Nothing was measured under '{label}' for batches of {batch_size}.{at}")
    for warning in found.warnings:
        console.note(f"warning: {warning}", style="yellow")
    return None


@app.command()
def cancel(benchmark_id: BenchmarkId, server: Server = SERVER, as_json: AsJson = False) -> None:
    """Ask a benchmark to stop; nothing is kept of it."""
    with client(server) as service:
        found = service.benchmarks.cancel(benchmark_id)
    return console.print_json(found) if as_json else console.note(f"{found.id} is {found.status}.")


@app.command()
def remove(benchmark_id: BenchmarkId, server: Server = SERVER, as_json: AsJson = False) -> None:
    """Delete a benchmark that has ended, with its files."""
    with client(server) as service:
        service.benchmarks.remove(benchmark_id)
    return console.print_json({"id": benchmark_id}) if as_json else console.note(f"{benchmark_id} is gone.")


def _document(source: str) -> dict[str, Any]:
    from distillery import job_files

    return job_files.document(source, what="a benchmark", hint="Write fields such as 'models:' and 'measure:'.")


def _model(text: str) -> dict[str, str]:
    """`[NAME=]mdl_…`, `[NAME=]job_…` or `[NAME=]job_…/ROLE`."""
    name, named, what = text.rpartition("=")
    called = {"name": name} if named else {}
    identity, of_job, role = what.partition("/")
    if identity.startswith("mdl_") and not of_job:
        return {"model": identity, **called}
    if identity.startswith("job_"):
        return {"job": identity, **({"role": role} if of_job else {}), **called}
    raise InvalidRequest(
        f"'{text}' names no model.", hint="Write mdl_…, job_… or job_…/teacher, with NAME= before it if you like."
    )


def _labels(given: list[str] | None) -> dict[str, str]:
    labels = {}
    for text in given or ():
        key, equals, value = text.partition("=")
        if not equals:
            raise InvalidRequest(f"'{text}' is no label.", hint="Write it as project=flowers.")
        labels[key] = value
    return labels


def _show(found: "Benchmark", *, as_json: bool) -> None:
    if as_json:
        return console.print_json(found)
    if found.result is None:
        console.line(found.id)
        at = f" ({found.progress.step} of {found.progress.total_steps} pairs)" if found.progress else ""
        why = f" {found.error.detail} {found.error.hint}".rstrip() if found.error else ""
        return console.note(f"{found.name} is {found.status}{at}.{why}")
    from distillery import benchmark_tables, tables

    console.stdout().print(benchmark_tables.result_table(found.result))
    for doubt in tables.speed_doubts(found.result):
        console.note(doubt)
    return console.note(f"Plots: distillery benchmark show {found.id} --html benchmark.html")
