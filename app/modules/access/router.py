"""Keys and tenants."""

from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import Forbidden
from app.modules.paging import Page

from .deps import AdminDep, CallerDep, DatabaseDep
from .models import ApiKey, Tenant
from .schemas import KeyOut, KeyRequest, NewKeyOut, TenantOut
from .service import create_key, revoke_key

router = APIRouter(prefix="/api/v1", tags=["access"])


@router.get("/keys", summary="List keys")
async def list_keys(database: DatabaseDep, caller: CallerDep) -> Page[KeyOut]:
    """The tenant's keys; with an admin key, the admin keys too. Keys themselves are never shown again."""

    def unit(session: Session) -> list[KeyOut]:
        mine = ApiKey.tenant == caller.tenant
        visible = mine | ApiKey.tenant.is_(None) if caller.admin else mine
        return [KeyOut.of(row) for row in session.scalars(select(ApiKey).where(visible).order_by(ApiKey.id))]

    return Page(items=await database.read(unit), next=None)


@router.post("/keys", status_code=201, summary="Make a key")
async def make_key(body: KeyRequest, database: DatabaseDep, caller: CallerDep) -> NewKeyOut:
    """The answer holds the key; it cannot be shown again."""
    if body.scope == "admin" and not caller.admin:
        raise Forbidden("Only an admin key can make an admin key.", remedy="Leave scope out.")
    tenant = None if body.scope == "admin" else caller.tenant
    new = await database.write(lambda session: create_key(session, body.name, tenant))
    return NewKeyOut(**KeyOut.of(new.row).model_dump(), key=new.key)


@router.delete("/keys/{key_id}", status_code=204, summary="Revoke a key")
async def delete_key(key_id: str, database: DatabaseDep, caller: CallerDep) -> None:
    """The key is refused from the next request on."""
    await database.write(lambda session: revoke_key(session, caller, key_id))


@router.get("/tenants", summary="List tenants")
async def list_tenants(database: DatabaseDep, _: AdminDep) -> Page[TenantOut]:
    """Needs an admin key. A tenant is made when an admin key first names it."""

    def unit(session: Session) -> list[TenantOut]:
        rows = session.scalars(select(Tenant).order_by(Tenant.name))
        return [TenantOut(name=row.name, created_at=row.created_at) for row in rows]

    return Page(items=await database.read(unit), next=None)
