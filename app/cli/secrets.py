"""`trunkline secrets`: values go in and never come out."""

from typing import Annotated

import typer

from . import inputs
from .client import path_of
from .commands import Call, group, remote
from .connections import Connection, KeepPrevious

app = group("Set connections' secrets. Values are never shown.")


@remote(
    app,
    "set",
    "trunkline secrets set con_01J… bot_token=@token.txt",
    "trunkline secrets set con_01J… webhook_secret=- --keep-previous-for 3600 < secret.txt",
)
def set_secrets(
    call: Call,
    connection: Connection,
    values: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE...", help="NAME=VALUE, NAME=@file or NAME=- (stdin).")
    ],
    keep_previous_for: KeepPrevious = None,
) -> None:
    """Set secrets; the others stay. They are used from the next webhook and action on."""
    given = inputs.secrets(values, "A secret")
    body = {"secrets": given, "keep_previous_for": keep_previous_for or 0}
    changed = call.api.put(f"{path_of('connections', connection)}/secrets", body)
    if call.out.as_json:
        call.out.document(changed)
    missing = ", ".join(changed["missing_secrets"])
    call.out.text(f"Set {', '.join(given)}." + (f" Still missing: {missing}." if missing else ""))


@remote(app, "list", "trunkline secrets list con_01J…")
def list_secrets(call: Call, connection: Connection) -> None:
    """List which secrets of a connection have a value."""
    page = call.api.get(f"{path_of('connections', connection)}/secrets")
    columns = {"name": "name", "version": "version", "set": "set_at"}
    call.out.items(page["items"], columns, empty="None has a value.")
