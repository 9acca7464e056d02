"""Puts the platform together and serves it."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import httpx2
import structlog
import uvicorn
from fastapi import FastAPI

from app.config import Settings
from app.infra import collector, failpoints, tracing
from app.infra import log as logging_setup
from app.infra.db import Database
from app.infra.listener import bind, url_of
from app.infra.server import server_config
from app.integrations.registry import Registry
from app.modules import problems
from app.modules.access.callers import Callers
from app.modules.access.router import router as access_router
from app.modules.actions.router import router as actions_router
from app.modules.events.router import router as events_router
from app.modules.integrations.directory import Directory
from app.modules.integrations.instances import Instances
from app.modules.integrations.refusals import Refusals
from app.modules.integrations.router import router as integrations_router
from app.modules.monitoring.endpoint import MetricsEndpoint
from app.modules.polling.router import router as polling_router
from app.modules.problems import ProblemOut
from app.modules.webhooks.ingress import Asgi, Load, WebhookIngress
from app.modules.webhooks.keys import FetchedKeys
from app.modules.webhooks.router import router as webhooks_router
from app.worker import Core, Worker, open_core

log = structlog.get_logger()

QUIET_SECONDS = 0.05
"""How long after the last answer the webhook endpoint still counts as busy."""


@dataclass
class Platform:
    """A running platform: its parts, and the ASGI application that serves it."""

    settings: Settings
    database: Database
    registry: Registry
    worker: Worker
    instances: Instances
    refusals: Refusals
    app: Asgi
    admin_key: str | None
    """The admin key, at the first start only."""
    core: Core

    async def close(self) -> None:
        await self.core.close()


async def open_platform(
    settings: Settings,
    local_url: Callable[[], str],
    registry: Registry | None = None,
    key_transport: httpx2.AsyncBaseTransport | None = None,
) -> Platform:
    """Opens the storage and starts all work. `local_url` tells where this process listens; `registry`
    replaces the connectors that would be discovered, `key_transport` the network from which providers' public
    keys are fetched.

    Raises StartupError, in one line with what to do.
    """
    load = Load()

    def base_url() -> str:
        return settings.public_url or local_url()

    def busy() -> bool:
        return load.in_flight > 0 or time.monotonic() - load.answered_at < QUIET_SECONDS

    core = await open_core(settings, settings.role, base_url, busy=busy, registry=registry)
    try:
        refusals = Refusals()
        api = build_api(
            settings.max_request_bytes,
            database=core.database,
            callers=Callers(core.database),
            registry=core.registry,
            queue=core.queue,
            schedule=core.schedule,
            connections=core.connections,
            instances=core.instances,
            refusals=refusals,
            base_url=base_url,
        )
        ingress = WebhookIngress(
            api if settings.metrics_port is not None else MetricsEndpoint(api, core.database),
            core.database,
            Directory(core.database, core.connections, cache_seconds=core.cache_seconds),
            refusals,
            core.processor,
            FetchedKeys(key_transport),
            load=load,
            owner=lambda: core.nodes.id,
            max_body=settings.max_body_bytes,
            base_url=base_url,
        )
        if core.monitor is not None:
            core.monitor.start()
        if settings.role == "all":
            await core.worker.start()
    except BaseException:
        await core.close()
        raise
    return Platform(
        settings,
        core.database,
        core.registry,
        core.worker,
        core.instances,
        refusals,
        ingress,
        core.admin_key,
        core,
    )


def build_api(max_body_size: int | None = None, **state: Any) -> FastAPI:
    """The REST API. `state` is what its routes use; without it the API can only be described."""
    api = FastAPI(
        title="Trunkline",
        version="1",
        description="Connectors to external systems: webhooks in, events out, actions with honest outcomes.",
        redoc_url=None,
        max_body_size=max_body_size,
        responses={"default": {"model": ProblemOut, "description": "A problem, with what to do"}},
    )
    for name, value in state.items():
        setattr(api.state, name, value)
    problems.install(api)
    for router in (
        integrations_router,
        polling_router,
        webhooks_router,
        events_router,
        actions_router,
        access_router,
    ):
        api.include_router(router)

    @api.get("/healthz", tags=["operations"], summary="Is the process alive?")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @api.get("/readyz", tags=["operations"], summary="Can it store?")
    async def readyz() -> dict[str, str]:
        """200 once a write reaches the disk; 503 while it does not."""
        database: Database = api.state.database
        await database.check()
        return {"status": "ready"}

    return api


class _Server(uvicorn.Server):
    """Stops the work together with the requests, so that both end within one `stop_timeout`."""

    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.gather(super().shutdown(sockets), self._worker.stop())


async def serve(
    settings: Settings,
    ready: Callable[[Platform, str], None],
    *,
    listener: socket.socket | None = None,
    registry: Registry | None = None,
    beside: Callable[[Platform], Coroutine[Any, Any, None]] | None = None,
) -> None:
    """Runs until SIGINT or SIGTERM, then stops in order. `ready` is called once requests are accepted.

    `listener` and `registry` replace those that the settings would give; `beside` goes on until the stop.
    """
    logging_setup.configure(settings.log_level, settings.log_format)
    tracing.start(os.environ)
    if armed := failpoints.arm(os.environ):
        log.warning("failpoint_armed", point=armed)
    os.umask(0o077)  # what is stored is nobody else's business
    listener = listener or bind(settings.host, settings.port)
    url = url_of(listener)
    try:
        platform = await open_platform(settings, lambda: url, registry)
    except BaseException:
        listener.close()
        raise
    server = _Server(server_config(platform.app, settings.stop_timeout), platform.worker)
    # The server hands signals on after its own stop; the default action would end the process before ours.
    # One that comes before the server listens for them itself stops it all the same.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    collector.spare_what_is_there()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not (server.started or serving.done()):  # noqa: ASYNC110 - the server offers no event
        await asyncio.sleep(0.005)
    ready(platform, url)
    aside = [asyncio.create_task(beside(platform))] if beside else []
    try:
        await serving
    finally:
        for task in aside:
            task.cancel()
        await asyncio.gather(*aside, return_exceptions=True)
        await platform.close()
        await tracing.stop()
