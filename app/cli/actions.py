"""`trunkline actions`: outbound operations and what became of them."""

import shlex
import time
from enum import StrEnum
from typing import Annotated

import typer

from . import inputs
from .client import TIMEOUT, Api, Json, path_of
from .commands import After, Call, Limit, group, remote
from .connections import MISSING, Connection
from .events import OfConnection
from .exits import CommandFailed, WrongUsage
from .output import Columns

app = group("Have connections do something, and see what became of it.")

Action = Annotated[str, typer.Argument(metavar="ACTION", help="Id of the action.")]

PATIENCE = 60.0
"""Longest wait that the API grants to one request."""
PAUSE = 0.5


class State(StrEnum):
    """An action's state."""

    queued = "queued"
    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    unknown = "unknown"
    cancelled = "cancelled"


class Verdict(StrEnum):
    """What became of an unknown action."""

    succeeded = "succeeded"
    failed = "failed"


_PENDING = (State.queued, State.running)
_COLUMNS: Columns = {
    "id": "id",
    "requested": "created_at",
    "type": "type",
    "state": "state",
    "waiting": "waiting",
    "attempts": lambda action: len(action["attempts"]),
    "connection": "connection",
    "error": lambda action: _why(action) if action["error"] else None,
}


@remote(
    app,
    "run",
    "trunkline actions run con_01J… send_message -d chat_id=1001 -d text='Hello there' --wait 10",
    """trunkline actions run con_01J… send_message --data '{"chat_id": 1001, "text": "Hi"}'""",
    "trunkline actions run con_01J… send_photo --data @photo.json --idempotency-key order-17",
    "trunkline actions run con_01J… send_message -d chat_id=1001 -d text=Hi --run-at 2027-01-01T09:00:00Z",
)
def run_action(
    call: Call,
    connection: Connection,
    type: Annotated[str, typer.Argument(metavar="TYPE", help="Name of the action, such as send_message.")],
    stray: Annotated[list[str] | None, typer.Argument(hidden=True, metavar="")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", "-d", metavar="DATA", help="JSON object, @file, - for stdin, or NAME=VALUE."),
    ] = None,
    wait: Annotated[
        float | None, typer.Option(min=0, metavar="SECONDS", help="Wait so long for the end.")
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Makes repeating this command safe.")
    ] = None,
    run_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Not before then (RFC 3339, with its time zone).")
    ] = None,
    deadline: Annotated[str | None, typer.Option(metavar="TIME", help="No try after then.")] = None,
) -> None:
    """Request an action. With --wait: exit code 1 unless it succeeds within that time."""
    if stray:
        written = " ".join(f"-d {shlex.quote(word)}" for word in stray)
        raise WrongUsage(
            f"It is not clear what {stray[0]} is for.", f"For a field of the payload, write {written}"
        )
    given = data or []
    schema = _payload_schema(call.api, connection, type) if inputs.needs_schema(given) else None
    headers = {} if idempotency_key is None else {"idempotency-key": idempotency_key}
    first = min(wait or 0.0, PATIENCE)
    until = time.monotonic() + (wait or 0.0)
    if wait:
        headers["prefer"] = f"wait={max(int(first), 1)}"
    action = call.api.post(
        f"{path_of('connections', connection)}/actions",
        {
            "type": type,
            "payload": inputs.payload(given, schema),
            **({"run_at": run_at} if run_at else {}),
            **({"deadline": deadline} if deadline else {}),
        },
        headers=headers,
        timeout=TIMEOUT + first,
    )
    while wait and action["state"] in _PENDING and time.monotonic() < until:
        time.sleep(PAUSE)
        action = call.api.get(path_of("actions", action["id"]))
    call.out.record(action)
    if not wait:
        call.out.text(f"Next: trunkline actions show {action['id']}")
    if wait and action["state"] != State.succeeded:
        raise CommandFailed(*_unsuccessful(action, wait))


@remote(app, "list", "trunkline actions list --state unknown", "trunkline actions list --limit 5 --json")
def list_actions(
    call: Call,
    state: Annotated[State | None, typer.Option(help="Only in this state.")] = None,
    connection: OfConnection = None,
    after: After = None,
    limit: Limit = 50,
) -> None:
    """List actions, the newest first."""
    query = {"state": state, "connection": connection, "after": after}
    items, more = call.api.pages("/actions", limit, query)
    call.out.items(items, _COLUMNS, empty="There are none.")
    if more:
        call.out.text(f"There are more: --after {more}")


@remote(app, "show", "trunkline actions show act_01J…")
def show_action(call: Call, action: Action) -> None:
    """Show an action, its result and its attempts."""
    _show(call, call.api.get(path_of("actions", action)))


@remote(app, "cancel", "trunkline actions cancel act_01J…")
def cancel_action(call: Call, action: Action) -> None:
    """Cancel a queued action. It ends unknown if an earlier try may have had its effect."""
    _show(call, call.api.post(f"{path_of('actions', action)}/cancel"))


@remote(app, "retry", "trunkline actions retry act_01J…")
def retry_action(call: Call, action: Action) -> None:
    """Try an action again that failed, was cancelled or is unknown. An unknown one may then happen twice."""
    call.out.record(call.api.post(f"{path_of('actions', action)}/retry"))


@remote(app, "resolve", "trunkline actions resolve act_01J… succeeded --note 'seen in the chat'")
def resolve_action(
    call: Call,
    action: Action,
    verdict: Annotated[Verdict, typer.Argument(help="What became of it.")],
    note: Annotated[str, typer.Option(help="How that is known.")] = "",
) -> None:
    """Say what became of an unknown action, after a look at the provider."""
    body = {"state": verdict, "note": note}
    call.out.record(call.api.post(f"{path_of('actions', action)}/resolve", body))


def _show(call: Call, action: Json) -> None:
    call.out.record(action)
    if action["state"] == State.unknown:
        call.out.text(_what_to_do(action))


def _payload_schema(api: Api, connection: str, type: str) -> Json:
    key = api.get(path_of("connections", connection))["integration"]
    actions = api.get(path_of("integrations", key))["actions"]
    return next((spec["payload_schema"] for spec in actions if spec["name"] == type), None)


def _unsuccessful(action: Json, wait: float) -> tuple[str, str]:
    state, show = action["state"], f"trunkline actions show {action['id']}"
    if state in _PENDING:
        return f"{action['id']} is still {state} after {wait:g} s.", f"It goes on; see: {show}"
    if state == State.unknown:
        return f"{action['id']} is unknown: {_why(action)}", _what_to_do(action)
    if action["error"] and action["error"]["code"] == MISSING:
        set_it = f"Set it: trunkline secrets set {action['connection']} NAME=… Then: trunkline actions retry"
        return f"{action['id']} is {state}: {_why(action)}", f"{set_it} {action['id']}"
    return f"{action['id']} is {state}: {_why(action)}", f"See: {show}"


def _what_to_do(action: Json) -> str:
    verdicts = "|".join(Verdict)
    return (
        "It may have happened: look at the provider, then: "
        f"trunkline actions resolve {action['id']} {verdicts}"
    )


def _why(action: Json) -> str:
    error = action["error"] or {"code": action["state"], "message": "no reason is known."}
    return f"{error['code']}: {error['message']}"
