"""`trunkline integrations`: the catalogue."""

from typing import Annotated

import typer

from .commands import Call, group, remote
from .exits import CommandFailed, ExitCode
from .lookup import integration
from .output import Columns, Item, Rows, Source

app = group("See what can be connected: events, actions, what they need.")

_COLUMNS: Columns = {
    "key": "key",
    "name": "name",
    "version": "version",
    "available": "available",
    "receives": "receives",
    "verified": "verified",
    "events": lambda item: len(item["events"]),
    "actions": lambda item: len(item["actions"]),
}


@remote(app, "list", "trunkline integrations list")
def list_integrations(call: Call) -> None:
    """List all integrations, and the connectors that are broken. JSON has `items` and `broken`."""
    catalogue = call.api.get("/integrations")
    if call.out.as_json:
        call.out.document({"items": catalogue["items"], "broken": catalogue["broken"]})
        return
    call.out.items(catalogue["items"], _COLUMNS, empty="There are no integrations.")
    for broken in catalogue["broken"]:
        call.out.text(f"\nBroken: {broken['source']}\n  {broken['reason']}\n  {broken['remedy']}")


@remote(
    app,
    "show",
    "trunkline integrations show telegram",
    "trunkline integrations show telegram --action send_message",
)
def show_integration(
    call: Call,
    key: Annotated[str, typer.Argument(help="Key of the integration.")],
    action: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only this action, with its fields.")
    ] = None,
) -> None:
    """Show one integration: its events and actions, and the secrets and settings of a connection."""
    found = integration(call.api, key)
    if action is None:
        call.out.record(found, _SHOWN, leave_out=["settings_schema"])
        return
    specs = [spec for spec in found["actions"] if spec["name"] == action]
    if not specs:
        names = ", ".join(spec["name"] for spec in found["actions"]) or "none"
        raise CommandFailed(
            f"{found['name']} has no action '{action}'.", f"It has: {names}.", exit_code=ExitCode.NOT_FOUND
        )
    call.out.record(
        specs[0],
        {
            "takes": lambda spec: Rows(_fields(spec["payload_schema"]), _FIELD),
            "gives": lambda spec: (
                Rows(_fields(spec["result_schema"]), _FIELD) if spec["result_schema"] else None
            ),
        },
        leave_out=["payload_schema", "result_schema"],
    )


def _named(*fields: str) -> dict[str, Source]:
    return {name: name for name in ("name", *fields)}


def _fields(schema: Item | None) -> list[Item]:
    required = (schema or {}).get("required", [])
    return [
        {
            "name": name,
            "type": _type(field),
            "required": name in required,
            "default": field.get("default"),
            "description": field.get("description"),
        }
        for name, field in (schema or {}).get("properties", {}).items()
    ]


def _type(field: Item) -> str:
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    options = [_type(option) for option in field.get("anyOf", [])]
    return str(field.get("type") or " | ".join(options) or field.get("$ref", "").rsplit("/", 1)[-1])


def _takes(action: Item) -> str:
    schema = action["payload_schema"]
    required = schema.get("required", [])
    return ", ".join([*required, "…"] if len(required) < len(schema.get("properties", {})) else required)


_FIELD = _named("type", "required", "default", "description")
_SHOWN: Columns = {
    "secrets": lambda item: Rows(item["secrets"], _named("required", "generated", "description")),
    "settings": lambda item: Rows(_fields(item["settings_schema"]), _FIELD),
    "events": lambda item: Rows(item["events"], _named("description")),
    "actions": lambda item: Rows(
        item["actions"], _named("effect", "destructive") | {"takes": _takes, "description": "description"}
    ),
}
