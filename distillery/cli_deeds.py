"""What the command line does to a job that is there: cancel, pause, resume, retry, clone, edit, delete."""

from typing import TYPE_CHECKING, Annotated

import typer

from distillery import console
from distillery.cli_options import SERVER, AsJson, JobId, Server, client
from distillery.errors import InvalidRequest

if TYPE_CHECKING:
    from distillery.views import Job


def cancel(job_id: JobId, server: Server = SERVER, as_json: AsJson = False) -> None:
    """Stop a job; its last checkpoint is kept."""
    with client(server) as service:
        job = service.cancel(job_id)
    return console.print_json(job) if as_json else console.note(f"Job {job.id} is {job.status}.")


def pause(job_id: JobId, server: Server = SERVER, as_json: AsJson = False) -> None:
    """Set a job aside until you resume it.

    A running one saves a checkpoint and leaves its worker first.
    """
    with client(server) as service:
        job = service.pause(job_id)
    if as_json:
        return console.print_json(job)
    return console.note(f"Job {job.id} is {job.status}. Let it go on with: distillery resume {job.id}")


def resume(job_id: JobId, server: Server = SERVER, as_json: AsJson = False) -> None:
    """Let a paused job go on from its last checkpoint."""
    with client(server) as service:
        job = service.resume(job_id)
    if as_json:
        return console.print_json(job)
    return console.note(f"Job {job.id} is {job.status}. Follow it with: distillery watch {job.id}")


def retry(
    job_id: JobId,
    max_seconds: Annotated[
        float | None, typer.Option(help="Running time after which it ends, in place of the limit in its spec.", min=1)
    ] = None,
    server: Server = SERVER,
    as_json: AsJson = False,
) -> None:
    """Go on where a job ended badly, as a new job.

    The job has failed, crashed or been cancelled, and stays as it ended. The new one has the same spec and seed, and
    goes on from its last checkpoint. Prints the new id.
    """
    with client(server) as service:
        job = service.retry(job_id, max_seconds=max_seconds)
    _tell_new(job, f"Goes on where {job_id} ended.", as_json=as_json)


def clone(
    job_id: JobId,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change one field of the spec, as training.epochs=20."),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", metavar="FILE", help="Changes in YAML or JSON, as part of a spec; - for stdin."),
    ] = None,
    server: Server = SERVER,
    as_json: AsJson = False,
) -> None:
    """Submit the spec of a job again, with changes.

    The new job starts from the beginning. Prints its id.
    """
    from distillery import job_files

    with client(server) as service:
        changes = {}
        if settings or file is not None:
            before = service.job(job_id).spec.model_dump(mode="json")
            changes = job_files.changes(before, source=file, settings=settings or ())
        job = service.clone(job_id, changes)
    _tell_new(job, f"Cloned from {job_id} as '{job.name}'.", as_json=as_json)


def _tell_new(job: "Job", what: str, *, as_json: bool) -> None:
    if as_json:
        return console.print_json(job)
    console.line(job.id)
    return console.note(f"{what} Follow it with: distillery watch {job.id}")


def edit(
    job_id: JobId,
    name: Annotated[str | None, typer.Option(help="Call it so.")] = None,
    labels: Annotated[
        list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Set a label; give it again for more.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--remove-label", metavar="KEY", help="Take a label away.")
    ] = None,
    priority: Annotated[int | None, typer.Option(help="Higher is claimed first.", min=0, max=100)] = None,
    server: Server = SERVER,
    as_json: AsJson = False,
) -> None:
    """Change name, labels or priority of a job."""
    changed = dict.fromkeys(without or ()) | dict(_label(each) for each in labels or ())
    if name is None and priority is None and not changed:
        raise InvalidRequest("No change was given.", hint="Give --name, --label, --remove-label or --priority.")
    with client(server) as service:
        job = service.edit(job_id, name=name, labels=changed or None, priority=priority)
    if as_json:
        return console.print_json(job)
    told = [
        f"name '{job.name}'" if name is not None else "",
        f"labels {', '.join(f'{key}={value}' for key, value in job.labels.items()) or 'none'}" if changed else "",
        f"priority {priority}" if priority is not None else "",
    ]
    return console.note(f"Job {job.id} has: {'; '.join(each for each in told if each)}.")


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise InvalidRequest(
            f"'--label {text}' is not of the form key=value.", hint="For instance: --label team=vision"
        )
    return key, value


def delete(
    job_id: JobId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: Server = SERVER,
    as_json: AsJson = False,
) -> None:
    """Delete a job that has ended, with its files.

    Its models go too. A job that another one still needs is not deleted.
    """
    with client(server) as service:
        if not yes:
            job = service.job(job_id)
            console.confirm(f"Delete '{job.name}' ({job.id}, {job.status}) with its models and all its files?")
        service.delete(job_id)
    if as_json:
        return console.print_json({"id": job_id, "deleted": True})
    return console.note(f"Job {job_id} is deleted, with its models and all its files.")
