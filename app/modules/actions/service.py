"""Actions at rest: requesting one, and what people decide about one. Each is a unit of work.

    queued --cancel--> cancelled                    before anything can have happened; else unknown
    failed | unknown | cancelled --retry--> queued  somebody decided so
    unknown --resolve--> succeeded | failed         somebody looked

How tries begin and end is in attempts.py.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

import orjson
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.errors import Conflict, Invalid, NotFound, Problem
from app.infra.clock import LAST_MS, now_ms
from app.infra.db import signal
from app.infra.ids import new_id
from app.infra.queue import WorkQueue
from app.integrations.errors import InvalidActionPayload, UnknownAction
from app.integrations.models import Action
from app.integrations.registry import Registry
from app.modules.integrations.models import Connection

from .attempts import CANCELLED_IN_DOUBT, IDEMPOTENT, finished_topic, note_end
from .gates import RUN
from .models import CANCELLED, FAILED, FINISHED, FOR_TIME, QUEUED, SUCCEEDED, UNKNOWN, ActionRow, Attempt
from .schedule import Schedule


def create_action(
    session: Session,
    queue: WorkQueue,
    registry: Registry,
    schedule: Schedule,
    connection: Connection,
    *,
    type: str,
    payload: Mapping[str, Any],
    idempotency_key: str | None,
    run_at: int | None = None,
    deadline: int | None = None,
) -> tuple[ActionRow, bool]:
    """Stores a validated action with its wake-up; returns it and whether it is new.

    `run_at` and `deadline` are milliseconds since 1970: not before, and no try after. The same
    Idempotency-Key with the same request returns the action of the first time, in whatever state it is.
    Raises Invalid with the payload's wrong fields or for a key used with another request, Conflict for a
    connection that is off or whose connector is gone.
    """
    stored_payload = _stored(payload)
    request_hash = _hash(connection.id, type, stored_payload, run_at, deadline)
    if earlier := _earlier(session, connection.tenant, idempotency_key, request_hash):
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
    due = max(run_at or 0, now)
    row = ActionRow(
        id=new_id("act"),
        tenant=connection.tenant,
        connection_id=connection.id,
        integration=connection.integration,
        type=type,
        payload=stored_payload,
        effect=effect,
        state=QUEUED,
        waiting=FOR_TIME if due > now else None,
        attempts=0,
        schedule_start=0,
        ambiguous=False,
        run_at=due,
        deadline=_deadline(schedule, due, deadline),
        idempotency_key=idempotency_key,
        request_hash=request_hash,
        created_at=now,
    )
    if idempotency_key is None:
        session.add(row)
    elif earlier := _add_unless_there(session, row):
        return earlier, False
    queue.put(session, RUN, row.id, due if due > now else 0)
    return row, True


def _hash(connection_id: str, type: str, payload: str, run_at: int | None, deadline: int | None) -> bytes:
    parts = [connection_id, type, payload]
    if run_at is not None or deadline is not None:
        parts += [str(run_at), str(deadline)]
    return hashlib.sha256("\0".join(parts).encode()).digest()


def _earlier(session: Session, tenant: str, key: str | None, request_hash: bytes) -> ActionRow | None:
    """The action of an earlier request with this key. Raises Invalid if that was another request."""
    if key is None:
        return None
    earlier = session.scalars(
        select(ActionRow).where(ActionRow.tenant == tenant, ActionRow.idempotency_key == key)
    ).first()
    if earlier is not None and earlier.request_hash != request_hash:
        raise Invalid(
            "This Idempotency-Key was used with another request.",
            code="idempotency_key_reused",
            remedy="Use a new key for a new action.",
            problems=[Problem("Idempotency-Key", "idempotency_key_reused", "used before")],
        )
    return earlier


def _add_unless_there(session: Session, row: ActionRow) -> ActionRow | None:
    """Adds the action; returns the one with its key that came at the same time through another process."""
    assert row.request_hash is not None
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        if earlier := _earlier(session, row.tenant, row.idempotency_key, row.request_hash):
            return earlier
        raise
    return None


def _deadline(schedule: Schedule, due: int, deadline: int | None) -> int:
    if deadline is None:
        return round(min(due + schedule.lifetime * 1000, LAST_MS))
    if deadline <= due:
        raise Invalid(
            "The deadline is over before the action may begin.",
            code="deadline_passed",
            remedy="Give a deadline in the future and after run_at, or leave it out.",
            problems=[Problem("deadline", "deadline_passed", "it has to be in the future and after run_at")],
        )
    return deadline


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
    spec = connector.action_spec(type)
    # What only reads may be repeated whatever it is declared as.
    effect: str = IDEMPOTENT if spec.reads else spec.effect
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


def get_action(session: Session, tenant: str, action_id: str, *, hold: bool = False) -> ActionRow:
    """Raises NotFound, for another tenant's too. `hold` keeps others from changing it in the meantime."""
    row = session.get(ActionRow, action_id, with_for_update=hold or None)
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


def cancel_action(session: Session, row: ActionRow) -> None:
    """queued -> cancelled, or unknown if an earlier try may have had its effect. Raises Conflict for any
    other state."""
    if row.state != QUEUED:
        raise _wrong_state(row, "cancelled", "Only a queued action can be cancelled.")
    row.state, row.waiting, row.finished_at = CANCELLED, None, now_ms()
    if row.ambiguous:
        row.state = UNKNOWN
        row.warning = CANCELLED_IN_DOUBT
    note_end(session, row)


def retry_action(session: Session, queue: WorkQueue, schedule: Schedule, row: ActionRow) -> None:
    """failed | unknown | cancelled -> queued with a new schedule, because somebody decided so."""
    if row.state not in (FAILED, UNKNOWN, CANCELLED):
        raise _wrong_state(row, "retried", "Only one that failed, is unknown or was cancelled can be.")
    now = now_ms()
    row.state, row.waiting, row.run_at, row.finished_at = QUEUED, None, now, None
    row.schedule_start, row.deadline = row.attempts, _deadline(schedule, now, None)
    row.error_code = row.error = row.result = row.warning = None
    session.flush()
    queue.put(session, RUN, row.id)


def resolve_action(
    session: Session, row: ActionRow, state: Literal["succeeded", "failed"], note: str
) -> None:
    """unknown -> succeeded | failed, because somebody looked."""
    if row.state != UNKNOWN:
        raise _wrong_state(row, "resolved", "Only an unknown action needs to be resolved.")
    row.state = SUCCEEDED if state == "succeeded" else FAILED
    row.warning = f"Resolved by hand: {note}" if note else "Resolved by hand."
    row.ambiguous = False
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
