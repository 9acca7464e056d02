"""What the actions' routes need."""

from typing import Annotated, cast

from fastapi import Depends, Request

from app.infra.queue import WorkQueue
from app.integrations.registry import Registry


def get_queue(request: Request) -> WorkQueue:
    return cast(WorkQueue, request.app.state.queue)


def get_registry(request: Request) -> Registry:
    return cast(Registry, request.app.state.registry)


QueueDep = Annotated[WorkQueue, Depends(get_queue)]
RegistryDep = Annotated[Registry, Depends(get_registry)]
