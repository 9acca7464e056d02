"""What the actions' routes need."""

from typing import Annotated, cast

from fastapi import Depends, Request

from app.infra.queue import WorkQueue
from app.integrations.registry import Registry

from .schedule import Schedule


async def get_queue(request: Request) -> WorkQueue:
    return cast(WorkQueue, request.app.state.queue)


async def get_registry(request: Request) -> Registry:
    return cast(Registry, request.app.state.registry)


async def get_schedule(request: Request) -> Schedule:
    return cast(Schedule, request.app.state.schedule)


QueueDep = Annotated[WorkQueue, Depends(get_queue)]
RegistryDep = Annotated[Registry, Depends(get_registry)]
ScheduleDep = Annotated[Schedule, Depends(get_schedule)]
