"""Raw inbound requests and polled items, as received."""

from sqlalchemy import BigInteger, Index, Integer, LargeBinary, String, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.db import Base

RECEIVED, ANSWERING, PROCESSED, FAILED = "received", "answering", "processed", "failed"
WEBHOOK, POLL = "webhook", "poll"

WAITING = text("state = 'received'")
"""In this very form, which is what lets the partial index below be used. Nothing but what waits has an entry
there, and settling a webhook changes no other index."""


class Webhook(Base):
    """One stored inbound request (`source` webhook) or polled item (`source` poll).

    States: received -> processed | failed; a replay goes back to received. With `reply_within` it begins
    as answering, until its sender is answered by the node `owner`. `headers` is a JSON array of pairs,
    credentials left out; `query` is the URL's, the path being the connection's. `reason_code` and `reason`
    say why it failed.
    """

    __tablename__ = "webhooks"
    __table_args__ = (
        # What waits, by connection, in order: small, whatever is stored.
        Index(
            "ix_webhooks_waiting",
            "connection_id",
            "seq",
            sqlite_where=WAITING,
            postgresql_where=WAITING,
        ),
        Index(
            "ix_webhooks_failed",
            "tenant",
            "seq",
            sqlite_where=text("state = 'failed'"),
            postgresql_where=text("state = 'failed'"),
        ),
        Index(
            "ix_webhooks_answering",
            "seq",
            sqlite_where=text("state = 'answering'"),
            postgresql_where=text("state = 'answering'"),
        ),
        Index("ix_webhooks_tenant_seq", "tenant", "seq"),
        Index("ix_webhooks_connection_id_seq", "connection_id", "seq"),
        {"sqlite_autoincrement": True},
    )

    seq: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    id: Mapped[str] = mapped_column(String(40), unique=True)
    tenant: Mapped[str] = mapped_column(String(63))
    connection_id: Mapped[str] = mapped_column(String(40))
    integration: Mapped[str] = mapped_column(String(63))
    source: Mapped[str] = mapped_column(String(10))
    method: Mapped[str] = mapped_column(String(10))
    query: Mapped[str] = mapped_column(Text)
    headers: Mapped[str] = mapped_column(Text)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    received_at: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[str] = mapped_column(String(10))
    tries: Mapped[int] = mapped_column(Integer)
    processed_at: Mapped[int | None] = mapped_column(BigInteger)
    reason_code: Mapped[str | None] = mapped_column(String(60))
    reason: Mapped[str | None] = mapped_column(Text)
    owner: Mapped[str | None] = mapped_column(String(40))
