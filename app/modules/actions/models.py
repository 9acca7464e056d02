"""Requested outbound operations, every try of them, and how fast each connection may go."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Float,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.db import Base

QUEUED, RUNNING = "queued", "running"
SUCCEEDED, FAILED, UNKNOWN, CANCELLED = "succeeded", "failed", "unknown", "cancelled"
FINISHED = (SUCCEEDED, FAILED, UNKNOWN, CANCELLED)

FOR_TIME, FOR_RETRY, FOR_SLOT, FOR_RATE, FOR_PROVIDER = "time", "retry", "slot", "rate", "provider"
"""What a queued action waits for: its run_at; the next try; one of the connection's slots (nobody wakes it
but the action that frees one); its turn by the rate limit, which run_at then is; the provider to come
back."""

BLOCKED = text("waiting = 'slot'")
IS_QUEUED = text("state = 'queued'")
IS_RUNNING = text("state = 'running'")
IS_UNKNOWN = text("state = 'unknown'")
"""In these very forms, which is what lets the partial indexes below be used. An index that begins with the
state would be worse than none: without statistics SQLite prefers it, and reads every row of that state."""


class ActionRow(Base):
    """An action. queued -> running -> succeeded | failed | unknown, or back to queued; queued -> cancelled.

    `owner` is the process whose attempt is open while running. `run_at` is when a queued action is due;
    after `deadline` no try is begun. `attempts` counts the tries that were opened, `schedule_start` those
    before the present schedule of retries. `ambiguous` says that a try may have had its effect without our
    knowing, so that neither failed nor cancelled would be the truth.
    """

    __tablename__ = "actions"
    __table_args__ = (
        UniqueConstraint("tenant", "idempotency_key"),
        Index("ix_actions_tenant_state_id", "tenant", "state", "id"),
        Index("ix_actions_connection_id_state", "connection_id", "state"),
        Index("ix_actions_blocked", "connection_id", "id", sqlite_where=BLOCKED, postgresql_where=BLOCKED),
        Index("ix_actions_deadline", "deadline", sqlite_where=IS_QUEUED, postgresql_where=IS_QUEUED),
        Index("ix_actions_due", "run_at", sqlite_where=IS_QUEUED, postgresql_where=IS_QUEUED),
        Index("ix_actions_running", "owner", sqlite_where=IS_RUNNING, postgresql_where=IS_RUNNING),
        Index("ix_actions_unknown", "id", sqlite_where=IS_UNKNOWN, postgresql_where=IS_UNKNOWN),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(63))
    connection_id: Mapped[str] = mapped_column(String(40))
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
    waiting: Mapped[str | None] = mapped_column(String(10))
    schedule_start: Mapped[int] = mapped_column(Integer)
    ambiguous: Mapped[bool] = mapped_column(Boolean)
    deadline: Mapped[int] = mapped_column(BigInteger)


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


class Gate(Base):
    """What lets a connection's actions through: one row for each connection that has had any.

    `concurrency`, `rate` and `per` replace what the connector declares, if `own` says so. `next_at` is when
    the rate limit allows the next action that has no turn yet, in microseconds. `outages` counts the attempts
    in a row in which the provider was down. Until `paused_until` nothing is tried, for the reason in
    `pause_code`.
    """

    __tablename__ = "action_gates"

    connection_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    own: Mapped[bool] = mapped_column(Boolean)
    concurrency: Mapped[int | None] = mapped_column(Integer)
    rate: Mapped[int | None] = mapped_column(Integer)
    per: Mapped[float | None] = mapped_column(Float)
    next_at: Mapped[int] = mapped_column(BigInteger)
    outages: Mapped[int] = mapped_column(Integer)
    paused_until: Mapped[int] = mapped_column(BigInteger)
    pause_code: Mapped[str | None] = mapped_column(String(60))
