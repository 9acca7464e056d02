"""How much waits, and for how long: read from the tables, through the indexes of what waits."""

from dataclasses import dataclass

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from app.modules.actions.models import QUEUED, RUNNING, UNKNOWN, ActionRow, Gate
from app.modules.polling.models import PollState
from app.modules.webhooks.models import WAITING, Webhook

_FAILED = text("state = 'failed'")
"""In this very form, which is what lets the partial index be used."""


@dataclass(frozen=True)
class Depths:
    """Counts, and ages in seconds (0 if nothing waits)."""

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
    """What waits at `now`, in milliseconds since 1970. It costs index entries of what waits, and the rows of
    queued actions, whatever else is stored."""
    waiting, first = session.execute(select(func.count(), func.min(Webhook.seq)).where(WAITING)).one()
    received_at = session.scalar(select(Webhook.received_at).where(Webhook.seq == first))
    run_at = session.scalar(select(func.min(ActionRow.run_at)).where(ActionRow.state == QUEUED))
    return Depths(
        webhooks_waiting=waiting,
        oldest_webhook=_age(received_at, now),
        webhooks_failed=session.scalar(select(func.count()).select_from(Webhook).where(_FAILED)) or 0,
        actions_queued=_actions(session, QUEUED),
        actions_running=_actions(session, RUNNING),
        actions_unknown=_actions(session, UNKNOWN),
        oldest_action=_age(run_at, now),
        polls_failing=session.scalar(select(func.count()).where(PollState.failures > 0)) or 0,
        connections_paused=session.scalar(select(func.count()).where(Gate.paused_until > now)) or 0,
    )


def _actions(session: Session, state: str) -> int:
    return session.scalar(select(func.count()).where(ActionRow.state == state)) or 0


def _age(since: int | None, now: int) -> float:
    return 0.0 if since is None else max(now - since, 0) / 1000
