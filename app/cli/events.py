"""`trunkline events`: the feed."""

import time
from collections.abc import Iterator
from typing import Annotated

import typer

from .client import Api, Json, Query, path_of
from .commands import After, Call, Limit, group, remote
from .output import Columns, Output, complain, cut, room, summary

app = group("Read the events that came in, and follow them.")

Type = Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Only events of this type.")]
OfConnection = Annotated[
    str | None, typer.Option("--connection", metavar="CONNECTION", help="Only of this connection.")
]

_COLUMNS: Columns = {
    "cursor": "cursor",
    "received": "received_at",
    "id": "id",
    "type": "type",
    "external id": "external_id",
    "connection": "connection",
    "payload": lambda event: _brief(event),  # noqa: PLW0108 - defined below
}
BRIEF = 16
"""Characters of the payload that are shown even on a narrow terminal."""
SHORT = 40
TELLING = frozenset({"text", "subject", "title"})
SILENCE = 45.0
"""Seconds without a sign of life (the platform sends one every 15) after which the stream is begun anew."""
PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)


@remote(
    app,
    "list",
    "trunkline events list --type telegram.message.received",
    "trunkline events list --after 1042 --limit 500 --json",
)
def list_events(
    call: Call, after: After = None, type: Type = None, connection: OfConnection = None, limit: Limit = 100
) -> None:
    """List events in the order of the feed, the oldest first."""
    items, _ = call.api.pages("/events", limit, {"after": after, "type": type, "connection": connection})
    call.out.items(items, _COLUMNS, empty="There is nothing new." if after else "There are no events.")
    if items:
        call.out.text(f"What comes next: --after {items[-1]['cursor']}")


@remote(app, "show", "trunkline events show evt_01J…")
def show_event(call: Call, event: Annotated[str, typer.Argument(help="Id of the event.")]) -> None:
    """Show an event with its payload."""
    call.out.record(call.api.get(path_of("events", event)))


@remote(
    app,
    "follow",
    "trunkline events follow",
    "trunkline events follow --type telegram.message.received --json | jq .payload.text",
    "trunkline events follow --after 0",
)
def follow_events(
    call: Call,
    after: After = None,
    type: Type = None,
    connection: OfConnection = None,
    limit: Annotated[int | None, typer.Option(min=1, help="End after so many events.")] = None,
) -> None:
    """Print events as they come, one a line (JSON lines with --json), until Ctrl-C.

    If the connection breaks it is made anew, and nothing is missed or printed twice.
    """
    query = {"type": type, "connection": connection}
    for number, event in enumerate(_follow(call.api, query, after), start=1):
        _print(call.out, event)
        if number == limit:
            return


def _follow(api: Api, query: Query, cursor: str | None) -> Iterator[Json]:
    """Events as they come, without end. Raises CommandFailed if the platform cannot be reached at first."""
    import httpx2

    params = {name: value for name, value in query.items() if value is not None}
    reached, failures = False, 0
    while True:
        headers = {} if cursor is None else {"last-event-id": cursor}
        try:
            with api.http.sse(
                "/api/v1/events/stream",
                params=params,
                headers=headers,
                timeout=SILENCE,
                max_event_size=None,
            ) as source:
                if source.response.status_code < 500 or not reached:
                    api.check(source.response)
                for message in source:
                    if not reached:
                        complain("Waiting for events; Ctrl-C ends.")
                    reached, failures = True, 0
                    # The first message has no data: it is the cursor to come back with.
                    cursor = message.id or cursor
                    if message.data:
                        yield message.json()
            reason = "the platform ended the stream"
        except httpx2.TransportError as error:
            if not reached:
                raise api.unreachable(error) from None
            reason = str(error) or type(error).__name__
        if not failures:
            complain(f"Connecting anew: {reason}.")
        time.sleep(PAUSES[min(failures, len(PAUSES) - 1)])
        failures += 1


def _print(out: Output, event: Json) -> None:
    if out.as_json:
        out.line(event)
    else:
        parts = (event["received_at"], event["type"], event["id"], event["connection"], _brief(event))
        width = room()
        if width:
            # The id stays whole, to be copied.
            start = f"{event['type']}  {event['id']}  "
            out.text(start + cut(parts[-1].replace("\n", " "), max(width - len(start), BRIEF)))
            return
        out.text("  ".join(parts).replace("\n", " "))


def _brief(event: Json) -> str:
    # `raw` is by convention the provider's original, which repeats the rest.
    told = {n: v for n, v in event["payload"].items() if n != "raw" and v not in (None, "", [], {})}
    # What is short first: of the rest little can be seen anyway.
    return summary(dict(sorted(told.items(), key=lambda item: _weight(*item))))


def _weight(name: str, value: Json) -> int:
    if name in TELLING:
        return 0
    return 1 + (not isinstance(value, str)) + isinstance(value, dict | list) + 2 * (len(str(value)) > SHORT)
