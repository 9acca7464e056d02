"""Puts the platform together and serves it."""

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import httpx2
import structlog
import uvicorn
from fastapi import FastAPI
from sqlalchemy.orm import Session

from app.config import Settings
from app.errors import StartupError
from app.infra import failpoints, metrics, tracing
from app.infra import log as logging_setup
from app.infra.crypto import decode_master_key, master_key_from_file, write_private
from app.infra.db import Database
from app.infra.migrate import upgrade
from app.infra.queue import EmbeddedQueue
from app.infra.sqlite import SqliteDatabase, lock_data_dir, writer_engine
from app.integrations.registry import Registry
from app.modules import problems
from app.modules.access.router import router as access_router
from app.modules.access.service import NewKey, first_admin_key
from app.modules.actions.router import router as actions_router
from app.modules.actions.runner import ActionRunner
from app.modules.actions.schedule import Schedule
from app.modules.events.router import router as events_router
from app.modules.integrations.directory import Directory
from app.modules.integrations.instances import Instances
from app.modules.integrations.refusals import Refusals
from app.modules.integrations.registration import Registration
from app.modules.integrations.router import router as integrations_router
from app.modules.integrations.service import Connections, connections_without_connector, sync_catalogue
from app.modules.monitoring.endpoint import MetricsEndpoint
from app.modules.polling.poller import Poller
from app.modules.polling.router import router as polling_router
from app.modules.problems import ProblemOut
from app.modules.secrets.service import DatabaseSecrets, EnvironmentSecrets, TenantKeys, has_master_key
from app.modules.webhooks.ingress import Asgi, WebhookIngress
from app.modules.webhooks.keys import FetchedKeys
from app.modules.webhooks.processor import Processor
from app.modules.webhooks.router import router as webhooks_router
from app.worker import Worker

log = structlog.get_logger()

ADMIN_KEY_FILE = "admin.key"
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
    app: Asgi
    admin_key: str | None
    """The admin key, at the first start only."""
    _lock: IO[str]

    async def close(self) -> None:
        await self.worker.stop()
        await self.instances.close()
        await self.database.close()
        self._lock.close()


async def open_platform(
    settings: Settings,
    local_url: Callable[[], str],
    registry: Registry | None = None,
    key_transport: httpx2.AsyncBaseTransport | None = None,
) -> Platform:
    """Opens the data folder and starts all work. `local_url` tells where this process listens; `registry`
    replaces the connectors that would be discovered, `key_transport` the network from which providers' public
    keys are fetched.

    Raises StartupError, in one line with what to do.
    """
    lock = lock_data_dir(settings.data_dir)
    try:
        return await _open(settings, local_url, registry, key_transport, lock)
    except BaseException:
        lock.close()
        raise


async def _open(
    settings: Settings,
    local_url: Callable[[], str],
    registry: Registry | None,
    key_transport: httpx2.AsyncBaseTransport | None,
    lock: IO[str],
) -> Platform:
    engine = writer_engine(settings.database_path)
    try:
        applied = upgrade(engine)
    finally:
        engine.dispose()
    if applied:
        log.info("schema_upgraded", revisions=applied)
    registry = registry or Registry.discover(settings.connectors_path)
    for broken in registry.broken:
        log.warning("connector_broken", source=broken.source, reason=broken.reason, remedy=broken.remedy)

    def make_admin_key(session: Session) -> NewKey | None:
        admin = first_admin_key(session)
        if admin:
            # Before the commit: a kill in between leaves a file that says nothing, not a key nobody knows.
            write_private(settings.data_dir / ADMIN_KEY_FILE, admin.key + "\n")
        return admin

    database = await SqliteDatabase.open(settings.database_path)
    try:
        encrypted = await database.read(has_master_key)
        keys = TenantKeys(load_master_key(settings, create=not encrypted))
        await database.write(keys.check)
        admin = await database.write(make_admin_key)
    except BaseException:
        await database.close()
        raise

    queue = EmbeddedQueue(database, concurrency=settings.action_concurrency)
    schedule = Schedule(settings.action_attempts, settings.action_lifetime)
    read_only = settings.secret_store == "environment"  # noqa: S105 - where they live, not what they are
    store = EnvironmentSecrets() if read_only else DatabaseSecrets(keys)
    connections = Connections(registry, store, keys, queue)
    instances = Instances(database, connections)
    refusals = Refusals()

    def base_url() -> str:
        return settings.public_url or local_url()

    def busy() -> bool:
        load = ingress.load
        return load.in_flight > 0 or time.monotonic() - load.answered_at < QUIET_SECONDS

    processor = Processor(
        database, instances, handler_timeout=settings.handler_timeout, base_url=base_url, busy=busy
    )
    api = build_api(
        settings.max_request_bytes,
        database=database,
        registry=registry,
        queue=queue,
        schedule=schedule,
        connections=connections,
        instances=instances,
        refusals=refusals,
        base_url=base_url,
    )
    metrics.show_from_the_start(list(registry.integrations))
    ingress = WebhookIngress(
        MetricsEndpoint(api, database),
        database,
        Directory(database, connections),
        refusals,
        processor,
        FetchedKeys(key_transport),
        max_body=settings.max_body_bytes,
        base_url=base_url,
    )
    worker = Worker(
        settings=settings,
        database=database,
        queue=queue,
        processor=processor,
        poller=Poller(
            database,
            registry,
            instances,
            public_url=settings.public_url,
            handler_timeout=settings.handler_timeout,
        ),
        runner=ActionRunner(
            database, registry, instances, queue, schedule=schedule, timeout=settings.action_timeout
        ),
        registration=Registration(database, connections, instances, settings.public_url),
    )
    await database.write(lambda session: sync_catalogue(session, registry))
    await database.write(connections.register_all)
    absent = await database.read(lambda session: connections_without_connector(session, registry))
    for key, count in absent.items():
        log.warning(
            "connector_missing",
            integration=key,
            connections=count,
            remedy="Its connections are unavailable. Is it broken, or is --connectors-path not set?",
        )
    await worker.start()
    return Platform(
        settings, database, registry, worker, instances, ingress, admin.key if admin else None, lock
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


def load_master_key(settings: Settings, *, create: bool) -> bytes:
    if settings.master_key is not None:
        return decode_master_key(settings.master_key.get_secret_value(), "TRUNKLINE_MASTER_KEY")
    return master_key_from_file(settings.data_dir / "master.key", create=create)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises StartupError if the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol left open, asyncio would not switch Nagle's algorithm off: 40 ms for each answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise StartupError(
            f"Cannot listen on {host}:{port} ({error.strerror}).",
            remedy="Stop what uses it, or choose another with TRUNKLINE_PORT or --port.",
        ) from None
    listener.listen(2048)
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a local client reaches the socket."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - not bound, only shown
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _spare_the_collector() -> None:
    """Has the garbage collector look at what requests leave behind, seldom, and never again at the program
    itself: full collections of everything imported are what makes acknowledgements late."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


class _Server(uvicorn.Server):
    """Stops the work together with the requests, so that both end within one `stop_timeout`."""

    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.gather(super().shutdown(sockets), self._worker.stop())


async def serve(settings: Settings, ready: Callable[[Platform, str], None]) -> None:
    """Runs until SIGINT or SIGTERM, then stops in order. `ready` is called once requests are accepted."""
    logging_setup.configure(settings.log_level, settings.log_format)
    tracing.start(os.environ)
    if armed := failpoints.arm(os.environ):
        log.warning("failpoint_armed", point=armed)
    os.umask(0o077)  # what is stored is nobody else's business
    listener = bind(settings.host, settings.port)
    url = url_of(listener)
    try:
        platform = await open_platform(settings, lambda: url)
    except BaseException:
        listener.close()
        raise
    server = _Server(
        uvicorn.Config(
            platform.app,
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            # Declared as whole seconds and used as any number of them; None would be no limit.
            timeout_graceful_shutdown=settings.stop_timeout,  # type: ignore[arg-type]
        ),
        platform.worker,
    )
    # The server hands signals on after its own stop; the default action would end the process before ours.
    # One that comes before the server listens for them itself stops it all the same.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: setattr(server, "should_exit", True))
    _spare_the_collector()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not (server.started or serving.done()):  # noqa: ASYNC110 - the server offers no event
        await asyncio.sleep(0.005)
    ready(platform, url)
    try:
        await serving
    finally:
        await platform.close()
        await tracing.stop()
