"""Requested outbound operations and every try of them."""

from sqlalchemy import BigInteger, Boolean, Index, Integer, LargeBinary, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.db import Base

QUEUED, RUNNING = "queued", "running"
SUCCEEDED, FAILED, UNKNOWN, CANCELLED = "succeeded", "failed", "unknown", "cancelled"
FINISHED = (SUCCEEDED, FAILED, UNKNOWN, CANCELLED)


class ActionRow(Base):
    """An action. queued -> running -> succeeded | failed | unknown, or back to queued; queued -> cancelled.

    `owner` is the process whose attempt is open while running. `run_at` is when a queued action is due.
    `attempts` counts the tries that were opened.
    """

    __tablename__ = "actions"
    __table_args__ = (
        UniqueConstraint("tenant", "idempotency_key"),
        Index("ix_actions_tenant_state_id", "tenant", "state", "id"),
        Index("ix_actions_state_owner", "state", "owner"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(63))
    connection_id: Mapped[str] = mapped_column(String(40), index=True)
    integration: Mapped[str] = mapped_column(String(63))
    type: Mapped[str] = mapped_column(String(200))
    payload: Mapped[str] = mapped_column(Text)
    effect: Mapped[str] = mapped_column(String(12))
    state: Mapped[str] = mapped_column(String(10))
    owner: Mapped[str | None] = mapped_column(String(40))
    attempts: Mapped[int] = mapped_column(Integer)
    run_at: Mapped[int] = mapped_column(BigInteger)
    result: Mapped[str | None] = mapped_column(Text)
    warning: Mapped[str | None] = mapped_column(Text)
    error_code: Mapped[str | None] = mapped_column(String(60))
    error: Mapped[str | None] = mapped_column(Text)
    idempotency_key: Mapped[str | None] = mapped_column(String(255))
    request_hash: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    created_at: Mapped[int] = mapped_column(BigInteger)
    finished_at: Mapped[int | None] = mapped_column(BigInteger, index=True)


class Attempt(Base):
    """One try of an action: open -> succeeded | failed | unknown.

    `sent` is whether anything with an effect may have left; None while open, and where nobody can tell.
    """

    __tablename__ = "attempts"

    action_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    owner: Mapped[str] = mapped_column(String(40))
    state: Mapped[str] = mapped_column(String(10))
    sent: Mapped[bool | None] = mapped_column(Boolean)
    status: Mapped[int | None] = mapped_column(Integer)
    error_code: Mapped[str | None] = mapped_column(String(60))
    error: Mapped[str | None] = mapped_column(Text)
    retry_after_ms: Mapped[int | None] = mapped_column(BigInteger)
    started_at: Mapped[int] = mapped_column(BigInteger)
    finished_at: Mapped[int | None] = mapped_column(BigInteger)
