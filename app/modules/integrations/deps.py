"""What the routes of integrations and connections need."""

from typing import Annotated, cast

from fastapi import Depends, Request

from .instances import Instances
from .refusals import Refusals
from .service import Connections


async def get_connections(request: Request) -> Connections:
    return cast(Connections, request.app.state.connections)


async def get_instances(request: Request) -> Instances:
    return cast(Instances, request.app.state.instances)


async def get_refusals(request: Request) -> Refusals:
    return cast(Refusals, request.app.state.refusals)


async def get_base_url(request: Request) -> str:
    """Where providers reach this platform, or where it listens."""
    return cast(str, request.app.state.base_url())


ConnectionsDep = Annotated[Connections, Depends(get_connections)]
InstancesDep = Annotated[Instances, Depends(get_instances)]
RefusalsDep = Annotated[Refusals, Depends(get_refusals)]
BaseUrlDep = Annotated[str, Depends(get_base_url)]
