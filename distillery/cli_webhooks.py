"""`distillery webhooks …`: endpoints that are told what becomes of jobs."""

from typing import TYPE_CHECKING, Annotated

import typer

from distillery import console
from distillery.cli_options import SERVER, AsJson, Server, client

if TYPE_CHECKING:
    from rich.table import Table

    from distillery.webhooks import Delivery, Webhook

app = typer.Typer(
    help="Tell addresses of yours what becomes of jobs.", no_args_is_help=True, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)  # fmt: skip
WebhookId = Annotated[str, typer.Argument(metavar="WEBHOOK", help="A webhook's id.", show_default=False)]
_KEEP_IT = "Keep the secret where the receiver finds it: it is not shown again."


@app.command()
def add(
    url: Annotated[str, typer.Argument(help="Where messages are sent: https, a public address.", show_default=False)],
    only_named: Annotated[
        bool, typer.Option("--only-named", help="Tell it only of jobs that name it in `notify`.")
    ] = False,
    types: Annotated[
        list[str] | None, typer.Option("--type", help="Tell it of this event only, as failed; give it again for more.")
    ] = None,
    server: Server = SERVER,
    as_json: AsJson = False,
) -> None:
    """Register an address and print its id and its secret."""
    with client(server) as service:
        made = service.webhooks.add(url, types=types or None, scope="named" if only_named else "all")
    if as_json:
        return console.print_json(made)
    console.line(f"{made.id} {made.secret}")
    return console.note(f"{_KEEP_IT} Try it with: distillery webhooks test {made.id}")


@app.command(name="list")
def list_webhooks(server: Server = SERVER, as_json: AsJson = False) -> None:
    """List the addresses that are told, newest first."""
    with client(server) as service:
        found = list(service.webhooks.list())
    console.result(found, lambda: _webhooks_table(found), as_json=as_json, empty="There are no webhooks.")


@app.command()
def remove(webhook_id: WebhookId, server: Server = SERVER, as_json: AsJson = False) -> None:
    """Remove an address with all its messages."""
    with client(server) as service:
        gone = service.webhooks.remove(webhook_id)
    return console.print_json(gone) if as_json else console.note(f"{gone.url} is told nothing more.")


@app.command()
def enable(webhook_id: WebhookId, server: Server = SERVER, as_json: AsJson = False) -> None:
    """Tell an address again that was disabled because it could not be reached."""
    with client(server) as service:
        webhook = service.webhooks.enable(webhook_id)
    return console.print_json(webhook) if as_json else console.note(f"{webhook.url} is told again.")


@app.command()
def rotate(webhook_id: WebhookId, server: Server = SERVER, as_json: AsJson = False) -> None:
    """Print a new secret; for 24 hours messages are signed with the old one too."""
    with client(server) as service:
        made = service.webhooks.rotate(webhook_id)
    if as_json:
        return console.print_json(made)
    console.line(made.secret)
    return console.note(_KEEP_IT)


@app.command()
def test(webhook_id: WebhookId, server: Server = SERVER, as_json: AsJson = False) -> None:
    """Send a ping and print its id."""
    with client(server) as service:
        ping = service.webhooks.test(webhook_id)
    if as_json:
        return console.print_json(ping)
    console.line(ping.id)
    return console.note(f"See what became of it with: distillery webhooks deliveries {webhook_id}")


@app.command()
def deliveries(
    webhook_id: WebhookId,
    limit: Annotated[int, typer.Option(help="Most messages to show.", min=1)] = 20,
    server: Server = SERVER,
    as_json: AsJson = False,
) -> None:
    """List the messages to an address and what became of them, newest first."""
    from itertools import islice

    with client(server) as service:
        found = list(islice(service.webhooks.deliveries(webhook_id), limit))
    console.result(found, lambda: _deliveries_table(found), as_json=as_json, empty="Nothing was sent yet.")


@app.command()
def redeliver(
    webhook_id: WebhookId,
    delivery_id: Annotated[str, typer.Argument(metavar="DELIVERY", help="A message's id.", show_default=False)],
    server: Server = SERVER,
    as_json: AsJson = False,
) -> None:
    """Send a message again, now, with the same id."""
    with client(server) as service:
        delivery = service.webhooks.redeliver(webhook_id, delivery_id)
    return console.print_json(delivery) if as_json else console.note(f"{delivery.id} is sent again.")


def _webhooks_table(found: "list[Webhook]") -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table("id", "address", "told of", "events", "state", box=box.SIMPLE_HEAD, pad_edge=False)
    for each in found:
        told = "every job" if each.scope == "all" else "jobs that name it"
        state = "enabled" if each.enabled else f"disabled: {each.disabled_reason}"
        table.add_row(*(Text(cell) for cell in (each.id, each.url, told, ", ".join(each.types), state)))
    return table


def _deliveries_table(found: "list[Delivery]") -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table("id", "message", "job", "state", "tries", "last try", box=box.SIMPLE_HEAD, pad_edge=False)
    for each in found:
        last = each.tries[-1] if each.tries else None
        said = "" if last is None else last.error or f"{last.status_code} after {last.seconds:.1f} s"
        cells = (each.id, each.type, each.job_id or "", each.status, str(len(each.tries)), said)
        table.add_row(*(Text(cell) for cell in cells))
    return table
