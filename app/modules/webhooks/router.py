"""Stored webhooks: list, show, replay. They come in through `ingress`, not here."""

import base64
from typing import Annotated, Literal, cast

import orjson
from fastapi import APIRouter, Query
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.modules.access.deps import CallerDep, DatabaseDep
from app.modules.events.models import EventRow
from app.modules.paging import Cursor, Limit, Page, position_of

from .models import Webhook
from .schemas import WebhookDetail, WebhookOut
from .service import get_webhook, replay

router = APIRouter(prefix="/api/v1/webhooks", tags=["webhooks"])

State = Literal["received", "answering", "processed", "failed"]


@router.get("", summary="List webhooks")
async def list_webhooks(
    database: DatabaseDep,
    caller: CallerDep,
    state: Annotated[State | None, Query(description="Only in this state")] = None,
    connection: Annotated[str | None, Query(max_length=40, description="Only of this connection")] = None,
    after: Cursor = None,
    limit: Limit = 100,
) -> Page[WebhookOut]:
    """Stored webhooks and polled items, the newest first."""

    before = position_of(after)

    def unit(session: Session) -> Page[WebhookOut]:
        query = select(Webhook).where(Webhook.tenant == caller.tenant)
        if state is not None:
            query = query.where(Webhook.state == state)
        if connection is not None:
            query = query.where(Webhook.connection_id == connection)
        if before is not None:
            query = query.where(Webhook.seq < before)
        rows = list(session.scalars(query.order_by(Webhook.seq.desc()).limit(limit + 1)))
        more = str(rows[limit - 1].seq) if len(rows) > limit else None
        return Page(items=[WebhookOut.of(row) for row in rows[:limit]], next=more)

    return await database.read(unit)


@router.get("/{webhook_id}", summary="Show a webhook")
async def show_webhook(webhook_id: str, database: DatabaseDep, caller: CallerDep) -> WebhookDetail:
    """With its headers and body as received, without credentials."""

    def unit(session: Session) -> WebhookDetail:
        row = get_webhook(session, caller.tenant, webhook_id)
        events = session.scalars(
            select(EventRow.id).where(EventRow.webhook_id == row.id).order_by(EventRow.item)
        )
        return WebhookDetail(
            **WebhookOut.of(row).model_dump(),
            method=row.method,
            query=row.query,
            headers=[cast(tuple[str, str], tuple(pair)) for pair in orjson.loads(row.headers)],
            body=_text(row.body),
            body_base64=None if _text(row.body) is not None else base64.b64encode(row.body).decode(),
            events=list(events),
        )

    return await database.read(unit)


@router.post("/{webhook_id}/replay", status_code=202, summary="Process a webhook again")
async def replay_webhook(webhook_id: str, database: DatabaseDep, caller: CallerDep) -> WebhookOut:
    """Items that already made their event make no second one, so this is always safe."""

    def unit(session: Session) -> WebhookOut:
        row = get_webhook(session, caller.tenant, webhook_id)
        replay(session, row)
        return WebhookOut.of(row)

    return await database.write(unit)


def _text(body: bytes) -> str | None:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return None
