"""Actions at rest: the transitions of their state machine, each a unit of work.

    queued --open--> running --close--> succeeded | failed | unknown
    queued --cancel--> cancelled
    running --abandon--> unknown | queued           its owner is dead; by effect class
    unknown --close--> succeeded | failed | unknown the owner was alive after all and brings its result
    failed | unknown | cancelled --retry--> queued  somebody decided so
    unknown --resolve--> succeeded | failed         somebody looked

`open` and `close` compare before they set: of two runners that try to open one action, one finds it gone.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from app.errors import Conflict, Invalid, NotFound, Problem
from app.infra.clock import now_ms
from app.infra.db import signal
from app.infra.ids import new_id
from app.infra.queue import WorkQueue
from app.integrations.errors import InvalidActionPayload, UnknownAction
from app.integrations.models import Action
from app.integrations.registry import Registry
from app.modules.integrations.models import Connection

from .models import CANCELLED, FAILED, FINISHED, QUEUED, RUNNING, SUCCEEDED, UNKNOWN, ActionRow, Attempt

RUN = "action.run"
"""Kind of work."""

OPEN = "open"
"""State of an attempt that has not ended."""


def finished_topic(action_id: str) -> str:
    return f"action:{action_id}"


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended, and so the action.

    state   succeeded, failed or unknown
    sent    whether anything with an effect may have left; None if nobody can tell
    """

    state: str
    sent: bool | None
    result: str | None = None
    warning: str | None = None
    error_code: str | None = None
    error: str | None = None
    status: int | None = None
    retry_after: float | None = None


def create_action(
    session: Session,
    queue: WorkQueue,
    registry: Registry,
    connection: Connection,
    *,
    type: str,
    payload: Mapping[str, Any],
    idempotency_key: str | None,
) -> tuple[ActionRow, bool]:
    """Stores a validated action with its wake-up; returns it and whether it is new.

    The same Idempotency-Key with the same request returns the action of the first time, in whatever state
    it is. Raises Invalid with the payload's wrong fields or for a key used with another request, Conflict
    for a connection that is off or whose connector is gone.
    """
    stored_payload = _stored(payload)
    request_hash = hashlib.sha256(f"{connection.id}\0{type}\0{stored_payload}".encode()).digest()
    if idempotency_key is not None:
        earlier = session.scalars(
            select(ActionRow).where(
                ActionRow.tenant == connection.tenant, ActionRow.idempotency_key == idempotency_key
            )
        ).first()
        if earlier is not None:
            if earlier.request_hash != request_hash:
                raise Invalid(
                    "This Idempotency-Key was used with another request.",
                    code="idempotency_key_reused",
                    remedy="Use a new key for a new action.",
                    problems=[Problem("Idempotency-Key", "idempotency_key_reused", "used before")],
                )
            return earlier, False
    known = registry.integrations.get(connection.integration)
    if known is None:
        raise Conflict(
            f"The connector '{connection.integration}' is not available.",
            code="integration_unavailable",
            remedy="GET /api/v1/integrations says why; mend it and restart.",
        )
    if not connection.enabled:
        raise Conflict(
            "The connection is disabled.", code="connection_disabled", remedy="Enable it, then try again."
        )
    effect = _validate(known.connector, type, payload)
    now = now_ms()
    row = ActionRow(
        id=new_id("act"),
        tenant=connection.tenant,
        connection_id=connection.id,
        integration=connection.integration,
        type=type,
        payload=stored_payload,
        effect=effect,
        state=QUEUED,
        attempts=0,
        run_at=now,
        idempotency_key=idempotency_key,
        request_hash=request_hash,
        created_at=now,
    )
    session.add(row)
    session.flush()
    queue.put(session, RUN, row.id)
    return row, True


def _validate(connector: Any, type: str, payload: Mapping[str, Any]) -> str:
    try:
        connector.validated(Action(type=type, payload=dict(payload)))
    except UnknownAction as error:
        raise Invalid(
            str(error),
            code="unknown_action",
            remedy="GET /api/v1/integrations lists each integration's actions.",
            problems=[Problem("type", "unknown_action", "not an action of this integration")],
        ) from None
    except InvalidActionPayload as error:
        raise Invalid(
            f"The payload does not fit the action '{type}'.",
            code="invalid_payload",
            remedy="Correct the fields named in problems.",
            problems=[Problem(f"payload.{p.path}".rstrip("."), p.code, p.message) for p in error.problems],
        ) from None
    effect: str = connector.action_spec(type).effect
    return effect


def _stored(payload: Mapping[str, Any]) -> str:
    """The payload as it is stored: the same text for the same content. Raises Invalid."""
    try:
        json.dumps(payload, allow_nan=False, ensure_ascii=False).encode()
        return orjson.dumps(payload, option=orjson.OPT_SORT_KEYS).decode()
    except (ValueError, TypeError, RecursionError):
        raise Invalid(
            "The payload holds something that cannot be stored unchanged.",
            code="invalid_payload",
            remedy="Leave out NaN, infinities, integers beyond 64 bits, lone surrogates and deep nesting.",
            problems=[Problem("payload", "not_json", "not interoperable JSON")],
        ) from None


def get_action(session: Session, tenant: str, action_id: str) -> ActionRow:
    """Raises NotFound, for another tenant's too."""
    row = session.get(ActionRow, action_id)
    if row is None or row.tenant != tenant:
        raise NotFound("action", action_id)
    return row


def attempts_of(session: Session, action_ids: list[str]) -> dict[str, list[Attempt]]:
    """The attempts of each action, in order."""
    found: dict[str, list[Attempt]] = {action_id: [] for action_id in action_ids}
    rows = session.scalars(
        select(Attempt).where(Attempt.action_id.in_(action_ids)).order_by(Attempt.action_id, Attempt.number)
    )
    for row in rows:
        found[row.action_id].append(row)
    return found


@dataclass(frozen=True)
class OpenAttempt:
    """What a runner needs to carry out the attempt that it has opened."""

    action_id: str
    number: int
    connection_id: str
    type: str
    payload: str
    effect: str


def open_attempt(session: Session, queue: WorkQueue, action_id: str, owner: str) -> OpenAttempt | None:
    """queued -> running. None if there is nothing to do: it runs already, or has ended. One that is not due
    (perhaps because the clock was set back) gets its wake-up again, for when it is."""
    now = now_ms()
    row = session.scalars(
        update(ActionRow)
        .where(ActionRow.id == action_id, ActionRow.state == QUEUED, ActionRow.run_at <= now)
        .values(state=RUNNING, owner=owner, attempts=ActionRow.attempts + 1)
        .returning(ActionRow)
        .execution_options(synchronize_session=False)
    ).first()
    if row is None:
        queued = (ActionRow.id == action_id, ActionRow.state == QUEUED)
        due = session.scalar(select(ActionRow.run_at).where(*queued))
        if due is not None:
            queue.put(session, RUN, action_id, due)
        return None
    session.add(Attempt(action_id=row.id, number=row.attempts, owner=owner, state=OPEN, started_at=now))
    return OpenAttempt(row.id, row.attempts, row.connection_id, row.type, row.payload, row.effect)


def close_attempt(session: Session, attempt: OpenAttempt, owner: str, outcome: Outcome) -> None:
    """running -> what became of it. If the attempt was abandoned meanwhile and nothing has happened since,
    the owner's own result replaces the `unknown`."""
    now = now_ms()
    row = session.get(ActionRow, attempt.action_id)
    tried = session.get(Attempt, (attempt.action_id, attempt.number))
    if row is None or tried is None or tried.owner != owner or tried.state not in (OPEN, UNKNOWN):
        return
    tried.state, tried.sent, tried.status = outcome.state, outcome.sent, outcome.status
    tried.error_code, tried.error, tried.finished_at = outcome.error_code, outcome.error, now
    tried.retry_after_ms = None if outcome.retry_after is None else int(outcome.retry_after * 1000)
    if row.attempts == attempt.number and row.state in (RUNNING, UNKNOWN):
        _finish(session, row, outcome, now)


def _finish(session: Session, row: ActionRow, outcome: Outcome, now: int) -> None:
    row.state, row.owner, row.finished_at = outcome.state, None, now
    row.result, row.warning = outcome.result, outcome.warning
    row.error_code, row.error = outcome.error_code, outcome.error
    signal(session, finished_topic(row.id))


def abandon_attempts(session: Session, queue: WorkQueue, living: str) -> int:
    """Ends the open attempts of owners that are dead (all but `living`), by effect class; returns how many.

    Nobody knows how far a dead owner came. once and checkable: unknown. idempotent: queued again, because
    repeating it does nothing more.
    """
    orphans = list(
        session.scalars(select(ActionRow).where(ActionRow.state == RUNNING, ActionRow.owner != living))
    )
    now = now_ms()
    for row in orphans:
        lost = Outcome(
            UNKNOWN,
            sent=True,
            error_code="interrupted",
            error="The process ended while this was being tried; it may or may not have happened.",
        )
        tried = session.get(Attempt, (row.id, row.attempts))
        if tried is not None and tried.state == OPEN:
            tried.state, tried.finished_at = UNKNOWN, now
            tried.error_code, tried.error = lost.error_code, lost.error
        if row.effect == "idempotent":
            _requeue(session, queue, row)
        else:
            _finish(session, row, lost, now)
    return len(orphans)


def _requeue(session: Session, queue: WorkQueue, row: ActionRow) -> None:
    row.state, row.owner, row.run_at, row.finished_at = QUEUED, None, now_ms(), None
    row.error_code = row.error = row.result = row.warning = None
    session.flush()
    queue.put(session, RUN, row.id)


def cancel_action(session: Session, row: ActionRow) -> None:
    """queued -> cancelled. Raises Conflict for any other state."""
    if row.state != QUEUED:
        raise _wrong_state(row, "cancelled", "Only a queued action can be cancelled.")
    row.state, row.finished_at = CANCELLED, now_ms()
    signal(session, finished_topic(row.id))


def retry_action(session: Session, queue: WorkQueue, row: ActionRow) -> None:
    """failed | unknown | cancelled -> queued, because somebody decided so."""
    if row.state not in (FAILED, UNKNOWN, CANCELLED):
        raise _wrong_state(row, "retried", "Only one that failed, is unknown or was cancelled can be.")
    _requeue(session, queue, row)


def resolve_action(
    session: Session, row: ActionRow, state: Literal["succeeded", "failed"], note: str
) -> None:
    """unknown -> succeeded | failed, because somebody looked."""
    if row.state != UNKNOWN:
        raise _wrong_state(row, "resolved", "Only an unknown action needs to be resolved.")
    row.state = SUCCEEDED if state == "succeeded" else FAILED
    row.warning = f"Resolved by hand: {note}" if note else "Resolved by hand."
    if row.state == SUCCEEDED:
        row.error_code = row.error = None
    signal(session, finished_topic(row.id))


def _wrong_state(row: ActionRow, verb: str, remedy: str) -> Conflict:
    return Conflict(
        f"The action is {row.state} and cannot be {verb}.", code=f"cannot_be_{verb}", remedy=remedy
    )


def prune_actions(session: Session, before: int, limit: int) -> int:
    """Deletes up to `limit` actions that ended before that time, with their attempts. Unknown ones stay:
    somebody has to look at them."""
    old = list(
        session.scalars(
            select(ActionRow.id)
            .where(ActionRow.finished_at < before, ActionRow.state.in_((SUCCEEDED, FAILED, CANCELLED)))
            .limit(limit)
        )
    )
    session.execute(delete(Attempt).where(Attempt.action_id.in_(old)))
    session.execute(delete(ActionRow).where(ActionRow.id.in_(old)))
    return len(old)


def is_finished(row: ActionRow) -> bool:
    return row.state in FINISHED
