"""How fast a connection's actions go: slots, rate, and the pause while its provider is down.

All of it is in one row for each connection, its gate, so that it holds over restarts and over all processes.
Whoever opens or closes attempts holds the gates first, by their connections' ids, and the actions' rows
second, in this order everywhere.

    slots  at most `concurrency` attempts are open. An action that finds no slot is marked as waiting for one,
           and whoever frees a slot wakes the oldest.
    rate   each action that comes too early is given a turn of its own, `interval` after the one before it.
    pause  a Retry-After, or a provider that was down BREAK_AFTER times in a row, closes the gate for a while.
           After an outage one action alone goes first: its attempt decides whether the gate opens or closes
           again.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from app.infra.clock import now_ms
from app.infra.db import insert_if_absent, is_shared, members, table_of
from app.infra.queue import WorkQueue
from app.integrations.specs import Limits

from .models import BLOCKED, FOR_PROVIDER, FOR_RATE, FOR_SLOT, QUEUED, RUNNING, ActionRow, Gate

RUN = "action.run"
"""Kind of work."""

BREAK_AFTER = 5
"""Attempts in a row that met an outage until the connection is paused."""

FIRST_BREAK = 10.0
LONGEST_BREAK = 300.0
"""Seconds of the first pause and of the longest; each is twice the one before."""

DOWN = "provider_down"
ASKED = "rate_limited"
"""Why a gate is closed: the provider is down; it asked to come back later."""


@dataclass(frozen=True)
class Closed:
    """An action may not be tried now. `until` is when it should be looked at again, in milliseconds; None if
    it is woken."""

    waiting: str
    until: int | None


def gates_of(session: Session, connection_ids: Iterable[str]) -> dict[str, Gate]:
    """The connections' gates, held until the transaction ends."""
    wanted = sorted(set(connection_ids))
    gates = _held(session, wanted)
    missing = [connection_id for connection_id in wanted if connection_id not in gates]
    for connection_id in missing:
        insert_if_absent(
            session, Gate, connection_id=connection_id, own=False, next_at=0, outages=0, paused_until=0
        )
    return gates | _held(session, missing)


def _held(session: Session, connection_ids: list[str]) -> dict[str, Gate]:
    if not connection_ids:
        return {}
    rows = session.scalars(_GATES[is_shared(session)], {"connections": connection_ids})
    return {gate.connection_id: gate for gate in rows}


def gate_of(session: Session, connection_id: str) -> Gate:
    """The connection's gate, held until the transaction ends."""
    return gates_of(session, [connection_id])[connection_id]


def limits_of(gate: Gate | None, declared: Limits) -> Limits:
    """The limits in force."""
    if gate is None or not gate.own:
        return declared
    return Limits(gate.concurrency or declared.concurrency, gate.rate, gate.per or 1.0)


def closed(gate: Gate, limits: Limits, row: ActionRow, running: int, now: int) -> Closed | None:
    """What keeps a due action from being tried while `running` attempts of its connection are open, or None.
    Takes its turn by the rate limit."""
    if gate.paused_until > now:
        return Closed(FOR_PROVIDER, gate.paused_until)
    if running >= _slots(gate, limits):
        return Closed(FOR_SLOT, None)
    if limits.rate is None or row.waiting == FOR_RATE:
        return None
    turn = max(gate.next_at, now * 1000)
    gate.next_at = turn + round(limits.interval * 1_000_000)
    return None if turn <= now * 1000 else Closed(FOR_RATE, -(-turn // 1000))


def note_attempt(gate: Gate, *, outage: bool | None, retry_after: float | None, now: int) -> bool:
    """Learns from an attempt: whether the provider was down (None if it does not tell), and how long it asked
    to be left alone. Returns whether this outage is the one that pauses the connection."""
    if outage is not None:
        gate.outages = gate.outages + 1 if outage else 0
        if gate.pause_code == DOWN and not outage:
            gate.paused_until, gate.pause_code = 0, None
    if gate.outages >= BREAK_AFTER and outage:
        pause = min(FIRST_BREAK * 2.0 ** (gate.outages - BREAK_AFTER), LONGEST_BREAK)
        gate.paused_until, gate.pause_code = now + round(pause * 1000), DOWN
    closed_now = gate.outages == BREAK_AFTER and outage is True
    if retry_after and now + retry_after * 1000 > gate.paused_until:
        gate.paused_until, gate.pause_code = now + round(retry_after * 1000), ASKED
    if gate.pause_code:
        gate.next_at = max(gate.next_at, gate.paused_until * 1000)
    return closed_now


def wake_waiting(
    session: Session, queue: WorkQueue, gates: Collection[Gate], limits: Callable[[Gate], Limits]
) -> None:
    """Gives free slots to the actions that have waited longest for one."""
    ids = [gate.connection_id for gate in gates]
    blocked = set(session.scalars(_BLOCKED_OF[is_shared(session)], {"connections": ids}))
    open_now = running_of(session, blocked)
    for gate in gates:
        if gate.connection_id in blocked:
            free = _slots(gate, limits(gate)) - open_now[gate.connection_id]
            _wake(session, queue, gate, free)


def _slots(gate: Gate, limits: Limits) -> int:
    return 1 if gate.outages >= BREAK_AFTER else limits.concurrency


def _wake(session: Session, queue: WorkQueue, gate: Gate, free: int) -> None:
    if free <= 0:
        return
    oldest = (
        select(ActionRow.id)
        .where(BLOCKED, ActionRow.connection_id == gate.connection_id, ActionRow.state == QUEUED)
        .order_by(ActionRow.id)
        .limit(free)
        .with_for_update(skip_locked=True)
    )
    woken = list(session.scalars(oldest))
    if woken:
        session.execute(
            update(ActionRow)
            .where(ActionRow.id.in_(woken))
            .values(waiting=None)
            .execution_options(synchronize_session=False)
        )
    for action_id in woken:
        queue.put(session, RUN, action_id)


def end_pause(session: Session, gate: Gate) -> None:
    """Opens a closed gate. What waited for that waits for a slot now, so that not all of it comes at once."""
    gate.paused_until = gate.outages = 0
    gate.pause_code = None
    forget_turns(session, gate, FOR_PROVIDER, FOR_RATE)


def forget_turns(session: Session, gate: Gate, *waiting: str) -> None:
    """Has those that wait for a time by what was in force until now ask anew, as slots come free."""
    gate.next_at = 0
    session.execute(
        update(ActionRow)
        .where(
            ActionRow.connection_id == gate.connection_id,
            ActionRow.state == QUEUED,
            ActionRow.waiting.in_(waiting),
        )
        .values(waiting=FOR_SLOT, run_at=now_ms())
        .execution_options(synchronize_session=False)
    )
    session.flush()


def running_of(session: Session, connection_ids: Collection[str]) -> Counter[str]:
    """How many attempts of each connection are open."""
    if not connection_ids:
        return Counter()
    rows = session.execute(_RUNNING_OF[is_shared(session)], {"connections": list(connection_ids)})
    return Counter(dict(rows.all()))


def waiting(session: Session, connection_id: str) -> int:
    """How many of the connection's actions are queued."""
    return (
        session.scalar(
            select(func.count()).where(ActionRow.connection_id == connection_id, ActionRow.state == QUEUED)
        )
        or 0
    )


def blocked_connections(session: Session) -> dict[str, str]:
    """The integrations of connections with actions that wait for a slot."""
    found = select(ActionRow.connection_id, ActionRow.integration).where(BLOCKED).distinct()
    return dict(session.execute(found).all())


_GATES = [
    select(Gate).where(among).order_by(Gate.connection_id).with_for_update()
    for among in members(table_of(Gate).c.connection_id, "connections")
]
_RUNNING_OF = [
    select(ActionRow.connection_id, func.count())
    .where(among, ActionRow.state == RUNNING)
    .group_by(ActionRow.connection_id)
    for among in members(table_of(ActionRow).c.connection_id, "connections")
]
_BLOCKED_OF = [
    select(ActionRow.connection_id).where(BLOCKED, among).distinct()
    for among in members(table_of(ActionRow).c.connection_id, "connections")
]


GateState = Literal["open", "paused", "trying"]


def state_of(gate: Gate | None, now: int) -> GateState:
    """open; paused; trying: one action at a time, to see whether the provider is back."""
    if gate is None:
        return "open"
    if gate.paused_until > now:
        return "paused"
    return "trying" if gate.outages >= BREAK_AFTER else "open"
