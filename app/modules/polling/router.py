"""How a connection's polls are doing."""

from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.modules.access.deps import CallerDep, DatabaseDep
from app.modules.integrations.service import get_connection
from app.modules.paging import Page

from .models import PollState
from .schemas import PollOut

router = APIRouter(prefix="/api/v1", tags=["integrations"])


@router.get("/connections/{connection_id}/polls", summary="See how polling goes")
async def list_polls(connection_id: str, database: DatabaseDep, caller: CallerDep) -> Page[PollOut]:
    """The connection's polls that have run: when they last succeeded, and what keeps them from it."""

    def unit(session: Session) -> list[PollOut]:
        get_connection(session, caller.tenant, connection_id)
        rows = session.scalars(
            select(PollState).where(PollState.connection_id == connection_id).order_by(PollState.name)
        )
        return [PollOut.of(row) for row in rows]

    return Page(items=await database.read(unit), next=None)
