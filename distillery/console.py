"""What the command line prints: results on stdout, as tables or JSON; errors and everything else on stderr."""

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distillery.errors import DistilleryError, InvalidRequest, MissingDependency, ServiceRefused, Unavailable

if TYPE_CHECKING:
    from rich.console import Console

    from distillery.client import Client
    from distillery.views import Job

OK, JOB_FAILED, BAD_REQUEST, REFUSED, UNREACHABLE, CANCELLED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
EXIT_CODES = """Exit codes: 0 done, 1 the job failed or crashed or something went wrong here, 2 wrong usage or a bad
spec, 3 the service refused, 4 no service answers, 5 the job was cancelled, 130 interrupted."""
STATUS_CODES = {"succeeded": OK, "failed": JOB_FAILED, "crashed": JOB_FAILED, "cancelled": CANCELLED}
_UNPROCESSABLE = 422
_WIDE = 160


def exit_code(error: DistilleryError) -> int:
    """The exit code that stands for an error."""
    match error:
        case ServiceRefused():
            return BAD_REQUEST if error.status == _UNPROCESSABLE else REFUSED
        case InvalidRequest() | MissingDependency():
            return BAD_REQUEST
        case Unavailable():
            return UNREACHABLE
    return JOB_FAILED


def stderr() -> "Console":
    """Where a person reads along."""
    from rich.console import Console

    return Console(stderr=True)


def stdout() -> "Console":
    """Where results go. A table in a file or a pipe is not squeezed into a terminal that is not there."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=_WIDE)


def note(text: str, *, style: str = "") -> None:
    """A line for a person."""
    stderr().print(text, style=style, highlight=False, markup=False, soft_wrap=True)


def line(text: str) -> None:
    """A line of the result."""
    sys.stdout.write(f"{text}\n")


def confirm(question: str) -> None:
    """Go on after a yes.

    Raises:
        Exit: the answer is no.
        InvalidRequest: nobody is there to answer.
    """
    import typer

    sys.stderr.write(f"{question} [y/N] ")  # typer.confirm would leave a space on stdout
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer:
        note("")
        raise InvalidRequest("It was not confirmed, and nothing was done.", hint="Give --yes to go on.")
    if answer.strip().lower() not in ("y", "yes"):
        note("Nothing was done.")
        raise typer.Exit(JOB_FAILED)


def explain(error: DistilleryError) -> None:
    """Say what went wrong, where, and how to mend it."""
    listed = error.problems  # the detail would say the same once more
    note(f"Error: {error.title + '.' if listed else error.detail}", style="red")
    for problem in error.problems:
        note(f"  {problem.pointer or '/'}: {problem.detail} {problem.hint}".rstrip())
    if error.hint and not (listed and error.pointer):
        note(error.hint)


def print_json(value: Any) -> None:
    """One document: a view, a report, plain data, or a list of them."""
    if isinstance(value, list | tuple):
        value = [each.model_dump(mode="json") if hasattr(each, "model_dump") else each for each in value]
    line(value.model_dump_json(indent=2) if hasattr(value, "model_dump_json") else json.dumps(value, indent=2))


def result(value: Any, table: Callable[[], Any], *, as_json: bool, empty: str = "") -> None:
    """The value as JSON or as a table; a note instead of a table without rows."""
    if as_json:
        print_json(value)
    elif empty and not value:
        note(empty)
    else:
        stdout().print(table())


def end_of(client: "Client", job: "Job", *, as_json: bool) -> int:
    """Show what became of a job that has ended, and give the exit code for it."""
    if as_json:
        print_json(job)
    elif job.status == "succeeded":
        show_report(client, job.id)
        note(f"Bring the student home with: distillery download {job.id}")
    else:
        why = job.error.detail if job.error else job.status_reason
        note(f"Job {job.id} ended as {job.status}. {why}".rstrip(), style="red")
        if job.error and job.error.hint:
            note(job.error.hint)
    return STATUS_CODES[job.status]


def show_report(client: "Client", job_id: str) -> None:
    """The table of teacher, student and student alone, the speed-ups, the summary and the warnings."""
    from distillery.tables import print_report

    print_report(client.report(job_id), console=stdout())
