"""Who is calling."""

from typing import Annotated, cast

from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy.orm import Session

from app.errors import Forbidden, Unauthenticated
from app.infra.db import Database

from .service import TENANT_HEADER, Caller, caller_for, ensure_tenant, find_key

_bearer = HTTPBearer(auto_error=False, description="An API key: `tl_...`")


def get_database(request: Request) -> Database:
    return cast(Database, request.app.state.database)


DatabaseDep = Annotated[Database, Depends(get_database)]


async def get_caller(
    database: DatabaseDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    tenant: Annotated[
        str | None, Header(alias=TENANT_HEADER, description="Tenant to act for (admin keys only)")
    ] = None,
) -> Caller:
    if credentials is None:
        raise Unauthenticated(
            "This request carries no API key.",
            remedy="Send the header Authorization: Bearer tl_...; "
            "the first key is in admin.key in the data folder.",
        )

    def unit(session: Session) -> tuple[Caller, bool] | None:
        key = find_key(session, credentials.credentials)
        return caller_for(session, key, tenant) if key else None

    found = await database.read(unit)
    if found is None:
        raise Unauthenticated("This API key is not known.", remedy="Check the key; it may have been revoked.")
    caller, new_tenant = found
    if new_tenant:
        await database.write(lambda session: ensure_tenant(session, caller.tenant))
    return caller


async def get_admin(caller: Annotated[Caller, Depends(get_caller)]) -> Caller:
    if not caller.admin:
        raise Forbidden("This needs an admin key.", remedy="Use an admin key.")
    return caller


CallerDep = Annotated[Caller, Depends(get_caller)]
AdminDep = Annotated[Caller, Depends(get_admin)]
