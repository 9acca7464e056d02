"""How much waits, and for how long: read from the tables, through the indexes of what waits.

Ages cost an index step for each connection that has something waiting. Counts cost index entries, and on
PostgreSQL a look at the rows that no VACUUM has seen yet, so they end at MOST: whatever piles up, a scrape
costs no more than that.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select, text
from sqlalchemy.orm import Session

from app.modules.actions.models import IS_QUEUED, IS_RUNNING, IS_UNKNOWN, ActionRow, Gate
from app.modules.polling.models import PollState
from app.modules.webhooks.models import WAITING, Webhook

MOST = 100_000
"""Rows that are counted; if there are more, the count is this."""

_FAILED = text("state = 'failed'")  # in the form of the partial index

# From connection to connection through the index of what waits, however much of it there is.
_OLDEST_WAITING = text(
    f"""
    WITH RECURSIVE waiting (connection_id) AS (
        SELECT min(connection_id) FROM webhooks WHERE {WAITING.text}
        UNION ALL
        SELECT (SELECT min(w.connection_id) FROM webhooks w
                WHERE w.{WAITING.text} AND w.connection_id > waiting.connection_id)
        FROM waiting WHERE waiting.connection_id IS NOT NULL
    )
    SELECT min((SELECT min(w.seq) FROM webhooks w
                WHERE w.{WAITING.text} AND w.connection_id = waiting.connection_id))
    FROM waiting
    """  # noqa: S608 - a condition of ours
)


@dataclass(frozen=True)
class Depths:
    """Counts, up to MOST, and ages in seconds (0 if nothing waits)."""

    webhooks_waiting: int
    oldest_webhook: float
    webhooks_failed: int
    actions_queued: int
    actions_running: int
    actions_unknown: int
    oldest_action: float
    polls_failing: int
    connections_paused: int


def read_depths(session: Session, now: int) -> Depths:
    """What waits at `now`, in milliseconds since 1970."""
    first = session.scalar(_OLDEST_WAITING)
    received_at = session.scalar(select(Webhook.received_at).where(Webhook.seq == first))
    run_at = session.scalar(select(func.min(ActionRow.run_at)).where(IS_QUEUED))
    return Depths(
        webhooks_waiting=_count(session, select(Webhook.seq).where(WAITING)),
        oldest_webhook=_age(received_at, now),
        webhooks_failed=_count(session, select(Webhook.seq).where(_FAILED)),
        # In their indexes' order, which is what makes SQLite choose them.
        actions_queued=_count(session, select(ActionRow.run_at).where(IS_QUEUED).order_by(ActionRow.run_at)),
        actions_running=_count(session, select(ActionRow.owner).where(IS_RUNNING).order_by(ActionRow.owner)),
        actions_unknown=_count(session, select(ActionRow.id).where(IS_UNKNOWN).order_by(ActionRow.id)),
        oldest_action=_age(run_at, now),
        polls_failing=_count(session, select(PollState.name).where(PollState.failures > 0)),
        connections_paused=_count(session, select(Gate.connection_id).where(Gate.paused_until > now)),
    )


def _count(session: Session, rows: Select[Any]) -> int:
    return session.scalar(select(func.count()).select_from(rows.limit(MOST).subquery())) or 0


def _age(since: int | None, now: int) -> float:
    return 0.0 if since is None else max(now - since, 0) / 1000
