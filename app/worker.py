"""The work that goes on beside requests (processing, polling, actions, registration, retention), and the
process that does only that."""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import IO

import structlog
from sqlalchemy.orm import Session

from app.config import Settings
from app.errors import StartupError, StorageUnavailable
from app.infra import collector, metrics, tracing
from app.infra import log as logging_setup
from app.infra.clock import DAY_MS, now_ms
from app.infra.crypto import decode_master_key, master_key_from_file, write_private
from app.infra.db import Database
from app.infra.listener import bind
from app.infra.migrate import prepare_postgres, upgrade
from app.infra.nodes import TOPIC as LEASES
from app.infra.nodes import Fleet, Nodes, SoleNode
from app.infra.queue import EmbeddedQueue, WorkQueue
from app.infra.server import SideServer
from app.infra.sqlite import SqliteDatabase, lock_data_dir, make_data_dir, writer_engine
from app.integrations.registry import Registry
from app.modules.access.service import NewKey, first_admin_key
from app.modules.actions.gates import RUN
from app.modules.actions.runner import ActionRunner
from app.modules.actions.schedule import Schedule
from app.modules.actions.service import prune_actions
from app.modules.events.service import prune_events, prune_identities
from app.modules.integrations.instances import Instances
from app.modules.integrations.registration import Registration
from app.modules.integrations.service import (
    REGISTER,
    REMOVE,
    Connections,
    connections_without_connector,
    sync_catalogue,
)
from app.modules.monitoring.apart import monitoring
from app.modules.polling.poller import Poller
from app.modules.secrets.service import DatabaseSecrets, EnvironmentSecrets, TenantKeys, has_master_key
from app.modules.webhooks.processor import Processor
from app.modules.webhooks.service import prune_webhooks

log = structlog.get_logger()

ADMIN_KEY_FILE = "admin.key"

RESTART_PAUSE = 1.0
LOOPS_STOP_SECONDS = 1.0
PRUNE_EVERY = 600.0
PRUNE_BATCH = 500
PRUNE_PAUSE = 0.05
RETENTION = "retention"
ORPHANS = "orphans"
"""Leases: one node deletes what is old, one looks after what dead nodes left."""

CACHE_SECONDS = 5.0
"""How long a node believes what it has read about a connection if no change is announced: on a database that
others write too, an announcement can be lost with the node that made it."""

Prune = Callable[[Session, int, int], int]


@dataclass
class Core:
    """What every process of the platform is made of, whatever it serves."""

    settings: Settings
    database: Database
    nodes: Nodes
    registry: Registry
    queue: WorkQueue
    schedule: Schedule
    connections: Connections
    instances: Instances
    processor: Processor
    worker: "Worker"
    admin_key: str | None
    """The admin key, for the process that made it."""
    cache_seconds: float | None
    monitor: SideServer | None
    """What shows how the process is, if that has a port of its own; to be started."""
    _lock: IO[str] | None

    async def close(self) -> None:
        await self.worker.stop()
        if self.monitor is not None:
            await self.monitor.close()
        await self.instances.close()
        await self.nodes.close()
        await self.database.close()
        if self._lock is not None:
            self._lock.close()


async def open_core(
    settings: Settings,
    role: str,
    base_url: Callable[[], str],
    *,
    busy: Callable[[], bool] = lambda: False,
    registry: Registry | None = None,
) -> Core:
    """Opens the storage and makes the parts; nothing works yet. `role` is all, api or worker.

    Raises StartupError, in one line with what to do.
    """
    if settings.database_url is None and role != "all":
        raise StartupError(
            "Several processes need a database that they can share.",
            remedy="Set TRUNKLINE_DATABASE_URL to a PostgreSQL database, or run `trunkline serve` alone.",
        )
    lock: IO[str] | None = None
    if settings.database_url is None:
        lock = lock_data_dir(settings.data_dir)
    else:
        make_data_dir(settings.data_dir)
    database: Database | None = None
    nodes: Nodes | None = None
    listener: socket.socket | None = None
    try:
        if settings.metrics_port is not None:
            listener = bind(settings.host, settings.metrics_port, "metrics_port")
        database = await _open_database(settings)
        registry = registry or Registry.discover(settings.connectors_path)
        for broken in registry.broken:
            log.warning("connector_broken", source=broken.source, reason=broken.reason, remedy=broken.remedy)
        keys, admin = await _open_keys(settings, database)
        nodes = await _join(settings, database, role)
        return await _put_together(
            settings,
            database,
            nodes,
            registry,
            keys,
            admin,
            SideServer(monitoring(database), listener) if listener is not None else None,
            lock,
            role=role,
            base_url=base_url,
            busy=busy,
        )
    except BaseException as error:
        if listener is not None:
            listener.close()
        if nodes is not None:
            await nodes.close()
        if database is not None:
            await database.close()
        if lock is not None:
            lock.close()
        if isinstance(error, StorageUnavailable):  # whose remedy is for those who send requests
            raise StartupError(
                error.message,
                remedy="See that the database can be written and that a node gets all of its connections; "
                "then start it again.",
            ) from error
        raise


async def _open_database(settings: Settings) -> Database:
    if settings.database_url is None:
        engine = writer_engine(settings.database_path)
        try:
            applied = upgrade(engine)
        finally:
            engine.dispose()
        database: Database = await SqliteDatabase.open(settings.database_path)
    else:
        # Imported when needed: it takes a tenth of the time in which a start should be ready.
        from app.infra.postgres import PostgresDatabase

        url = settings.database_url.get_secret_value()
        applied = await prepare_postgres(url, allow_superuser=settings.allow_superuser)
        database = await PostgresDatabase.open(url)
    if applied:
        log.info("schema_upgraded", revisions=applied)
    return database


async def _join(settings: Settings, database: Database, role: str) -> Nodes:
    if isinstance(database, SqliteDatabase):
        return SoleNode()
    from app.infra.postgres import PostgresDatabase

    assert isinstance(database, PostgresDatabase)
    return await Fleet.join(database, role, settings.node_timeout)


async def _open_keys(settings: Settings, database: Database) -> tuple[TenantKeys, NewKey | None]:
    def make_admin_key(session: Session) -> NewKey | None:
        admin = first_admin_key(session)
        if admin:
            # Before the commit: a kill in between leaves a file that says nothing, not a key nobody knows.
            write_private(settings.data_dir / ADMIN_KEY_FILE, admin.key + "\n")
        return admin

    encrypted = await database.read(has_master_key)
    keys = TenantKeys(load_master_key(settings, create=not encrypted))
    await database.write(keys.check)
    return keys, await database.write(make_admin_key)


async def _put_together(
    settings: Settings,
    database: Database,
    nodes: Nodes,
    registry: Registry,
    keys: TenantKeys,
    admin: NewKey | None,
    monitor: SideServer | None,
    lock: IO[str] | None,
    *,
    role: str,
    base_url: Callable[[], str],
    busy: Callable[[], bool],
) -> Core:
    queue = _queue(settings, database)
    schedule = Schedule(settings.action_attempts, settings.action_lifetime)
    read_only = settings.secret_store == "environment"  # noqa: S105 - where they live, not what they are
    store = EnvironmentSecrets() if read_only else DatabaseSecrets(keys)
    connections = Connections(registry, store, keys, queue)
    cache_seconds = None if settings.database_url is None else CACHE_SECONDS
    instances = Instances(database, connections, cache_seconds=cache_seconds)
    processor = Processor(
        database,
        instances,
        nodes,
        handler_timeout=settings.handler_timeout,
        base_url=base_url,
        busy=busy,
        works=role != "api",
    )
    worker = Worker(
        settings=settings,
        database=database,
        nodes=nodes,
        queue=queue,
        processor=processor,
        poller=Poller(
            database,
            registry,
            instances,
            nodes,
            public_url=settings.public_url,
            handler_timeout=settings.handler_timeout,
        ),
        runner=ActionRunner(
            database, registry, instances, queue, nodes, schedule=schedule, timeout=settings.action_timeout
        ),
        registration=Registration(database, connections, instances, nodes, settings.public_url),
    )
    metrics.show_from_the_start(list(registry.integrations))
    await database.write(lambda session: sync_catalogue(session, registry))
    if role != "api":
        await database.write(connections.register_all)
    absent = await database.read(lambda session: connections_without_connector(session, registry))
    for key, count in absent.items():
        log.warning(
            "connector_missing",
            integration=key,
            connections=count,
            remedy="Its connections are unavailable. Is it broken, or is --connectors-path not set?",
        )
    return Core(
        settings,
        database,
        nodes,
        registry,
        queue,
        schedule,
        connections,
        instances,
        processor,
        worker,
        admin.key if admin else None,
        cache_seconds,
        monitor,
        lock,
    )


def _queue(settings: Settings, database: Database) -> WorkQueue:
    if settings.database_url is None:
        return EmbeddedQueue(database, concurrency=settings.action_concurrency)
    from app.infra.pgqueue import PgQueuerQueue

    return PgQueuerQueue(
        database,
        settings.database_url.get_secret_value(),
        concurrency=settings.action_concurrency,
        heartbeat=settings.node_timeout / 2,
    )


def load_master_key(settings: Settings, *, create: bool) -> bytes:
    """The master key; on SQLite the first start makes it. Raises StartupError."""
    if settings.master_key is not None:
        return decode_master_key(settings.master_key.get_secret_value(), "TRUNKLINE_MASTER_KEY")
    path = settings.data_dir / "master.key"
    if settings.database_url is not None and create and not path.exists():
        # Made here, it would be one that the other nodes do not have.
        raise StartupError(
            "There is no master key, and all nodes need the same.",
            remedy="Make one with `openssl rand -base64 32` and give it to every node, "
            f"as TRUNKLINE_MASTER_KEY or as the file {path}.",
        )
    return master_key_from_file(path, create=create)


@dataclass
class Worker:
    """Everything that runs in the background of one process."""

    settings: Settings
    database: Database
    nodes: Nodes
    queue: WorkQueue
    processor: Processor
    poller: Poller
    runner: ActionRunner
    registration: Registration
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Takes over what a dead process left, then starts all loops."""
        await self.processor.start()
        if self.alone:
            await self.runner.start()
        handlers = {
            RUN: self.runner.run,
            REGISTER: self.registration.register,
            REMOVE: self.registration.remove,
        }
        for name, loop in (
            ("processor", self.processor.run),
            ("poller", self.poller.run),
            ("actions", self.runner.sweep),
            ("queue", lambda: self.queue.run(handlers)),
            ("retention", self._prune_forever),
            ("orphans", self._adopt_forever),
        ):
            self._tasks.append(asyncio.create_task(_keep_running(name, loop), name=name))

    @property
    def alone(self) -> bool:
        """Whether no other process can be at work on the database."""
        return isinstance(self.nodes, SoleNode)

    async def stop(self) -> None:
        """Stops taking work up, and gives what is running `stop_timeout` seconds to end."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:  # a connector that swallows its cancellation is left behind
            await asyncio.wait(tasks, timeout=max(self.settings.stop_timeout, LOOPS_STOP_SECONDS))
        await self.queue.drain(self.settings.stop_timeout)

    async def _adopt_forever(self) -> None:
        """Sees to what dead nodes left, whenever leases came free and now and then."""
        with self.database.signals.subscribe(LEASES) as changes:
            while True:
                await changes.wait(None if self.alone else self.settings.node_timeout)
                if not self.alone and await self.nodes.acquire([ORPHANS]):
                    await self.processor.adopt()
                    await self.runner.adopt()

    async def _prune_forever(self) -> None:
        while True:
            if await self.nodes.acquire([RETENTION]):
                await self.prune()
            await asyncio.sleep(PRUNE_EVERY)

    async def prune(self) -> int:
        """Deletes what is older than the retention, in small batches; returns how much that was."""
        settings, now = self.settings, now_ms()
        plan: list[tuple[str, Prune, int]] = [
            ("webhooks", prune_webhooks, settings.retention_days),
            ("events", prune_events, settings.retention_days),
            ("identities", prune_identities, settings.dedupe_days),
            ("actions", prune_actions, settings.attempt_retention_days),
        ]
        total = 0
        for name, prune, days in plan:
            before = now - days * DAY_MS
            deleted = 0
            while count := await self.database.write(lambda s, p=prune, b=before: p(s, b, PRUNE_BATCH)):  # type: ignore[misc]
                deleted += count
                await asyncio.sleep(PRUNE_PAUSE)
            if deleted:
                log.info("pruned", what=name, count=deleted)
            total += deleted
        return total


async def _keep_running(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """Starts a loop anew when it fails: the rows are the truth, so nothing is lost by that."""
    while True:
        try:
            await loop()
        except StorageUnavailable as error:
            log.warning("storage_unavailable", loop=name, reason=error.message)
        except Exception:
            log.exception("loop_failed", loop=name)
        await asyncio.sleep(RESTART_PAUSE)


async def work(settings: Settings, ready: Callable[[Core], None]) -> None:
    """Runs a worker until SIGINT or SIGTERM. `ready` is called once it works."""
    logging_setup.configure(settings.log_level, settings.log_format)
    tracing.start(os.environ)
    os.umask(0o077)  # what is stored is nobody else's business
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    core = await open_core(
        settings, "worker", lambda: settings.public_url or f"http://{settings.host}:{settings.port}"
    )
    try:
        if core.monitor is not None:
            core.monitor.start()
        await core.worker.start()
        collector.spare_what_is_there()
        ready(core)
        await stop.wait()
    finally:
        await core.close()
        await tracing.stop()
