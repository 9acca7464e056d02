"""`trunkline webhooks`: what came in, as it was received."""

import sys
from enum import StrEnum
from typing import Annotated

import typer

from .client import path_of
from .commands import After, Call, Limit, group, remote
from .events import OfConnection
from .exits import WrongUsage
from .output import Columns

app = group("See webhooks as they were received, and process failed ones again.")


class State(StrEnum):
    """A webhook's state."""

    received = "received"
    answering = "answering"
    processed = "processed"
    failed = "failed"


EVERY = sys.maxsize
_COLUMNS: Columns = {
    "id": "id",
    "received": "received_at",
    "state": "state",
    "source": "source",
    "connection": "connection",
    "tries": "tries",
    "reason": "reason",
}


@remote(app, "list", "trunkline webhooks list --state failed", "trunkline webhooks list --limit 5 --json")
def list_webhooks(
    call: Call,
    state: Annotated[State | None, typer.Option(help="Only in this state.")] = None,
    connection: OfConnection = None,
    after: After = None,
    limit: Limit = 50,
) -> None:
    """List stored webhooks and polled items, the newest first."""
    query = {"state": state, "connection": connection, "after": after}
    items, more = call.api.pages("/webhooks", limit, query)
    call.out.items(items, _COLUMNS, empty="There are none.")
    if more:
        call.out.text(f"There are more: --after {more}")


@remote(app, "show", "trunkline webhooks show whk_01J…")
def show_webhook(call: Call, webhook: Annotated[str, typer.Argument(help="Id of the webhook.")]) -> None:
    """Show a webhook with its headers and body; headers that carry credentials are not stored."""
    call.out.record(
        call.api.get(path_of("webhooks", webhook)),
        {"headers": lambda item: "\n".join(f"{name}: {value}" for name, value in item["headers"])},
    )


@remote(
    app,
    "replay",
    "trunkline webhooks replay whk_01J…",
    "trunkline webhooks replay --all-failed --connection con_01J…",
)
def replay_webhooks(
    call: Call,
    webhook: Annotated[str | None, typer.Argument(help="Id of the webhook.")] = None,
    all_failed: Annotated[bool, typer.Option("--all-failed", help="All that failed.")] = False,
    connection: OfConnection = None,
) -> None:
    """Process a webhook again. What already made its event makes no second one, so this is safe."""
    if (webhook is None) != all_failed:
        raise WrongUsage("It is not clear what to replay.", "Give the id of a webhook, or --all-failed.")
    if webhook is not None:
        replayed = call.api.post(f"{path_of('webhooks', webhook)}/replay")
        if call.out.as_json:
            call.out.document(replayed)
        call.out.text(f"Queued. See: trunkline webhooks show {replayed['id']}")
        return
    # Listed to the end first: those that fail again would be listed again.
    failed, _ = call.api.pages("/webhooks", EVERY, {"state": State.failed, "connection": connection})
    done = [call.api.post(f"{path_of('webhooks', item['id'])}/replay") for item in failed]
    call.out.items(done, _COLUMNS, empty="None has failed.")
