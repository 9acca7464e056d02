"""`trunkline connections`: a tenant's configured instances of integrations."""

from typing import Annotated

import typer

from . import inputs
from .client import Json, path_of
from .commands import After, Call, Limit, Name, group, remote
from .exits import CommandFailed, WrongUsage
from .lookup import integration as integration_of
from .output import Columns, complain

app = group("Make connections, see how they are doing, change them.")

Secret = Annotated[
    list[str] | None,
    typer.Option(
        "--secret", metavar="NAME=VALUE", help="A secret: NAME=VALUE, NAME=@file or NAME=- (stdin)."
    ),
]
Setting = Annotated[
    list[str] | None,
    typer.Option("--setting", metavar="NAME=VALUE", help="A setting; VALUE may be JSON."),
]
Connection = Annotated[str, typer.Argument(metavar="CONNECTION", help="Id of the connection, or its name.")]
KeepPrevious = Annotated[
    int | None, typer.Option(min=0, metavar="SECONDS", help="How long the previous one still works.")
]

MISSING = "secret_missing"
_COLUMNS: Columns = {
    "id": "id",
    "integration": "integration",
    "name": "name",
    "state": "state",
    "registration": lambda item: item["registration"]["state"],
    "missing secrets": "missing_secrets",
    "created": "created_at",
}
_SHOWN: Columns = {
    "registration": lambda item: ": ".join(filter(None, item["registration"].values())),
}


@remote(app, "list", "trunkline connections list")
def list_connections(call: Call, after: After = None, limit: Limit = 100) -> None:
    """List connections, the oldest first."""
    items, more = call.api.pages("/connections", limit, {"after": after})
    call.out.items(
        items, _COLUMNS, empty="There are none. Make one: trunkline connections create INTEGRATION"
    )
    if more:
        call.out.text(f"There are more: --after {more}")


@remote(app, "show", "trunkline connections show con_01J…")
def show_connection(call: Call, connection: Connection) -> None:
    """Show a connection, with its webhook URL and what keeps it from working."""
    found = call.api.get(_path(connection))
    polls = [] if call.out.as_json else call.api.get(f"{_path(connection)}/polls")["items"]
    failing = [poll for poll in polls if poll["failures"]]
    _show(call, found, "; ".join(f"failing: {poll['error'] or poll['error_code']}" for poll in failing))


@remote(
    app,
    "create",
    "trunkline connections create telegram --name support --secret bot_token=@token.txt",
    "trunkline connections create telegram --secret bot_token=- < token.txt",
    "trunkline connections create telegram --setting base_url=http://127.0.0.1:8081",
)
def create_connection(
    call: Call,
    integration: Annotated[str, typer.Argument(help="Key of the integration.")],
    name: Name = None,
    secret: Secret = None,
    setting: Setting = None,
    disabled: Annotated[bool, typer.Option("--disabled", help="Do not use it yet.")] = False,
) -> None:
    """Make a connection. Required secrets that are not given are asked for, on a terminal."""
    given = inputs.secrets(secret or [], "--secret")
    declared = integration_of(call.api, integration)
    for spec in declared["secrets"]:
        if (
            spec["required"]
            and not spec["generated"]
            and spec["name"] not in given
            and inputs.somebody_is_there()
        ):
            given[spec["name"]] = typer.prompt(
                f"{spec['name']} ({spec['description']})", hide_input=True, err=True
            )
    body = {
        "integration": integration,
        "name": name or "",
        "secrets": given,
        "settings": inputs.values(setting or [], "--setting", declared["settings_schema"]),
        "enabled": not disabled,
    }
    made = call.api.post("/connections", body)
    _show(call, made)
    if made["state"] == "ready":
        call.out.text(f"Next: trunkline connections check {made['id']}")


@remote(
    app,
    "update",
    "trunkline connections update con_01J… --name sales",
    "trunkline connections update con_01J… --setting poll_timeout=50 --enable",
)
def update_connection(
    call: Call,
    connection: Connection,
    name: Name = None,
    setting: Setting = None,
    unset: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A setting that goes back to its default.")
    ] = None,
    enable: Annotated[
        bool | None, typer.Option("--enable/--disable", help="Use it, or leave it alone for now.")
    ] = None,
) -> None:
    """Change a connection. Settings that are not named stay."""
    body: dict[str, Json] = {}
    if name is not None:
        body["name"] = name
    if enable is not None:
        body["enabled"] = enable
    if setting or unset:
        now = call.api.get(_path(connection))
        schema = integration_of(call.api, now["integration"])["settings_schema"]
        body["settings"] = now["settings"] | inputs.values(setting or [], "--setting", schema)
        for gone in unset or []:
            body["settings"].pop(gone, None)
    if not body:
        raise WrongUsage(
            "Nothing is to be changed.", "Give --name, --setting, --unset, --enable or --disable."
        )
    _show(call, call.api.patch(_path(connection), body))


@remote(app, "delete", "trunkline connections delete con_01J… --yes")
def delete_connection(
    call: Call,
    connection: Connection,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a connection: its webhook URL ends, its secrets are forgotten. Its events stay."""
    if not yes:
        if not inputs.somebody_is_there():
            raise WrongUsage("Nobody is there to be asked.", "Add --yes.")
        found = call.api.get(_path(connection))
        if not typer.confirm(f"Remove the connection {found['name']} ({connection})?", err=True):
            raise CommandFailed("Nothing was removed.")
    call.api.delete(_path(connection))
    if call.out.as_json:
        call.out.document({"id": connection, "deleted": True})
    call.out.text(f"Removed {connection}.")


@remote(app, "check", "trunkline connections check con_01J…")
def check_connection(call: Call, connection: Connection) -> None:
    """Ask the provider whether the credentials are good. Exit code 1 if they are not, or it does not answer.

    A connector that has no way to ask is no failure: nothing was asked then, and that is said.
    """
    found = call.api.post(f"{_path(connection)}/check")
    if call.out.as_json:
        call.out.document(found)
    elif found["ok"]:
        call.out.text(f"Good. {found['message']}")
    elif found["ok"] is None:
        call.out.text(found["message"])
    if found["ok"] is False:
        remedy = f"Set it: trunkline secrets set {connection} NAME=…" if found["code"] == MISSING else ""
        raise CommandFailed(f"{found['code']}: {found['message']}", remedy)


@remote(
    app,
    "rotate-url",
    "trunkline connections rotate-url con_01J…",
    "trunkline connections rotate-url con_01J… --keep-previous-for 0",
)
def rotate_url(call: Call, connection: Connection, keep_previous_for: KeepPrevious = None) -> None:
    """Give a connection a new webhook URL. The old one works for another day unless you say otherwise."""
    body = None if keep_previous_for is None else {"keep_previous_for": keep_previous_for}
    _show(call, call.api.post(f"{_path(connection)}/rotate-url", body))


@remote(app, "refusals", "trunkline connections refusals con_01J…")
def list_refusals(call: Call, connection: Connection) -> None:
    """See which requests to the webhook URL were turned away lately, and why."""
    page = call.api.get(f"{_path(connection)}/refusals")
    columns = {"at": "at", "code": "code", "message": "message", "bytes": "length", "headers": "headers"}
    call.out.items(
        page["items"], columns, empty="Nothing was turned away since the platform started.", cut=False
    )


@remote(app, "polls", "trunkline connections polls con_01J…")
def list_polls(call: Call, connection: Connection) -> None:
    """See how polling goes, for connections that fetch what is new."""
    page = call.api.get(f"{_path(connection)}/polls")
    columns = {"name": "name", "last success": "polled_at", "failures": "failures", "error": "error"}
    call.out.items(
        page["items"],
        columns,
        empty="No poll has run: this connection takes webhooks, or is new.",
        cut=False,
    )


@remote(
    app,
    "limits",
    "trunkline connections limits con_01J…",
    "trunkline connections limits con_01J… --concurrency 2 --rate 100 --per 60",
    "trunkline connections limits con_01J… --reset",
)
def show_limits(
    call: Call,
    connection: Connection,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Actions at the same time.")] = None,
    rate: Annotated[int | None, typer.Option(min=1, help="Actions in --per seconds.")] = None,
    per: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="What --rate is for; 1 without it.")
    ] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Back to what the connector declares.")] = False,
) -> None:
    """See how fast actions go and what holds them back, or set it. Without --concurrency the
    connector's number holds, without --rate no rate does."""
    path = f"{_path(connection)}/limits"
    given = {"concurrency": concurrency, "rate": rate, "per": per}
    own = {name: value for name, value in given.items() if value is not None}
    if reset and own:
        raise WrongUsage("--reset and a limit say different things.", "Give one or the other.")
    if per is not None and rate is None:
        raise WrongUsage("--per says what --rate is for.", "Give both, or neither for no rate.")
    if reset:
        call.api.delete(path)
    elif own:
        call.api.put(path, own)
    _show_gate(call, call.api.get(path), connection)


@remote(app, "resume", "trunkline connections resume con_01J…")
def resume_connection(call: Call, connection: Connection) -> None:
    """End the pause of a connection whose provider is back: what waits is tried now."""
    _show_gate(call, call.api.post(f"{_path(connection)}/resume"), connection)


def _show_gate(call: Call, gate: Json, connection: str) -> None:
    call.out.record(
        gate, {"limits": lambda g: _limits(g["limits"]), "declared": lambda g: _limits(g["declared"])}
    )
    if gate["state"] == "paused" and not call.out.as_json:
        complain(f"To end the pause: trunkline connections resume {connection}")


def _limits(limits: Json) -> str:
    rate = f", {limits['rate']} in {limits['per']:g} s" if limits["rate"] else ""
    return f"{limits['concurrency']} at the same time{rate}"


def _path(connection: str) -> str:
    return path_of("connections", connection)


def _show(call: Call, connection: Json, polling: str = "") -> None:
    call.out.record(connection, {**_SHOWN, **({"polling": lambda _: polling} if polling else {})})
    if connection["state"] == "incomplete" and not call.out.as_json:
        names = " ".join(f"{name}=…" for name in connection["missing_secrets"])
        complain(f"It needs secrets before it works: trunkline secrets set {connection['id']} {names}")
