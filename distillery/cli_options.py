"""What the commands of the command line have in common: where the service is, how to answer, and a client for it."""

import os
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from distillery.client import Client

Server = Annotated[
    str, typer.Option("--server", "-s", envvar="DISTILLERY_SERVER", help="Address of the service.", show_default=True)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")]
JobId = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.", show_default=False)]
SERVER = "http://127.0.0.1:8000"


def client(server: str) -> "Client":
    """A client for the service, with the key of the environment."""
    from distillery.client import Client

    return Client(server, api_key=os.environ.get("DISTILLERY_API_KEY") or None)
