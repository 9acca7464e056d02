"""Webhooks at rest: storing what became of them, replaying, and what waits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from app.errors import Conflict, NotFound
from app.infra.clock import now_ms
from app.infra.db import signal
from app.integrations.bodies import Body, JsonObject
from app.integrations.requests import Headers, WebhookRequest
from app.modules.events.service import NewEvent, store_events

from .models import ANSWERING, FAILED, POLL, PROCESSED, RECEIVED, WAITING, Webhook
from .parse import Failure, Origin

TOPIC = "webhooks"
"""Wakes the processor: something may wait."""

_WAITING_COLUMNS = (
    Webhook.seq,
    Webhook.id,
    Webhook.tenant,
    Webhook.connection_id,
    Webhook.integration,
    Webhook.source,
    Webhook.method,
    Webhook.query,
    Webhook.headers,
    Webhook.body,
    Webhook.received_at,
    Webhook.tries,
)

TOKEN_PLACEHOLDER = "{token}"  # noqa: S105 - it stands where the token stood


@dataclass(frozen=True, slots=True)
class Waiting:
    """A stored webhook on its way through processing: the columns that this needs."""

    seq: int
    id: str
    tenant: str
    connection_id: str
    integration: str
    source: str
    method: str
    query: str
    headers: str
    body: bytes
    received_at: int
    tries: int


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of one webhook."""

    seq: int
    replayed: bool
    events: Sequence[NewEvent]
    failure: Failure | None


def settle(session: Session, batch: Sequence[Settled]) -> int:
    """Stores events and the webhooks' new states together; returns the number of new events.

    A webhook that is no longer waiting (somebody else settled it) keeps its state.
    """
    now = now_ms()
    made = 0
    for replayed in (False, True):
        events = [event for s in batch if s.replayed is replayed for event in s.events]
        if events:
            made += store_events(session, events, replayed=replayed)
    waiting = Webhook.state.in_((RECEIVED, ANSWERING))
    if good := [s.seq for s in batch if s.failure is None]:
        session.execute(
            update(Webhook)
            .where(Webhook.seq.in_(good), waiting)
            .values(state=PROCESSED, processed_at=now, tries=Webhook.tries + 1, reason_code=None, reason=None)
            .execution_options(synchronize_session=False)
        )
    for settled in batch:
        if settled.failure is not None:
            session.execute(
                update(Webhook)
                .where(Webhook.seq == settled.seq, waiting)
                .values(
                    state=FAILED,
                    processed_at=now,
                    tries=Webhook.tries + 1,
                    reason_code=settled.failure.code[:60],
                    reason=settled.failure.message[:1000],
                )
                .execution_options(synchronize_session=False)
            )
    return made


def get_webhook(session: Session, tenant: str, webhook_id: str) -> Webhook:
    """Raises NotFound, for another tenant's too."""
    row = session.scalars(select(Webhook).where(Webhook.id == webhook_id, Webhook.tenant == tenant)).first()
    if row is None:
        raise NotFound("webhook", webhook_id)
    return row


def replay(session: Session, row: Webhook) -> None:
    """Has a webhook processed again. Items that already made their event make no second one.

    Raises Conflict while it is waiting anyway.
    """
    if row.state not in (PROCESSED, FAILED):
        raise Conflict(
            "The webhook has not been processed yet.",
            code="webhook_waiting",
            remedy="Wait until it is; then it can be replayed.",
        )
    row.state = RECEIVED
    row.processed_at = None
    signal(session, TOPIC)


def waiting_connections(session: Session) -> list[str]:
    """Connections that have webhooks waiting, by one index step for each of them, however many wait."""
    found: list[str] = []
    last = ""
    while True:
        following = session.scalar(
            select(func.min(Webhook.connection_id)).where(WAITING, Webhook.connection_id > last)
        )
        if following is None:
            return found
        found.append(following)
        last = following


def read_waiting(
    session: Session, connection_ids: Sequence[str], limit: int, limit_bytes: int
) -> dict[str, list[Waiting]]:
    """The oldest waiting webhooks of each connection, at most `limit` of each.

    Stops once their bodies exceed `limit_bytes`, so that a backlog is never in memory: connections that were
    not reached are left out, those that have none get an empty list.
    """
    lanes: dict[str, list[Waiting]] = {}
    size = 0
    for connection_id in connection_ids:
        lane = lanes[connection_id] = []
        rows = session.execute(
            select(*_WAITING_COLUMNS)
            .where(WAITING, Webhook.connection_id == connection_id)
            .order_by(Webhook.seq)
            .limit(limit)
            .execution_options(yield_per=20)
        )
        for row in rows:
            lane.append(_waiting(row))
            size += len(row.body)
            if size > limit_bytes:
                return lanes
    return lanes


def read_one(session: Session, webhook_id: str) -> Waiting:
    """One stored webhook, whatever its state."""
    return _waiting(session.execute(select(*_WAITING_COLUMNS).where(Webhook.id == webhook_id)).one())


def _waiting(row: Any) -> Waiting:
    return Waiting(*row)


def prune_webhooks(session: Session, before: int, limit: int) -> int:
    """Deletes up to `limit` webhooks that were received before that time and have been processed."""
    old = (
        select(Webhook.seq)
        .where(Webhook.received_at < before, Webhook.state.in_((PROCESSED, FAILED)))
        .limit(limit)
    )
    gone = session.scalars(delete(Webhook).where(Webhook.seq.in_(old)).returning(Webhook.seq))
    return len(gone.all())


def release_answering(session: Session) -> None:
    """After a crash nobody waits for a reply any more: these are processed like the others."""
    session.execute(update(Webhook).where(Webhook.state == ANSWERING).values(state=RECEIVED))


def stored_headers(headers: Headers, credential_headers: frozenset[str]) -> str:
    """Headers as they are stored: JSON pairs, without those that are credentials."""
    hidden = credential_headers | {"authorization", "cookie", "proxy-authorization"}
    return orjson.dumps([pair for pair in headers.pairs if pair[0] not in hidden]).decode()


def request_of(row: Waiting, body_spec: Body, base_url: str) -> WebhookRequest:
    """The stored request as a connector sees it."""
    pairs: list[Any] = orjson.loads(row.headers)
    query = f"?{row.query}" if row.query else ""
    if row.source == POLL:  # a polled item is stored as one JSON object, whatever webhooks look like
        body_spec = JsonObject()
    return WebhookRequest(
        method=row.method,
        url=f"{base_url}/webhooks/{row.integration}/{TOKEN_PLACEHOLDER}{query}",
        headers=Headers((name, value) for name, value in pairs),
        body=row.body,
        body_spec=body_spec,
    )


def origin_of(row: Waiting) -> Origin:
    return Origin(row.id, row.tenant, row.connection_id, row.received_at)
