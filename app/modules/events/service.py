"""Storing events effectively once, and reading the feed."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson
from sqlalchemy import delete, select, tuple_
from sqlalchemy.orm import Session

from app.errors import NotFound
from app.infra.clock import now_ms
from app.infra.db import exclusive, insert_rows, is_shared, members, signal, table_of
from app.infra.ids import id_at, new_id

from .models import EventIdentity, EventRow

TOPIC = "events"
"""Wakes whoever follows the feed."""

_NO_FINGERPRINT = b""

_IDENTITY_COLUMNS = ("identity", "fingerprint", "seen_at")
_EVENT_COLUMNS = (
    "id", "tenant", "connection_id", "integration", "type", "external_id", "payload", "conflicting",
    "webhook_id", "item", "received_at", "created_at",
)  # fmt: skip

_SEEN = [
    select(EventIdentity.identity, EventIdentity.fingerprint).where(condition)
    for condition in members(table_of(EventIdentity).c.identity, "identities")
]
_ITEMS_DONE = [
    select(EventRow.webhook_id, EventRow.item).where(condition)
    for condition in members(table_of(EventRow).c.webhook_id, "webhooks")
]


@dataclass(slots=True)
class NewEvent:
    """An event that a connector made of item number `item` of a webhook.

    `payload` is JSON. `fingerprint` is a digest of the item as received, see `fingerprint_of`.
    `unique_id` is EventSpec.unique_id of its type.
    """

    tenant: str
    connection_id: str
    integration: str
    webhook_id: str
    item: int
    type: str
    external_id: str | None
    unique_id: bool
    payload: str
    fingerprint: bytes
    received_at: int
    id: str = ""
    """Given when it is stored; a repetition gets none."""


def canonical(item: Any) -> bytes:
    """An item's content as bytes, whatever the order of its keys."""
    return orjson.dumps(item, option=orjson.OPT_SORT_KEYS)


def fingerprint_of(content: bytes, position: int | None = None) -> bytes:
    """A digest of an item's canonical content.

    `position` tells apart the events that one `receive` made of the same item.
    """
    digest = hashlib.blake2b(content, digest_size=16)
    if position:
        digest.update(position.to_bytes(4, "big"))
    return digest.digest()


def store_events(session: Session, events: Sequence[NewEvent], *, replayed: bool = False) -> int:
    """Stores those events that are not there yet, in order; returns how many that were.

    An event is there if its webhook's item already made one (only possible when `replayed`), or if the same
    has been seen: the same connection, type and external_id, and the same item or an id that is unique by
    itself. Without external_id only the first holds. Same id with another item: stored and marked
    conflicting. Whoever calls decides the transaction; identities and events are written together.

    From here to the commit no other transaction stores events, on any node: what has been seen is all there
    is, and positions in the feed become visible in their order. So call this last.
    """
    if not events:
        return 0
    exclusive(session, TOPIC)
    done = _items_done(session, {event.webhook_id for event in events}) if replayed else frozenset()
    identities = {id(event): _identity(event) for event in events if event.external_id is not None}
    seen = _seen(session, set(identities.values()))
    now = now_ms()
    new_rows: list[tuple[Any, ...]] = []
    new_identities: list[tuple[Any, ...]] = []
    for event in events:
        if (event.webhook_id, event.item) in done:
            continue
        identity = identities.get(id(event))
        conflicting = False
        if identity is not None:
            fingerprint = _NO_FINGERPRINT if event.unique_id else event.fingerprint
            known = seen.setdefault(identity, set())
            if fingerprint in known:
                continue
            conflicting = bool(known)
            known.add(fingerprint)
            new_identities.append((identity, fingerprint, now))
        event.id = new_id("evt")
        new_rows.append(
            (
                event.id,
                event.tenant,
                event.connection_id,
                event.integration,
                event.type,
                event.external_id,
                event.payload,
                conflicting,
                event.webhook_id,
                event.item,
                event.received_at,
                now,
            )
        )
    insert_rows(session, table_of(EventIdentity), _IDENTITY_COLUMNS, new_identities)
    insert_rows(session, table_of(EventRow), _EVENT_COLUMNS, new_rows)
    if new_rows:
        signal(session, TOPIC)
    return len(new_rows)


def _identity(event: NewEvent) -> bytes:
    assert event.external_id is not None
    parts = "\0".join((event.connection_id, event.type, event.external_id))
    return hashlib.blake2b(parts.encode(), digest_size=16).digest()


def _items_done(session: Session, webhook_ids: set[str]) -> frozenset[tuple[str, int]]:
    rows = session.execute(_ITEMS_DONE[is_shared(session)], {"webhooks": list(webhook_ids)})
    return frozenset((row.webhook_id, row.item) for row in rows)


def _seen(session: Session, identities: set[bytes]) -> dict[bytes, set[bytes]]:
    seen: dict[bytes, set[bytes]] = {}
    if identities:
        rows = session.execute(_SEEN[is_shared(session)], {"identities": list(identities)})
        for identity, fingerprint in rows:
            seen.setdefault(identity, set()).add(fingerprint)
    return seen


def prune_events(session: Session, before: int, limit: int) -> int:
    """Deletes up to `limit` events that were made before that time."""
    old = select(EventRow.seq).where(EventRow.id < id_at("evt", before)).limit(limit)
    return len(session.scalars(delete(EventRow).where(EventRow.seq.in_(old)).returning(EventRow.seq)).all())


def prune_identities(session: Session, before: int, limit: int) -> int:
    """Forgets up to `limit` identities that were seen before that time: repetitions later are new events."""
    old = list(
        session.execute(
            select(EventIdentity.identity, EventIdentity.fingerprint)
            .where(EventIdentity.seen_at < before)
            .limit(limit)
        )
    )
    keys = tuple_(EventIdentity.identity, EventIdentity.fingerprint)
    session.execute(delete(EventIdentity).where(keys.in_([tuple(row) for row in old])))
    return len(old)


@dataclass(frozen=True)
class FeedFilter:
    """Which events of a tenant are meant; None means all."""

    type: str | None = None
    connection: str | None = None


class FeedItem(NamedTuple):
    """An event as the feed gives it out; `payload` is JSON."""

    seq: int
    id: str
    type: str
    external_id: str | None
    payload: str
    integration: str
    connection_id: str
    webhook_id: str
    conflicting: bool
    received_at: int


_FEED_COLUMNS = (
    EventRow.seq,
    EventRow.id,
    EventRow.type,
    EventRow.external_id,
    EventRow.payload,
    EventRow.integration,
    EventRow.connection_id,
    EventRow.webhook_id,
    EventRow.conflicting,
    EventRow.received_at,
)


def read_feed(
    session: Session, tenant: str, after: int, limit: int, only: FeedFilter = FeedFilter()
) -> list[FeedItem]:
    """The tenant's next events after the cursor, in the order in which they became visible."""
    query = select(*_FEED_COLUMNS).where(EventRow.tenant == tenant, EventRow.seq > after)
    if only.type is not None:
        query = query.where(EventRow.type == only.type)
    if only.connection is not None:
        query = query.where(EventRow.connection_id == only.connection)
    rows = session.execute(query.order_by(EventRow.seq).limit(limit))
    return [_feed_item(row) for row in rows]


def _feed_item(row: Any) -> FeedItem:
    return FeedItem._make(row)


def get_event(session: Session, tenant: str, event_id: str) -> FeedItem:
    """Raises NotFound, for another tenant's too."""
    row = session.execute(
        select(*_FEED_COLUMNS).where(EventRow.id == event_id, EventRow.tenant == tenant)
    ).first()
    if row is None:
        raise NotFound("event", event_id)
    return _feed_item(row)
