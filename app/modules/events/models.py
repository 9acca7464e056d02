"""Events, and what has been seen of them."""

from sqlalchemy import BigInteger, Boolean, Index, Integer, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.db import Base


class EventRow(Base):
    """A unified event. `seq` is the feed's cursor.

    `conflicting` marks an event whose id was already seen with other content. (webhook_id, item) is unique:
    replaying a webhook cannot make an item's event twice.
    """

    __tablename__ = "events"
    __table_args__ = (
        UniqueConstraint("webhook_id", "item"),
        Index("ix_events_tenant_seq", "tenant", "seq"),
        {"sqlite_autoincrement": True},
    )

    seq: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    id: Mapped[str] = mapped_column(String(40), unique=True)
    tenant: Mapped[str] = mapped_column(String(63))
    connection_id: Mapped[str] = mapped_column(String(40))
    integration: Mapped[str] = mapped_column(String(63))
    type: Mapped[str] = mapped_column(String(200))
    external_id: Mapped[str | None] = mapped_column(String(2048))
    payload: Mapped[str] = mapped_column(Text)
    conflicting: Mapped[bool] = mapped_column(Boolean)
    webhook_id: Mapped[str] = mapped_column(String(40))
    item: Mapped[int] = mapped_column(Integer)
    received_at: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger)


class EventIdentity(Base):
    """What has been seen, for as long as repetitions are recognised.

    `identity` is a digest of connection, type and external_id; `fingerprint` of the received item, or
    empty where the id alone identifies. One row is one event.
    """

    __tablename__ = "event_identities"
    __table_args__ = {"sqlite_with_rowid": False}

    identity: Mapped[bytes] = mapped_column(LargeBinary(16), primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(16), primary_key=True)
    seen_at: Mapped[int] = mapped_column(BigInteger, index=True)
