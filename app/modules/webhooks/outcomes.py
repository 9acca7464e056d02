"""What webhooks became, for somebody who watches them: as stored, or as a preview has it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from app.infra.ids import id_at
from app.modules.events.models import EventRow
from app.modules.integrations.models import Connection

from .models import FAILED, PROCESSED, Webhook
from .parse import Failure, Parsed

MOST = 100
"""Webhooks that are looked at together."""


@dataclass(frozen=True)
class Content:
    """An event without what the platform adds; `payload` is JSON."""

    type: str
    external_id: str | None
    payload: str


@dataclass(frozen=True)
class Source:
    """A webhook, and the connection that it came to."""

    seq: int
    webhook: str
    connection: str
    name: str
    integration: str


@dataclass(frozen=True)
class Outcome:
    """The events of a webhook, and why it failed if it did. A batch can have both."""

    source: Source
    events: Sequence[Content]
    failure: Failure | None = None


def as_parsed(source: Source, parsed: Parsed) -> Outcome:
    """The outcome of a preview."""
    events = [Content(event.type, event.external_id, event.payload) for event in parsed.events]
    return Outcome(source, events, parsed.failure)


def as_stored(session: Session, source: Source) -> Outcome | None:
    """The outcome that is stored; None if the webhook waits or is gone."""
    row = session.scalars(select(Webhook).where(Webhook.id == source.webhook)).first()
    if row is None or row.state not in (PROCESSED, FAILED):
        return None
    events = session.scalars(
        select(EventRow).where(EventRow.webhook_id == source.webhook).order_by(EventRow.item)
    )
    contents = [Content(event.type, event.external_id, event.payload) for event in events]
    failed = row.state == FAILED
    return Outcome(source, contents, Failure(row.reason_code or "", row.reason or "") if failed else None)


def last_seq(session: Session, before: int) -> int:
    """The sequence number of the newest webhook that was received before that time, or 0."""
    older = select(Webhook.seq).where(Webhook.id < id_at("whk", before))
    return session.scalar(older.order_by(Webhook.seq.desc()).limit(1)) or 0


def newer(session: Session, after: int, known: Collection[int], connection: str | None) -> list[Source]:
    """Webhooks that came after this sequence number, and those in `known`, in order."""
    query = _SOURCES.where(or_(Webhook.seq > after, Webhook.seq.in_(known)))
    if connection is not None:
        query = query.where(Webhook.connection_id == connection)
    return _sources(session, query.order_by(Webhook.seq).limit(MOST))


def newest_of_each(
    session: Session, upto: int, integrations: Collection[str] | None, connection: str | None
) -> list[Source]:
    """The newest webhook of each connection up to this sequence number, the newest first; None means all
    integrations or connections."""
    wanted = select(Connection.id).where(Connection.deleted_at.is_(None))
    if integrations is not None:
        wanted = wanted.where(Connection.integration.in_(integrations))
    if connection is not None:
        wanted = wanted.where(Connection.id == connection)
    found: list[Source] = []
    for connection_id in session.scalars(wanted.order_by(Connection.id.desc()).limit(MOST)):
        older = _SOURCES.where(Webhook.connection_id == connection_id, Webhook.seq <= upto)
        found += _sources(session, older.order_by(Webhook.seq.desc()).limit(1))
    return sorted(found, key=lambda source: -source.seq)


def source_of(session: Session, webhook_id: str) -> Source | None:
    """The webhook of this id."""
    return next(iter(_sources(session, _SOURCES.where(Webhook.id == webhook_id))), None)


def connections_called(session: Session, given: str) -> list[str]:
    """Ids of the connections with this id or name."""
    named = or_(Connection.id == given, Connection.name == given)
    return list(session.scalars(select(Connection.id).where(named, Connection.deleted_at.is_(None))))


_SOURCES = select(Webhook.seq, Webhook.id, Webhook.connection_id, Connection.name, Webhook.integration).join(
    Connection, Connection.id == Webhook.connection_id
)


def _sources(session: Session, query: Select[int, str, str, str, str]) -> list[Source]:
    return [Source(*row.tuple()) for row in session.execute(query)]
