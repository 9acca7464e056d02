"""`trunkline integrations`: the catalogue."""

from typing import Any

from .client import path_of
from .commands import Call, group, remote
from .output import Columns, Item, table

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


@remote(app, "show", "trunkline integrations show telegram", "trunkline integrations show telegram --json")
def show_integration(call: Call, key: str) -> None:
    """Show one integration: its events and actions, and the secrets and settings of a connection."""
    found = call.api.get(f"/integrations{path_of(key)}")
    call.out.record(
        found,
        {
            "secrets": lambda item: table(item["secrets"], _named("required", "generated", "description")),
            "settings": lambda item: table(_fields(item["settings_schema"]), _FIELD),
            "events": lambda item: table(item["events"], _named("description")),
            "actions": lambda item: table(
                item["actions"],
                _named("effect", "destructive") | {"takes": _takes, "description": "description"},
            ),
        },
        leave_out=["settings_schema"],
    )


def _named(*fields: str) -> dict[str, Any]:
    return {name: name for name in ("name", *fields)}


_FIELD = _named("type", "default", "description")


def _fields(schema: Item | None) -> list[Item]:
    return [
        {"name": name, "type": _type(field), "default": field.get("default"), **_described(field)}
        for name, field in (schema or {}).get("properties", {}).items()
    ]


def _described(field: Item) -> dict[str, Any]:
    return {"description": field.get("description", "")}


def _type(field: Item) -> str:
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    options = [_type(option) for option in field.get("anyOf", [])]
    return str(field.get("type") or " | ".join(options) or field.get("$ref", "").rsplit("/", 1)[-1])


def _takes(action: Item) -> str:
    schema = action["payload_schema"]
    required = schema.get("required", [])
    return ", ".join(f"{name}*" if name in required else name for name in schema.get("properties", {}))
