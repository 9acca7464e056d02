"""Attempts: opening one, and what its end makes of the action. Each transition is a unit of work.

    queued --open--> running           its time has come and the connection's gate lets it through
    queued --expire--> failed | unknown    its deadline has passed
    running --close--> succeeded | failed | unknown, or queued for the next try
    running --abandon--> unknown | queued    its owner is dead; by effect class
    unknown | queued --close--> succeeded    the owner was alive after all and brings its result

What an attempt may end in, and what follows:

    succeeded                                      succeeded
    refused    nothing happened, never will        failed
    not_done   nothing happened, might later       queued, while the schedule lasts; then failed
    ambiguous  it may have happened                once: unknown
                                                   idempotent: queued, with the same key; then unknown
                                                   checkable: queued, to ask the provider first; then unknown

An action with an ambiguous try behind it never ends failed or cancelled, but unknown: it may have happened.
`open` and `close` hold the connections' gates and the actions' rows, so of two runners that try to open one
action, one finds it gone. Both take as many as there are: a node writes those that come together in one unit.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.infra.clock import now_ms
from app.infra.db import is_shared, members, signal, table_of
from app.infra.queue import WorkQueue
from app.integrations.registry import Registry
from app.integrations.specs import Limits

from .gates import (
    ASKED,
    RUN,
    Closed,
    blocked_connections,
    closed,
    gates_of,
    limits_of,
    note_attempt,
    running_of,
    wake_waiting,
)
from .models import (
    CANCELLED,
    FAILED,
    FOR_PROVIDER,
    FOR_RETRY,
    IS_QUEUED,
    IS_RUNNING,
    QUEUED,
    RUNNING,
    SUCCEEDED,
    UNKNOWN,
    ActionRow,
    Attempt,
    Gate,
)
from .schedule import Schedule

OPEN = "open"
"""State of an attempt that has not ended."""

IDEMPOTENT, CHECKABLE = "idempotent", "checkable"

ENDED = "trunkline.actions_ended"
"""Under this the session holds integration and state of each action that its unit has ended."""
CANCELLED_IN_DOUBT = "Cancelled, so it is not tried again; but an earlier try may have had its effect."

Verdict = Literal["succeeded", "refused", "not_done", "ambiguous"]

_ATTEMPT_STATE: dict[Verdict, str] = {
    "succeeded": SUCCEEDED,
    "refused": FAILED,
    "not_done": FAILED,
    "ambiguous": UNKNOWN,
}


def finished_topic(action_id: str) -> str:
    return f"action:{action_id}"


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    sent         whether anything with an effect may have left; None if nobody can tell
    not_applied  the probe has found that no earlier try had its effect
    outage       whether the provider was down; None if this does not tell
    """

    verdict: Verdict
    sent: bool | None
    result: str | None = None
    warning: str | None = None
    error_code: str | None = None
    error: str | None = None
    status: int | None = None
    retry_after: float | None = None
    not_applied: bool = False
    outage: bool | None = None


@dataclass(frozen=True)
class OpenAttempt:
    """What a runner needs to carry out the attempt that it has opened."""

    action_id: str
    number: int
    connection_id: str
    type: str
    payload: str
    owner: str
    ask_first: bool
    """Whether the provider has to be asked if an earlier try has done it."""
    integration: str


def open_attempts(
    session: Session,
    queue: WorkQueue,
    registry: Registry,
    action_ids: Sequence[str],
    owner: str,
    perhaps_open: Collection[int] = (),
) -> list[OpenAttempt | None]:
    """queued -> running, for each action. None if there is nothing to do: it runs already, or has ended, or
    has to wait. One that waits for a time (also because the clock was set back) gets its wake-up again, for
    then.

    `perhaps_open` are places among the ids. Who asks there was this owner's last to open an attempt of that
    action, and does not know whether it was stored: if the action runs, this is the attempt.
    """
    among = {"actions": list(action_ids)}
    connections: set[str] = set(session.scalars(_CONNECTIONS[is_shared(session)], among))
    gates = gates_of(session, connections)
    rows = {row.id: row for row in session.scalars(_ROWS[is_shared(session)], among)}
    open_now = running_of(session, connections)
    now = now_ms()
    opened = []
    for place, action_id in enumerate(action_ids):
        row, attempt = rows.get(action_id), None
        if row is not None and place in perhaps_open and (row.state, row.owner) == (RUNNING, owner):
            attempt = _opened(row, owner)
        elif row is not None:
            running = open_now[row.connection_id]
            attempt = _open(session, queue, registry, gates[row.connection_id], row, owner, running, now)
            open_now[row.connection_id] += attempt is not None
        opened.append(attempt)
    return opened


def _open(
    session: Session,
    queue: WorkQueue,
    registry: Registry,
    gate: Gate,
    row: ActionRow,
    owner: str,
    running: int,
    now: int,
) -> OpenAttempt | None:
    if row.state != QUEUED:
        return None
    if row.deadline <= now:
        _expire(session, row, now)
        return None
    if row.run_at > now:
        queue.put(session, RUN, row.id, row.run_at)
        return None
    limits = limits_of(gate, _declared(registry, row.integration))
    if shut := closed(gate, limits, row, running, now):
        _wait(session, queue, row, shut, gate.pause_code)
        return None
    row.state, row.owner, row.waiting, row.attempts = RUNNING, owner, None, row.attempts + 1
    session.add(Attempt(action_id=row.id, number=row.attempts, owner=owner, state=OPEN, started_at=now))
    return _opened(row, owner)


def _opened(row: ActionRow, owner: str) -> OpenAttempt:
    ask_first = row.effect == CHECKABLE and row.ambiguous
    return OpenAttempt(
        row.id, row.attempts, row.connection_id, row.type, row.payload, owner, ask_first, row.integration
    )


def _wait(session: Session, queue: WorkQueue, row: ActionRow, shut: Closed, pause_code: str | None) -> None:
    row.waiting = shut.waiting
    if shut.waiting == FOR_PROVIDER and row.error_code is None:
        row.error_code = "connection_paused"
        row.error = (
            "The provider has asked for a pause; this is tried after it."
            if pause_code == ASKED
            else "The provider has been down; this is tried when the connection's pause ends."
        )
    if shut.until is not None:
        row.run_at = shut.until
        queue.put(session, RUN, row.id, shut.until)


def close_attempts(
    session: Session,
    queue: WorkQueue,
    registry: Registry,
    schedule: Schedule,
    ended: Sequence[tuple[OpenAttempt, Outcome]],
) -> list[bool]:
    """running -> what became of it, for each; whether its connection is paused by that. If an attempt was
    abandoned meanwhile and nothing has happened since, the owner's own success still counts; its failure adds
    nothing."""
    now = now_ms()
    gates = gates_of(session, (attempt.connection_id for attempt, _ in ended))
    among = {"actions": [attempt.action_id for attempt, _ in ended]}
    rows = {row.id: row for row in session.scalars(_ROWS[is_shared(session)], among)}
    tries = {(one.action_id, one.number): one for one in session.scalars(_LAST[is_shared(session)], among)}
    paused = []
    for attempt, outcome in ended:
        row = rows.get(attempt.action_id)
        number = (attempt.action_id, attempt.number)
        tried = tries.get(number) or session.get(Attempt, number)
        if row is None or tried is None:
            paused.append(False)
            continue
        gate = gates[attempt.connection_id]
        paused.append(_close(session, queue, schedule, gate, row, tried, attempt, outcome, now))
    session.flush()
    integrations = {attempt.connection_id: attempt.integration for attempt, _ in ended}
    _wake(session, queue, registry, gates, integrations)
    return paused


def _close(
    session: Session,
    queue: WorkQueue,
    schedule: Schedule,
    gate: Gate,
    row: ActionRow,
    tried: Attempt,
    attempt: OpenAttempt,
    outcome: Outcome,
    now: int,
) -> bool:
    if tried.owner != attempt.owner or tried.state not in (OPEN, UNKNOWN):
        return False
    abandoned = tried.state == UNKNOWN
    _end(tried, outcome, now)
    paused = note_attempt(gate, outage=outcome.outage, retry_after=outcome.retry_after, now=now)
    if row.attempts == attempt.number:
        if not abandoned and row.state == RUNNING:
            _follow(session, queue, schedule, row, outcome, now)
        elif abandoned and row.state in (UNKNOWN, QUEUED) and outcome.verdict != "ambiguous":
            # Nobody has tried since: what its owner knows is better than what was assumed.
            row.ambiguous = _ambiguous_before(session, attempt)
            if outcome.verdict == "not_done" and row.state == UNKNOWN and row.warning is not None:
                _stay_ended(session, row, outcome, now)
            else:
                _follow(session, queue, schedule, row, outcome, now)
    return paused


def _stay_ended(session: Session, row: ActionRow, outcome: Outcome, now: int) -> None:
    """Meanwhile it was cancelled or given up, as its warning says: to know better is no reason to try it."""
    row.error_code, row.error = outcome.error_code, outcome.error
    if row.ambiguous:
        return
    if row.warning == CANCELLED_IN_DOUBT:
        row.warning = None
        _finish(session, row, CANCELLED, now)
    else:
        _finish(session, row, FAILED, now)


def _ambiguous_before(session: Session, attempt: OpenAttempt) -> bool:
    earlier = select(Attempt.number).where(
        Attempt.action_id == attempt.action_id, Attempt.number < attempt.number, Attempt.state == UNKNOWN
    )
    return session.scalars(earlier.limit(1)).first() is not None


def _end(tried: Attempt, outcome: Outcome, now: int) -> None:
    tried.state, tried.sent, tried.status = _ATTEMPT_STATE[outcome.verdict], outcome.sent, outcome.status
    tried.error_code, tried.error, tried.finished_at = outcome.error_code, outcome.error, now
    tried.retry_after_ms = None if outcome.retry_after is None else int(outcome.retry_after * 1000)


def _follow(
    session: Session, queue: WorkQueue, schedule: Schedule, row: ActionRow, outcome: Outcome, now: int
) -> None:
    """What an attempt's end makes of the action."""
    if outcome.not_applied:
        row.ambiguous = False
    if outcome.verdict == "ambiguous":
        row.ambiguous = True
    row.error_code, row.error = outcome.error_code, outcome.error
    row.result, row.warning = outcome.result, outcome.warning
    if outcome.verdict == "succeeded":
        _finish(session, row, SUCCEEDED, now)
    elif outcome.verdict == "refused" or (outcome.verdict == "ambiguous" and not _repeatable(row)):
        _finish(session, row, UNKNOWN if row.ambiguous else FAILED, now)
    else:
        _try_again(session, queue, schedule, row, outcome, now)


def _try_again(
    session: Session, queue: WorkQueue, schedule: Schedule, row: ActionRow, outcome: Outcome, now: int
) -> None:
    tried = row.attempts - row.schedule_start
    pause = schedule.pause(tried, outcome.retry_after)
    run_at = None if pause is None else now + round(pause * 1000)
    if run_at is None or run_at >= row.deadline:
        row.warning = (
            f"Given up after {tried} tries."
            if run_at is None
            else f"Given up after {tried} tries: the next one would be after its deadline."
        )
        _finish(session, row, UNKNOWN if row.ambiguous else FAILED, now)
        return
    row.state, row.owner, row.finished_at = QUEUED, None, None
    row.waiting, row.run_at = FOR_RETRY, run_at
    queue.put(session, RUN, row.id, run_at)


def _repeatable(row: ActionRow) -> bool:
    return row.effect in (IDEMPOTENT, CHECKABLE)


def _finish(session: Session, row: ActionRow, state: str, now: int) -> None:
    row.state, row.owner, row.waiting, row.finished_at = state, None, None, now
    if state == SUCCEEDED:
        row.ambiguous = False
    note_end(session, row)


def note_end(session: Session, row: ActionRow) -> None:
    """Wakes who waits for the action, and has its end counted."""
    signal(session, finished_topic(row.id))
    session.info.setdefault(ENDED, []).append((row.integration, row.state))


def _expire(session: Session, row: ActionRow, now: int) -> None:
    if row.error_code is None or row.attempts == 0:
        row.error_code, row.error = "deadline_passed", "Its deadline passed before it could be tried."
    row.warning = "Given up at its deadline."
    _finish(session, row, UNKNOWN if row.ambiguous else FAILED, now)


def expire_actions(session: Session, limit: int) -> int:
    """Ends queued actions whose deadline has passed; returns how many, at most `limit`."""
    now = now_ms()
    late = list(
        session.scalars(
            select(ActionRow)
            .where(IS_QUEUED, ActionRow.deadline <= now)
            .order_by(ActionRow.deadline)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
    )
    for row in late:
        _expire(session, row, now)
    return len(late)


def abandon_attempts(session: Session, queue: WorkQueue, schedule: Schedule, living: Collection[str]) -> int:
    """Ends the open attempts whose owners are not among the `living`, by effect class; returns how many.

    Nobody knows how far a dead owner came. once: unknown. idempotent and checkable: queued again, because
    repeating it does nothing more, or the provider can be asked first; but not for ever, because it may be
    this action that ends the process each time.
    """
    orphans = list(
        session.scalars(
            select(ActionRow)
            .where(IS_RUNNING, ActionRow.owner.not_in(living))
            .with_for_update(skip_locked=True)
        )
    )
    now = now_ms()
    for row in orphans:
        code = "interrupted"
        message = "The process ended while this was being tried; it may or may not have happened."
        tried = session.get(Attempt, (row.id, row.attempts))
        if tried is not None and tried.state == OPEN:
            tried.state, tried.finished_at = UNKNOWN, now
            tried.error_code, tried.error = code, message
        row.ambiguous, row.error_code, row.error = True, code, message
        tries = row.attempts - row.schedule_start
        if _repeatable(row) and tries < schedule.attempts:
            row.state, row.owner, row.waiting, row.run_at = QUEUED, None, FOR_RETRY, now
            queue.put(session, RUN, row.id)
        else:
            if _repeatable(row):
                row.warning = f"Given up after {tries} tries."
            _finish(session, row, UNKNOWN, now)
    return len(orphans)


def wake_blocked(session: Session, queue: WorkQueue, registry: Registry) -> None:
    """Gives free slots to whoever waits for one, on all connections: the net for those that no attempt's end
    has woken, because its process died or a limit was raised."""
    integrations = blocked_connections(session)
    _wake(session, queue, registry, gates_of(session, integrations), integrations)


def _wake(
    session: Session,
    queue: WorkQueue,
    registry: Registry,
    gates: Mapping[str, Gate],
    integrations: Mapping[str, str],
) -> None:
    def limits(gate: Gate) -> Limits:
        return limits_of(gate, _declared(registry, integrations[gate.connection_id]))

    wake_waiting(session, queue, gates.values(), limits)


def _declared(registry: Registry, integration: str) -> Limits:
    known = registry.integrations.get(integration)
    return known.connector.limits if known else Limits()


_AMONG = members(table_of(ActionRow).c.id, "actions")
_CONNECTIONS = [select(ActionRow.connection_id).where(among).distinct() for among in _AMONG]
_ROWS = [select(ActionRow).where(among).order_by(ActionRow.id).with_for_update() for among in _AMONG]
_LAST = [
    select(Attempt)
    .join(ActionRow, ActionRow.id == Attempt.action_id)
    .where(among, Attempt.number == ActionRow.attempts)
    for among in _AMONG
]
"""The last attempt of each action."""
