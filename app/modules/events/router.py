"""The feed, one event, and the stream."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated

import orjson
from fastapi import APIRouter, Header, Query, Request, Response
from sqlalchemy import func, select
from sqlalchemy.orm import Session
from sse_starlette import EventSourceResponse, ServerSentEvent

from app.errors import StorageUnavailable
from app.modules.access.deps import CallerDep, DatabaseDep
from app.modules.access.models import ApiKey
from app.modules.paging import Cursor, Limit, Page, position_of

from .models import EventRow
from .schemas import EventOut, event_json
from .service import TOPIC, FeedFilter, FeedItem, get_event, read_feed

router = APIRouter(prefix="/api/v1/events", tags=["events"])

Type = Annotated[str | None, Query(max_length=200, description="Only events of this type")]
ConnectionId = Annotated[
    str | None, Query(alias="connection", max_length=40, description="Only of this connection")
]

STREAM_BATCH = 20
STREAM_RECHECK = 15.0


@router.get("", response_model=Page[EventOut], summary="Read the feed")
async def list_events(
    database: DatabaseDep,
    caller: CallerDep,
    after: Cursor = None,
    limit: Limit = 100,
    type: Type = None,
    connection: ConnectionId = None,
) -> Response:
    """Events in the order in which they became visible; an event never appears before a cursor that was
    already given out. Keep `next` and come back with `after=next`; it is null only when there is nothing
    new, and then the cursor you have stays good."""
    cursor = position_of(after) or 0
    only = FeedFilter(type, connection)
    rows = await database.read(lambda session: read_feed(session, caller.tenant, cursor, limit, only))
    page = {"items": [event_json(row) for row in rows], "next": str(rows[-1].seq) if rows else None}
    return Response(orjson.dumps(page), media_type="application/json")


@router.get("/stream", summary="Follow the feed", response_class=EventSourceResponse)
async def stream_events(
    request: Request,
    database: DatabaseDep,
    caller: CallerDep,
    last_event_id: Annotated[
        str | None, Header(description="Cursor to go on from; without it and `after`, from now")
    ] = None,
    after: Cursor = None,
    type: Type = None,
    connection: ConnectionId = None,
) -> EventSourceResponse:
    """Server-sent events: `id` is the cursor, `event` the type, `data` the event as JSON. A client that
    reconnects with Last-Event-ID misses nothing and gets nothing twice. The stream ends when its key is
    revoked."""
    named = last_event_id or after
    only = FeedFilter(type, connection)
    if named is None:
        cursor = await database.read(lambda session: session.scalar(select(func.max(EventRow.seq))) or 0)
    else:
        cursor = position_of(named) or 0

    def next_after(session: Session, position: int) -> list[FeedItem] | None:
        """None once the caller's key is revoked, on whichever node that was."""
        if session.get(ApiKey, caller.key_id) is None:
            return None
        return read_feed(session, caller.tenant, position, STREAM_BATCH, only)

    async def follow() -> AsyncIterator[ServerSentEvent]:
        position = cursor
        # Without data, so no event: it tells a client that reconnects before the first event from where.
        yield ServerSentEvent(id=str(position))
        with database.signals.subscribe(TOPIC) as news:
            while True:
                try:
                    rows = await database.read(partial(next_after, position=position))
                except StorageUnavailable:
                    return  # the client comes again, and is told when
                if rows is None:
                    return  # the client comes again, and is refused
                for row in rows:
                    position = row.seq
                    yield ServerSentEvent(
                        id=str(row.seq), event=row.type, data=orjson.dumps(event_json(row)).decode()
                    )
                more = len(rows) == STREAM_BATCH
                del rows  # a stream that nobody reads any more holds nothing
                if not more:
                    await news.wait(STREAM_RECHECK)

    return EventSourceResponse(follow(), ping=15)


@router.get("/{event_id}", response_model=EventOut, summary="Show an event")
async def show_event(event_id: str, database: DatabaseDep, caller: CallerDep) -> Response:
    row = await database.read(lambda session: get_event(session, caller.tenant, event_id))
    return Response(orjson.dumps(event_json(row)), media_type="application/json")
