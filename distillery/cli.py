"""The command line: `distillery up | submit | watch | list | show | pause | download | latency | report | ...`

Results go to stdout, as tables or with --json as one JSON document; everything else goes to stderr. Nothing heavy is
imported before a command needs it, so that help is quick.
"""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, cast

import typer
from typer.core import TyperGroup

from distillery import cli_benchmarks, cli_datasets, cli_deeds, cli_models, cli_predict, cli_webhooks, console
from distillery.cli_options import SERVER as _SERVER
from distillery.cli_options import AsJson, JobId, Server
from distillery.cli_options import client as _client
from distillery.errors import DistilleryError

if TYPE_CHECKING:
    from distillery.client import Client


class _Explaining(TyperGroup):
    """Turns our own errors into a message that says what, where and how to mend it, and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except DistilleryError as error:
            console.explain(error)
            raise typer.Exit(console.exit_code(error)) from None
        except KeyboardInterrupt:
            raise typer.Exit(console.INTERRUPTED) from None


app = typer.Typer(
    cls=_Explaining,
    help="Turn a large trained network into a small, fast one.",
    epilog=console.EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # loading rich for the help alone would double its time
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

app.add_typer(cli_datasets.app, name="datasets")
app.add_typer(cli_models.app, name="models")
app.add_typer(cli_webhooks.app, name="webhooks")
app.add_typer(cli_benchmarks.app, name="benchmark")


def main() -> None:
    """Run the command line."""
    app()


@app.command()
def up(
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's need a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8000,
    home: Annotated[
        Path | None, typer.Option(envvar="DISTILLERY_HOME", help="Folder of all data.  [default: ~/.distillery]")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option(envvar="DISTILLERY_DATABASE_URL", help="Postgres instead of a SQLite file.")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option(envvar="DISTILLERY_REDIS_URL", help="Run a Celery worker on this Redis.")
    ] = None,
    artifacts: Annotated[
        str | None, typer.Option(envvar="DISTILLERY_ARTIFACTS", help="Another folder for files, or s3://bucket/prefix.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(envvar="DISTILLERY_DATA", help="Folder of the data sets that jobs name.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Jobs to run at the same time.", min=1, max=64)] = 1,
    worker: Annotated[bool, typer.Option("--worker/--no-worker", help="Run workers, or only the API.")] = True,
    as_json: AsJson = False,
) -> None:
    """Run the whole service on this machine: API, worker, SQLite, and a folder for files."""
    from distillery import up as service

    place = (home or service.default_home()).expanduser().resolve()
    setup = service.Setup(
        home=place, host=host, port=port, database_url=database_url, redis_url=redis_url, artifacts=artifacts,
        data=data_dir, workers=workers if worker else 0,
    )  # fmt: skip

    def ready(url: str) -> None:
        told = {"url": url, "home": str(place), "pid": os.getpid()}
        text = f"Distillery is ready at {url}. Its data lies in {place}. Ctrl-C stops it."
        console.line(json.dumps(told) if as_json else text)
        sys.stdout.flush()

    service.run(setup, on_ready=ready, say=console.note)


@app.command()
def submit(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A job spec, YAML or JSON; - for standard input.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change one field, as method.objective.1.temperature=2."),
    ] = None,
    watch_it: Annotated[
        bool, typer.Option("--watch", "-w", help="Follow the job to its end and show the result.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check the spec and estimate what it takes.")] = False,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Have a worker try it out for a few seconds; submit nothing.")
    ] = False,
    server: Server = _SERVER,
    as_json: AsJson = False,
) -> None:
    """Submit a job and print its id."""
    from distillery import job_files

    spec = job_files.read(file, settings=settings or ())
    with _client(server) as client:
        if dry_run or rehearse:
            return _show_validation(client, spec, rehearse=rehearse, as_json=as_json)
        job = client.submit(spec)
        if watch_it:
            _follow(client, job.id, as_json=as_json)
        if as_json:
            return console.print_json(job)
    console.line(job.id)
    return console.note(f"Submitted as '{job.name}'. Follow it with: distillery watch {job.id}")


def _show_validation(client: "Client", spec: dict[str, Any], *, rehearse: bool, as_json: bool) -> None:
    validation = client.rehearse(spec) if rehearse else client.validate(spec)
    trial = validation.preflight
    if as_json:
        console.print_json(validation)
    else:
        from distillery.tables import validation_lines

        for text in validation_lines(validation):
            console.line(text)
    if trial is not None and trial.status != "succeeded":
        raise typer.Exit(console.JOB_FAILED)


@app.command()
def watch(job_id: JobId, server: Server = _SERVER, as_json: AsJson = False) -> None:
    """Follow a job to its end and show the result. Ctrl-C leaves it running."""
    with _client(server) as client:
        _follow(client, job_id, as_json=as_json)


def _follow(client: "Client", job_id: str, *, as_json: bool) -> NoReturn:
    """Follow, show the result, and exit as the job did."""
    from distillery.watching import watch as watch_job

    try:
        job = watch_job(client, job_id, console=console.stderr())
    except KeyboardInterrupt:
        console.note(f"\nOnly the watching has ended. Take it up again with: distillery watch {job_id}")
        raise typer.Exit(console.INTERRUPTED) from None
    raise typer.Exit(console.end_of(client, job, as_json=as_json))


@app.command(name="list")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="Only jobs in this state, as running.")] = None,
    architecture: Annotated[str | None, typer.Option(help="Only jobs whose teacher or student this is.")] = None,
    label: Annotated[str | None, typer.Option(metavar="KEY[=VALUE]", help="Only jobs with this label.")] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs whose name contains this.")] = None,
    limit: Annotated[int, typer.Option(help="Most jobs to show.", min=1)] = 20,
    server: Server = _SERVER,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    from itertools import islice

    from distillery import tables
    from distillery.calls import JobFilters

    wanted = {"status": status, "architecture": architecture, "label": label, "q": name}
    filters = cast(JobFilters, {key: value for key, value in wanted.items() if value is not None})
    with _client(server) as client:
        jobs = list(islice(client.jobs(**filters), limit))
    console.result(jobs, lambda: tables.jobs_table(jobs), as_json=as_json, empty="There are no such jobs.")


@app.command()
def show(job_id: JobId, server: Server = _SERVER, as_json: AsJson = False) -> None:
    """Show one job: state, phases, error, artifacts."""
    from distillery import tables

    with _client(server) as client:
        job = client.job(job_id)
        console.result(job, lambda: tables.job_table(job, client.artifacts(job_id)), as_json=as_json)


for _deed in (
    cli_deeds.cancel, cli_deeds.pause, cli_deeds.resume, cli_deeds.retry, cli_deeds.clone, cli_deeds.edit,
    cli_deeds.delete,
):  # fmt: skip
    app.command()(_deed)

app.command()(cli_predict.predict)


@app.command()
def download(
    job_id: JobId,
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Artifacts to bring.  [default: student.safetensors]"),
    ] = None,
    to: Annotated[Path, typer.Option("--to", "-t", help="Folder to put them in; made when it is missing.")] = Path(),
    everything: Annotated[bool, typer.Option("--all", help="Bring every artifact.")] = False,
    server: Server = _SERVER,
    as_json: AsJson = False,
) -> None:
    """Download the student or other artifacts: resumed where a download broke off, and verified."""
    from distillery.fetching import fetch

    with _client(server) as client:
        listed = client.artifacts(job_id)
        wanted = [each.name for each in listed] if everything else names or ["student.safetensors"]
        paths = fetch(client, job_id, wanted, to=to, console=console.stderr())
    sha256 = {each.name: each.sha256 for each in listed}
    if as_json:
        return console.print_json([{"path": str(path), "sha256": sha256[path.name]} for path in paths])
    for path in paths:
        console.line(str(path))
    return console.note("Every sha256 is as the service states it.")


@app.command()
def latency(
    job_id: JobId,
    batch_sizes: Annotated[
        list[int] | None, typer.Option("--batch-size", "-b", help="Images at once; give it again for more.", min=1)
    ] = None,
    runtimes: Annotated[
        list[str] | None, typer.Option("--runtime", "-r", help="eager, compiled, onnxruntime, onnxruntime-int8 ...")
    ] = None,
    scenarios: Annotated[
        list[str] | None, typer.Option("--scenario", help="single_stream, batch_sweep or server; again for more.")
    ] = None,
    inputs: Annotated[
        list[str] | None, typer.Option("--input", help="model or end_to_end (from encoded bytes); again for both.")
    ] = None,
    p99_seconds: Annotated[
        float | None, typer.Option("--p99", help="What the server's p99 must keep to, in s.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", min=1)] = None,
    last: Annotated[bool, typer.Option("--last", help="Show the last one of this command, not a new one.")] = False,
    server: Server = _SERVER,
    as_json: AsJson = False,
) -> None:
    """Time student against teacher on a worker and show the speed-up."""
    from distillery import tables

    wanted = {
        "batch_sizes": batch_sizes, "runtimes": runtimes, "threads": threads, "scenarios": scenarios, "inputs": inputs,
        "p99_seconds": p99_seconds,
    }  # fmt: skip
    spec = {key: value for key, value in wanted.items() if value not in (None, [])}
    with _client(server) as client:
        if last:
            result = client.latency(job_id)
        else:
            console.note("Measuring; this takes a while.")
            result = client.measure_latency(job_id, spec or None)
    if as_json:
        return console.print_json(result)
    if result.result is None:
        return console.note(f"Measurement {result.id} is {result.status}.")
    for table in tables.latency_tables(result.result):
        console.stdout().print(table)
    for doubt in tables.speed_doubts(result.result):
        console.note(doubt)
    return console.note(f"Repeat it with: {result.result.repeat_with}")


@app.command()
def report(
    job_id: JobId,
    html: Annotated[Path | None, typer.Option(help="Write the page with plots to this file instead.")] = None,
    server: Server = _SERVER,
    as_json: AsJson = False,
) -> None:
    """Show what the distillation brought: accuracy, size, speed, and whether the teacher helped."""
    with _client(server) as client:
        if html is not None:
            path = client.download(job_id, "report.html", to=html)
            return console.print_json({"path": str(path)}) if as_json else console.line(str(path))
        return console.print_json(client.report(job_id)) if as_json else console.show_report(client, job_id)


@app.command()
def architectures(
    text: Annotated[
        str, typer.Argument(metavar="[TEXT]", help="Only names that contain this.", show_default=False)
    ] = "",
    server: Server = _SERVER,
    as_json: AsJson = False,
) -> None:
    """List the networks that can teach or learn."""
    from distillery import tables

    with _client(server) as client:
        found = [each for each in client.architectures() if text.lower() in each.name.lower()]
    console.result(found, lambda: tables.architectures_table(found), as_json=as_json, empty="No name contains that.")


@app.command()
def objectives(server: Server = _SERVER, as_json: AsJson = False) -> None:
    """List the terms of which an objective is made, and when to use each."""
    from distillery import tables

    with _client(server) as client:
        terms = client.objectives()
    console.result(terms, lambda: tables.terms_table(terms), as_json=as_json)


@app.command()
def strategies(server: Server = _SERVER, as_json: AsJson = False) -> None:
    """List the ways to bring the teacher's knowledge to the student, with their presets."""
    from distillery import tables

    with _client(server) as client:
        found = client.strategies()
    console.result(found, lambda: tables.strategies_table(found), as_json=as_json)


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(help="A folder of images or idx files, or an .npz file, instead of digits.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the student and the report.")] = Path("demo"),
    keep: Annotated[bool, typer.Option("--keep", help="Keep the demo's own service data below the folder.")] = False,
    print_spec: Annotated[bool, typer.Option("--print-spec", help="Print the job and do nothing.")] = False,
    server: Annotated[
        str | None, typer.Option("--server", "-s", help="Use this service instead of starting one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a real job from start to end on this machine and show what it brought."""
    from distillery import demo as demonstration

    spec = demonstration.spec_for(data)
    if print_spec:
        import yaml

        return console.print_json(spec) if as_json else console.line(yaml.safe_dump(spec, sort_keys=False).rstrip())
    result = demonstration.run(spec, out=out, keep=keep, server=server, console=console.stderr())
    if as_json:
        return console.print_json(demonstration.as_json(result))
    return demonstration.show(result, console=console.stdout())


@app.command()
def version(as_json: AsJson = False) -> None:
    """Print the version of this client."""
    from importlib.metadata import version as installed

    number = installed("distillery")
    if as_json:
        return console.print_json({"version": number})
    return console.line(f"distillery {number}")
