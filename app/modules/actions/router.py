"""Requesting actions and following them."""

import asyncio
import re
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.modules.access.deps import CallerDep, DatabaseDep
from app.modules.integrations.service import get_connection
from app.modules.paging import Cursor, Limit, Page

from .deps import QueueDep, RegistryDep
from .models import ActionRow
from .schemas import ActionOut, ActionRequest, ResolveRequest, State
from .service import (
    attempts_of,
    cancel_action,
    create_action,
    finished_topic,
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
    idempotency_key: Annotated[
        str | None,
        Header(min_length=1, max_length=255, description="Makes repeating this request safe"),
    ] = None,
    prefer: Annotated[
        str | None, Header(description="`wait=N`: answer when it has ended, or after N seconds (at most 60)")
    ] = None,
) -> ActionOut:
    """The action is on disk before this answers. 202 with its address, or 200 once it has ended.

    A repeated Idempotency-Key with the same body answers with the first action, in whatever state it is.
    """

    def create(session: Session) -> str:
        connection = get_connection(session, caller.tenant, connection_id)
        row, _ = create_action(
            session,
            queue,
            registry,
            connection,
            type=body.type,
            payload=body.payload,
            idempotency_key=idempotency_key,
        )
        return row.id

    action_id = await database.write(create)
    wait = _wait_seconds(prefer)

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
    response.headers["Location"] = f"/api/v1/actions/{action_id}"
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
    def unit(session: Session) -> ActionOut:
        row = get_action(session, caller.tenant, action_id)
        cancel_action(session, row)
        return ActionOut.of(row, attempts_of(session, [row.id])[row.id])

    return await database.write(unit)


@router.post("/actions/{action_id}/retry", status_code=202, summary="Try an action again")
async def retry(action_id: str, database: DatabaseDep, caller: CallerDep, queue: QueueDep) -> ActionOut:
    """For an action that failed, was cancelled or is unknown. An unknown one may then happen twice: look at
    the provider first, or resolve it."""

    def unit(session: Session) -> ActionOut:
        row = get_action(session, caller.tenant, action_id)
        retry_action(session, queue, row)
        return ActionOut.of(row, attempts_of(session, [row.id])[row.id])

    return await database.write(unit)


@router.post("/actions/{action_id}/resolve", summary="Say what became of an unknown action")
async def resolve(
    action_id: str, body: ResolveRequest, database: DatabaseDep, caller: CallerDep
) -> ActionOut:
    """For an action whose outcome is unknown, after somebody has looked at the provider."""

    def unit(session: Session) -> ActionOut:
        row = get_action(session, caller.tenant, action_id)
        resolve_action(session, row, body.state, body.note)
        return ActionOut.of(row, attempts_of(session, [row.id])[row.id])

    return await database.write(unit)


def _wait_seconds(prefer: str | None) -> float:
    found = re.search(r"\bwait=([0-9]{1,4})\b", prefer or "")
    return min(float(found[1]), MAX_WAIT) if found else 0.0
