"""Who is calling.

Every dependency is a coroutine function: FastAPI runs others in a thread, which costs more than the request.
"""

from typing import Annotated, cast

from fastapi import Depends, Header, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app.errors import Forbidden, Unauthenticated
from app.infra.db import Database

from .callers import Callers
from .service import TENANT_HEADER, Caller

_bearer = HTTPBearer(auto_error=False, description="An API key: `tl_...`")


async def get_database(request: Request) -> Database:
    return cast(Database, request.app.state.database)


DatabaseDep = Annotated[Database, Depends(get_database)]


async def get_callers(request: Request) -> Callers:
    return cast(Callers, request.app.state.callers)


async def get_caller(
    callers: Annotated[Callers, Depends(get_callers)],
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

    return await callers.of(credentials.credentials, tenant)


async def get_admin(caller: Annotated[Caller, Depends(get_caller)]) -> Caller:
    if not caller.admin:
        raise Forbidden("This needs an admin key.", remedy="Use an admin key.")
    return caller


CallerDep = Annotated[Caller, Depends(get_caller)]
AdminDep = Annotated[Caller, Depends(get_admin)]
