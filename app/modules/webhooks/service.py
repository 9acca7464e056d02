"""Webhooks at rest: storing what became of them, replaying, and what waits."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from opentelemetry.trace import Span
from sqlalchemy import bindparam, delete, func, or_, select, text, type_coerce, update
from sqlalchemy.orm import Session
from sqlalchemy.types import NullType

from app.errors import Conflict, NotFound
from app.infra.clock import now_ms
from app.infra.db import is_shared, members, signal, table_of
from app.infra.ids import id_at
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
    type_coerce(Webhook.body, NullType()).label("body"),  # bytes already: nothing to convert
    Webhook.received_at,
    Webhook.tries,
)

# Statements of the hot path are made once: making them costs more than running them.
_OF_CONNECTION = (
    WAITING,
    Webhook.connection_id == bindparam("connection"),
    Webhook.seq > bindparam("after"),
)
_WAITING_SIZES = (
    select(Webhook.seq, func.length(Webhook.body))
    .where(*_OF_CONNECTION)
    .order_by(Webhook.seq)
    .limit(bindparam("limit"))
)
_WAITING_ROWS = (
    select(*_WAITING_COLUMNS).where(*_OF_CONNECTION, Webhook.seq <= bindparam("last")).order_by(Webhook.seq)
)
_NOT_SETTLED = Webhook.state.in_((RECEIVED, ANSWERING))
_SETTLE_GOOD = [
    update(Webhook)
    .where(condition, _NOT_SETTLED)
    .values(
        state=PROCESSED,
        processed_at=bindparam("now"),
        tries=Webhook.tries + 1,
        reason_code=None,
        reason=None,
    )
    .returning(Webhook.seq, Webhook.tries)
    .execution_options(synchronize_session=False)
    for condition in members(table_of(Webhook).c.seq, "seqs")
]

LONGEST_ANSWER_MS = 300_000
"""No sender waits for longer."""

TOKEN_PLACEHOLDER = "{token}"  # noqa: S105 - it stands where the token stood


class Waiting(NamedTuple):
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
    events: Sequence[NewEvent]
    failure: Failure | None
    integration: str
    span: Span | None = None


def settle(session: Session, batch: Sequence[Settled]) -> None:
    """Stores the webhooks' new states and their events together.

    A webhook that is no longer waiting, because somebody else has settled it, is left as it is.
    """
    for event in (e for s in batch for e in s.events):
        event.id = ""  # this may not be the first time that it is tried
    tries = _set_states(session, batch)
    for replayed in (False, True):
        events = [e for s in batch if s.seq in tries and (tries[s.seq] > 1) is replayed for e in s.events]
        store_events(session, events, replayed=replayed)


def _set_states(session: Session, batch: Sequence[Settled]) -> dict[int, int]:
    """Compares and sets; returns those that were waiting, with how often each has been processed by now."""
    now = now_ms()
    tries: dict[int, int] = {}
    if good := [s.seq for s in batch if s.failure is None]:
        rows = session.execute(_SETTLE_GOOD[is_shared(session)], {"seqs": good, "now": now})
        tries = {row.seq: row.tries for row in rows}
    for settled in batch:
        if settled.failure is not None:
            row = session.execute(
                update(Webhook)
                .where(Webhook.seq == settled.seq, _NOT_SETTLED)
                .values(
                    state=FAILED,
                    processed_at=now,
                    tries=Webhook.tries + 1,
                    reason_code=settled.failure.code[:60],
                    reason=settled.failure.message[:1000],
                )
                .returning(Webhook.seq, Webhook.tries)
                .execution_options(synchronize_session=False)
            ).first()
            if row is not None:
                tries[row.seq] = row.tries
    return tries


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
    row.processed_at = row.reason_code = row.reason = None
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
    session: Session, connection_ids: Sequence[str], limit: int, limit_bytes: int, after: int = -1
) -> dict[str, list[Waiting]]:
    """The connections' oldest waiting webhooks after that number, at most `limit` of all together.

    Stops also once their bodies exceed `limit_bytes`, so that a backlog is never in memory: connections that
    were not reached are left out, those that have none get an empty list.
    """
    lanes: dict[str, list[Waiting]] = {}
    size = 0
    for connection_id in connection_ids:
        last = after
        among = {"connection": connection_id, "after": after}
        for seq, length in session.execute(_WAITING_SIZES, {**among, "limit": limit}):
            if last > after and size + length > limit_bytes:
                break
            last, size = seq, size + length
        rows = session.execute(_WAITING_ROWS, {**among, "last": last}) if last > after else ()
        lanes[connection_id] = [_waiting(row) for row in rows]
        limit -= len(lanes[connection_id])
        if size >= limit_bytes or limit <= 0:
            break
    return lanes


def read_one(session: Session, webhook_id: str) -> Waiting:
    """One stored webhook, whatever its state."""
    return _waiting(session.execute(select(*_WAITING_COLUMNS).where(Webhook.id == webhook_id)).one())


def _waiting(row: Any) -> Waiting:
    return Waiting._make(row)


def prune_webhooks(session: Session, before: int, limit: int) -> int:
    """Deletes up to `limit` webhooks that were received before that time and have been processed."""
    old = (
        select(Webhook.seq)
        .where(Webhook.id < id_at("whk", before), Webhook.state.in_((PROCESSED, FAILED)))
        .limit(limit)
    )
    gone = session.scalars(delete(Webhook).where(Webhook.seq.in_(old)).returning(Webhook.seq))
    return len(gone.all())


def release_answering(session: Session, webhook_ids: Collection[str]) -> None:
    """answering -> received, for those whose senders wait no more."""
    session.execute(_RELEASE.where(Webhook.id.in_(webhook_ids)))


def release_orphans(session: Session, living: Collection[str]) -> None:
    """answering -> received, for those that no living node answers, or that have no sender any more: its node
    does not know of one whose line to the database was lost while it was being stored."""
    lost = now_ms() - LONGEST_ANSWER_MS
    session.execute(
        _RELEASE.where(or_(Webhook.owner.is_(None), Webhook.owner.not_in(living), Webhook.received_at < lost))
    )


_RELEASE = (
    update(Webhook)
    .where(text("state = 'answering'"))  # in the form of the partial index
    .values(state=RECEIVED)
    .execution_options(synchronize_session=False)
)


def stored_headers(headers: Headers, credential_headers: frozenset[str]) -> str:
    """Headers as they are stored: JSON pairs, without those that are credentials."""
    hidden = credential_headers | {"authorization", "cookie", "proxy-authorization"}
    return orjson.dumps([pair for pair in headers.pairs if pair[0] not in hidden]).decode()


def request_of(row: Waiting, body_spec: Body, base_url: str) -> WebhookRequest:
    """The stored request as a connector sees it."""
    query = f"?{row.query}" if row.query else ""
    if row.source == POLL:  # a polled item is stored as one JSON object, whatever webhooks look like
        body_spec = JsonObject()
    return WebhookRequest(
        method=row.method,
        url=f"{base_url}/webhooks/{row.integration}/{TOKEN_PLACEHOLDER}{query}",
        headers=StoredHeaders(row.headers),
        body=row.body,
        body_spec=body_spec,
    )


class StoredHeaders(Headers):
    """Headers as they were stored, decoded when somebody looks: most connectors never do."""

    __slots__ = ("_stored",)

    def __init__(self, stored: str) -> None:
        self._stored: str | None = stored

    def __getattr__(self, name: str) -> Any:
        # Reached only while the slots of the base class are empty.
        if self._stored is None:
            raise AttributeError(name)
        stored, self._stored = self._stored, None
        super().__init__((name, value) for name, value in orjson.loads(stored))
        return getattr(self, name)


def origin_of(row: Waiting) -> Origin:
    return Origin(row.id, row.tenant, row.connection_id, row.received_at)
