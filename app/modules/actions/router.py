"""Requesting actions and following them."""

import asyncio
import re
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.infra.clock import LAST_MS, now_ms
from app.integrations.registry import Registry
from app.integrations.specs import Limits
from app.modules.access.deps import CallerDep, DatabaseDep
from app.modules.integrations.models import Connection
from app.modules.integrations.schemas import LimitsOut
from app.modules.integrations.service import get_connection
from app.modules.paging import Cursor, Limit, Page

from .attempts import finished_topic, wake_blocked
from .deps import QueueDep, RegistryDep, ScheduleDep
from .gates import end_pause, forget_turns, gate_of, limits_of, running_of, state_of, waiting
from .models import FOR_RATE, ActionRow, Gate
from .observed import note_requested, write_and_count
from .schemas import (
    ActionOut,
    ActionRequest,
    GateOut,
    LimitsRequest,
    ResolveRequest,
    State,
)
from .service import (
    attempts_of,
    cancel_action,
    create_action,
    get_action,
    is_finished,
    resolve_action,
    retry_action,
)

router = APIRouter(prefix="/api/v1", tags=["actions"])

MAX_WAIT = 60.0


@router.post(
    "/connections/{connection_id}/actions",
    status_code=202,
    summary="Request an action",
    responses={200: {"model": ActionOut, "description": "It has ended, within the time waited"}},
)
async def request_action(
    connection_id: str,
    body: ActionRequest,
    response: Response,
    database: DatabaseDep,
    caller: CallerDep,
    queue: QueueDep,
    registry: RegistryDep,
    schedule: ScheduleDep,
    idempotency_key: Annotated[
        str | None,
        Header(min_length=1, max_length=255, description="Makes repeating this request safe"),
    ] = None,
    prefer: Annotated[
        str | None, Header(description="`wait=N`: answer when it has ended, or after N seconds (at most 60)")
    ] = None,
) -> ActionOut:
    """The action is on disk before this answers. 202 with its address, or 200 once it has ended. With
    `run_at` it is scheduled for then.

    A repeated Idempotency-Key with the same body answers with the first action, in whatever state it is.
    """

    def create(session: Session) -> tuple[ActionRow, bool]:
        connection = get_connection(session, caller.tenant, connection_id)
        return create_action(
            session,
            queue,
            registry,
            schedule,
            connection,
            type=body.type,
            payload=body.payload,
            idempotency_key=idempotency_key,
            run_at=_milliseconds(body.run_at),
            deadline=_milliseconds(body.deadline),
        )

    wait = _wait_seconds(prefer)
    row, is_new = await database.write(create)
    action_id = row.id
    response.headers["Location"] = f"/api/v1/actions/{action_id}"
    if is_new:
        note_requested(action_id, row.type, row.integration, row.connection_id)
        if not wait:
            return ActionOut.of(row, [])  # as it was stored: whoever wants to know more asks for it

    def show(session: Session) -> ActionOut | None:
        row = get_action(session, caller.tenant, action_id)
        return (
            ActionOut.of(row, attempts_of(session, [row.id])[row.id])
            if is_finished(row) or not wait
            else None
        )

    shown = None
    with database.signals.subscribe(finished_topic(action_id)) as finished:
        deadline = asyncio.get_running_loop().time() + wait
        while (shown := await database.read(show)) is None:
            wait = max(deadline - asyncio.get_running_loop().time(), 0.0)
            await finished.wait(min(wait, 1.0))
    if shown.state not in ("queued", "running"):
        response.status_code = 200
    return shown


@router.get("/actions", summary="List actions")
async def list_actions(
    database: DatabaseDep,
    caller: CallerDep,
    state: Annotated[State | None, Query(description="Only in this state")] = None,
    connection: Annotated[str | None, Query(max_length=40, description="Only of this connection")] = None,
    after: Cursor = None,
    limit: Limit = 100,
) -> Page[ActionOut]:
    """Actions, the newest first."""

    def unit(session: Session) -> Page[ActionOut]:
        query = select(ActionRow).where(ActionRow.tenant == caller.tenant)
        if state is not None:
            query = query.where(ActionRow.state == state)
        if connection is not None:
            query = query.where(ActionRow.connection_id == connection)
        if after:
            query = query.where(ActionRow.id < after)
        rows = list(session.scalars(query.order_by(ActionRow.id.desc()).limit(limit + 1)))
        shown = rows[:limit]
        attempts = attempts_of(session, [row.id for row in shown])
        return Page(
            items=[ActionOut.of(row, attempts[row.id]) for row in shown],
            next=shown[-1].id if len(rows) > limit else None,
        )

    return await database.read(unit)


@router.get("/actions/{action_id}", summary="Show an action")
async def show_action(action_id: str, database: DatabaseDep, caller: CallerDep) -> ActionOut:
    def unit(session: Session) -> ActionOut:
        row = get_action(session, caller.tenant, action_id)
        return ActionOut.of(row, attempts_of(session, [row.id])[row.id])

    return await database.read(unit)


@router.post("/actions/{action_id}/cancel", summary="Cancel a queued action")
async def cancel(action_id: str, database: DatabaseDep, caller: CallerDep) -> ActionOut:
    """It is not tried (again). If an earlier try may have had its effect, it ends unknown instead of
    cancelled."""

    def unit(session: Session) -> ActionOut:
        row = get_action(session, caller.tenant, action_id, hold=True)
        cancel_action(session, row)
        return ActionOut.of(row, attempts_of(session, [row.id])[row.id])

    return await write_and_count(database, unit)


@router.post("/actions/{action_id}/retry", status_code=202, summary="Try an action again")
async def retry(
    action_id: str, database: DatabaseDep, caller: CallerDep, queue: QueueDep, schedule: ScheduleDep
) -> ActionOut:
    """For an action that failed, was cancelled or is unknown. An unknown one may then happen twice: look at
    the provider first, or resolve it."""

    def unit(session: Session) -> ActionOut:
        row = get_action(session, caller.tenant, action_id, hold=True)
        retry_action(session, queue, schedule, row)
        return ActionOut.of(row, attempts_of(session, [row.id])[row.id])

    return await database.write(unit)


@router.post("/actions/{action_id}/resolve", summary="Say what became of an unknown action")
async def resolve(
    action_id: str, body: ResolveRequest, database: DatabaseDep, caller: CallerDep
) -> ActionOut:
    """For an action whose outcome is unknown, after somebody has looked at the provider."""

    def unit(session: Session) -> ActionOut:
        row = get_action(session, caller.tenant, action_id, hold=True)
        resolve_action(session, row, body.state, body.note)
        return ActionOut.of(row, attempts_of(session, [row.id])[row.id])

    return await database.write(unit)


@router.get("/connections/{connection_id}/limits", summary="See how fast actions go")
async def show_limits(
    connection_id: str, database: DatabaseDep, caller: CallerDep, registry: RegistryDep
) -> GateOut:
    """The limits in force, and whether the connection is paused because its provider is down or asked for
    it."""

    def unit(session: Session) -> GateOut:
        connection = get_connection(session, caller.tenant, connection_id)
        return _gate_out(session, registry, connection, session.get(Gate, connection_id))

    return await database.read(unit)


@router.put("/connections/{connection_id}/limits", summary="Set how fast actions go")
async def set_limits(
    connection_id: str,
    body: LimitsRequest,
    database: DatabaseDep,
    caller: CallerDep,
    queue: QueueDep,
    registry: RegistryDep,
) -> GateOut:
    """Limits of the connection's own, instead of what its connector declares."""

    def unit(session: Session) -> GateOut:
        connection = get_connection(session, caller.tenant, connection_id)
        gate = gate_of(session, connection_id)
        gate.own, gate.concurrency, gate.rate, gate.per = True, body.concurrency, body.rate, body.per
        forget_turns(session, gate, FOR_RATE)
        wake_blocked(session, queue, registry)
        return _gate_out(session, registry, connection, gate)

    return await database.write(unit)


@router.delete("/connections/{connection_id}/limits", summary="Go back to the connector's limits")
async def reset_limits(
    connection_id: str, database: DatabaseDep, caller: CallerDep, queue: QueueDep, registry: RegistryDep
) -> GateOut:
    """Back to what the connector declares."""

    def unit(session: Session) -> GateOut:
        connection = get_connection(session, caller.tenant, connection_id)
        gate = gate_of(session, connection_id)
        gate.own, gate.concurrency, gate.rate, gate.per = False, None, None, None
        forget_turns(session, gate, FOR_RATE)
        wake_blocked(session, queue, registry)
        return _gate_out(session, registry, connection, gate)

    return await database.write(unit)


@router.post("/connections/{connection_id}/resume", summary="End a connection's pause")
async def resume(
    connection_id: str, database: DatabaseDep, caller: CallerDep, queue: QueueDep, registry: RegistryDep
) -> GateOut:
    """For a connection that is paused although its provider is back: what waits is tried now."""

    def unit(session: Session) -> GateOut:
        connection = get_connection(session, caller.tenant, connection_id)
        gate = gate_of(session, connection_id)
        end_pause(session, gate)
        wake_blocked(session, queue, registry)
        return _gate_out(session, registry, connection, gate)

    return await database.write(unit)


def _gate_out(session: Session, registry: Registry, connection: Connection, gate: Gate | None) -> GateOut:
    known = registry.integrations.get(connection.integration)
    declared = known.connector.limits if known else Limits()
    now = now_ms()
    paused = gate is not None and gate.paused_until > now
    return GateOut(
        state=state_of(gate, now),
        reason=gate.pause_code if gate and state_of(gate, now) != "open" else None,
        paused_until=gate.paused_until if gate and paused else None,
        outages=gate.outages if gate else 0,
        running=running_of(session, [connection.id])[connection.id],
        queued=waiting(session, connection.id),
        limits=LimitsOut.of(limits_of(gate, declared)),
        declared=LimitsOut.of(declared),
    )


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else min(round(moment.timestamp() * 1000), LAST_MS)


def _wait_seconds(prefer: str | None) -> float:
    found = re.search(r"\bwait=([0-9]{1,4})\b", prefer or "")
    return min(float(found[1]), MAX_WAIT) if found else 0.0
