"""The work queue on PostgreSQL: PgQueuer, for any number of workers.

A wake-up is a row of PgQueuer's table, written in the caller's transaction. PgQueuer's loop claims rows with
SKIP LOCKED and sends heartbeats for what runs: when they stop, another worker takes the row over. So a
handler may be called again while it still runs, if its event loop stood still for longer than the heartbeat.

Three things of PgQueuer are not used as they come:

- It deletes what failed or was cancelled. Here a row goes only once a handler has completed it; whatever else
  happens to it, it stays and comes again: at once, after a pause, or when its heartbeat is too old.
- Its trigger notifies from the transaction that puts. PostgreSQL has transactions that notify commit one by
  one, each with an fsync of its own, so all nodes together would accept no more actions than the disk has
  fsyncs. The trigger is disabled; nodes are told by `signal`, after the commit, and look every second anyway.
- Its log would be written three times for each wake-up and never emptied; what was done is in our own rows.
  A trigger of ours drops what it writes there.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import structlog
from pgqueuer.adapters.drivers.asyncpg import AsyncpgPoolDriver
from pgqueuer.adapters.persistence.qb import (
    QueryBuilderEnvironment,
    QueryQueueBuilder,
    QuerySchedulerBuilder,
)
from pgqueuer.adapters.persistence.queries import Queries
from pgqueuer.core.qm import QueueManager
from pgqueuer.domain.errors import RetryRequested
from pgqueuer.domain.models import Job, TableChangedEvent, TracebackRecord, utc_now
from pgqueuer.domain.settings import DBSettings, Durability
from pgqueuer.domain.types import JOB_STATUS, Channel, JobId
from pgqueuer.ports.driver import NotifyCallback
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session, SessionTransaction

from app.errors import StorageUnavailable

from .clock import now_ms
from .db import Database, Signals, signal
from .postgres import TROUBLE, Link, connect, reason_of
from .queue import LAST_WORDS, TOPIC, Handler, retry_pause

log = structlog.get_logger()

if TYPE_CHECKING:
    _Pool = asyncpg.Pool[asyncpg.Record]
else:
    _Pool = asyncpg.Pool

HEARTBEAT_SECONDS = 5.0
"""Silence after which a worker counts as dead."""
POLL = timedelta(seconds=1)
"""How often to look without being told: finds what comes back after a failure or a dead worker's silence."""
CONNECTIONS = 2

SCHEMA = DBSettings(
    # Every name, or an environment variable such as TRIGGER or CHANNEL would give it.
    prefix="",
    db_schema=None,
    channel=Channel("trunkline_work"),
    queue_table="pgqueuer",
    queue_table_log="pgqueuer_log",
    statistics_table="pgqueuer_statistics",
    schedules_table="pgqueuer_schedules",
    queue_status_type="pgqueuer_status",
    function="fn_pgqueuer_changed",
    trigger="tg_pgqueuer_changed",
    durability=Durability.durable,
    widen_id=True,
)
"""PgQueuer's own objects, as our migrations make them (from `schema_ddl.render_install`)."""

_ENQUEUE = QueryQueueBuilder(SCHEMA).build_enqueue_query()
_WAITING = "trunkline.work"

# It logs every try of everything during an outage; what is worth knowing is said here.
logging.getLogger("pgqueuer").setLevel(logging.CRITICAL)


class PgQueuerQueue:
    """`WorkQueue` over the PostgreSQL database at `url`, which has the current schema. `database` tells what
    nodes signal."""

    def __init__(
        self, database: Database, url: str, *, concurrency: int, heartbeat: float = HEARTBEAT_SECONDS
    ) -> None:
        self._signals = database.signals
        self._url = url
        self._concurrency = concurrency
        self._heartbeat = timedelta(seconds=heartbeat)
        self._turns = asyncio.Semaphore(concurrency)
        self._pool: _Pool | None = None
        self._loops: set[asyncio.Task[None]] = set()
        """PgQueuer's loops: the one that `run` is at, and earlier ones whose handlers still run."""
        self._calls: dict[JobId, asyncio.Task[bool]] = {}
        """Those that run, and those that have succeeded until that is noted: after a pause of the event loop
        PgQueuer delivers both again, and one call answers for all."""
        self._late = False

    def put(self, session: Session, kind: str, ref: str, not_before: int = 0) -> None:
        waiting = session.info.get(_WAITING)
        if waiting is None:
            waiting = session.info[_WAITING] = defaultdict(list)
            event.listen(session, "before_commit", _enqueue)
            event.listen(session, "after_soft_rollback", _forget)
        waiting[session.get_nested_transaction()].append((kind, ref, not_before))
        signal(session, TOPIC)

    async def run(self, handlers: Mapping[str, Handler]) -> None:
        """Calls handlers until cancelled. The running ones go on: see `drain`.

        Raises StorageUnavailable when PostgreSQL cannot be reached; call it again then.
        """
        self._late = False
        driver = _Driver(await self._connected(), self._signals)
        manager = QueueManager(_Queries(driver, self._noted), channel=SCHEMA.channel)
        for kind, handler in handlers.items():
            manager.entrypoint(kind, accepts_context=False)(self._entrypoint(handler))
        batch = max(1, self._concurrency // 2)  # PgQueuer wants room for two batches
        loop = asyncio.create_task(
            manager.run(
                dequeue_timeout=POLL,
                batch_size=batch,
                max_concurrent_tasks=max(self._concurrency, 2 * batch),
                heartbeat_timeout=self._heartbeat,
                log_aggregation_interval=timedelta(0),
            ),
            name="pgqueuer",
        )
        self._loops.add(loop)
        loop.add_done_callback(self._ended)
        try:
            # After a failure the loop itself ends only when the last of its handlers does.
            await asyncio.wait((loop, driver.lost), return_when=asyncio.FIRST_COMPLETED)
        finally:
            manager.shutdown.set()
        fault = driver.lost.result() if driver.lost.done() else loop.exception()
        if isinstance(fault, TROUBLE):
            words = f"The work queue cannot reach the database ({reason_of(fault)})."
            raise StorageUnavailable(words) from fault
        raise fault or RuntimeError("PgQueuer's loop ended by itself.")

    async def drain(self, timeout: float) -> None:
        """Waits for running handlers; those that take longer are cancelled. Call after `run` has ended.
        The wake-ups of cancelled ones come again, here or at another worker."""
        late = await _wait(self._loops, timeout)
        if late:
            self._late = True
            for call in self._calls.values():
                call.cancel()
            late = await _wait(late, LAST_WORDS)
        pool, self._pool = self._pool, None
        if pool is not None:
            if not late:
                with suppress(Exception):
                    async with asyncio.timeout(LAST_WORDS):
                        await pool.close()
            pool.terminate()
        # With no connection they note nothing any more: their rows come again when the heartbeat is too old.
        for loop in late:
            loop.cancel()
        await _wait(late, LAST_WORDS)

    async def _connected(self) -> _Pool:
        if self._pool is None:

            async def link(*_: Any, **__: Any) -> Link:
                # What a crash of the server makes it forget here comes again; callers wait for their puts.
                return await connect(self._url, synchronous_commit="off")

            async def as_it_is(_: Any) -> None:
                """Queries leave nothing behind on a connection that has to be reset by another one."""

            self._pool = await asyncpg.create_pool(
                min_size=0, max_size=CONNECTIONS, connect=link, reset=as_it_is
            )
        return self._pool

    def _ended(self, loop: asyncio.Task[None]) -> None:
        self._loops.discard(loop)
        if not loop.cancelled():
            loop.exception()  # `run` may be gone

    def _entrypoint(self, handler: Handler) -> Any:
        async def called(job: Job) -> None:
            call = self._calls.get(job.id)
            if call is None:
                call = self._calls[job.id] = asyncio.create_task(self._call(handler, job))
            # The handler is not this task: PgQueuer never sees it cancelled, nor what it raises.
            await asyncio.wait((call,))
            if not call.cancelled() and call.result():
                return
            self._noted(job)
            late = call.cancelled() and self._late
            raise RetryRequested(timedelta(milliseconds=0 if late else retry_pause(job.attempts + 1)))

        return called

    def _noted(self, job: Job) -> None:
        self._calls.pop(job.id, None)

    async def _call(self, handler: Handler, job: Job) -> bool:
        ref = (job.payload or b"").decode()
        async with self._turns:
            try:
                await handler(ref)
            except Exception:
                log.exception("work_failed", kind=job.entrypoint, ref=ref)
                return False
        return True


async def _wait(tasks: "set[asyncio.Task[None]]", timeout: float) -> "set[asyncio.Task[None]]":
    """Those that have not ended in time."""
    return (await asyncio.wait(tasks, timeout=timeout))[1] if tasks else set()


# In the caller's transaction. What is put waits for the commit (of its savepoint, if it has one), so that
# many wake-ups are one statement.


def _enqueue(session: Session) -> None:
    rows = session.info[_WAITING].pop(session.get_nested_transaction(), None)
    if not rows:
        return
    now = now_ms()
    delays = [timedelta(milliseconds=max(not_before - now, 0)) for _, _, not_before in rows]
    if any(delays):
        # PgQueuer adds the delay to the time at which the transaction began.
        began: timedelta = session.scalar(select(func.clock_timestamp() - func.now())) or timedelta(0)
        delays = [delay and delay + began for delay in delays]
    none = [None] * len(rows)
    values = (
        [0] * len(rows),
        [kind for kind, _, _ in rows],
        [ref.encode() for _, ref, _ in rows],
        delays,
        none,
        none,
    )
    # By SQLAlchemy's connection: the driver's own has no transaction until SQLAlchemy has executed something.
    session.connection().exec_driver_sql(_ENQUEUE, values)


def _forget(session: Session, ended: SessionTransaction) -> None:
    session.info[_WAITING].pop(ended if ended.nested else None, None)


# What PgQueuer is given.


class _Driver(AsyncpgPoolDriver):
    """Wakes PgQueuer's loop by the platform's own signals, and tells when the loop cannot go on."""

    def __init__(self, pool: _Pool, signals: Signals) -> None:
        super().__init__(pool)
        self.lost: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._signals = signals
        self._callback: NotifyCallback = lambda _: None
        self._listening: asyncio.Task[None] | None = None

    async def fetch(self, query: str, *args: object) -> list[dict[str, object]]:
        try:
            return await super().fetch(query, *args)
        except Exception as error:  # only the loop fetches, and it ends with this
            if not self.lost.done():
                self.lost.set_result(error)
            raise

    def wake(self) -> None:
        news = TableChangedEvent(
            channel=SCHEMA.channel,
            operation="insert",
            sent_at=utc_now(),
            table=SCHEMA.queue_table,
            type="table_changed_event",
        )
        self._callback(news.model_dump_json())

    async def add_listener(self, channel: str, callback: NotifyCallback) -> None:
        self._callback = callback
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        with self._signals.subscribe(TOPIC) as work:
            while True:
                await work.wait()
                self.wake()

    async def notify(self, channel: str, payload: str) -> None:
        """PgQueuer asks itself whether it is heard."""
        self._callback(payload)

    async def __aexit__(self, *_: object) -> None:
        if self._listening is not None:
            self._listening.cancel()


class _Queries(Queries):
    def __init__(self, driver: _Driver, noted: Callable[[Job], None]) -> None:
        super().__init__(
            driver, QueryBuilderEnvironment(SCHEMA), QueryQueueBuilder(SCHEMA), QuerySchedulerBuilder(SCHEMA)
        )
        self._noted = noted
        self._wake = driver.wake
        self._failing = False

    async def log_jobs(self, job_status: list[tuple[Job, JOB_STATUS, TracebackRecord | None]]) -> None:
        """Removes what is completed, and nothing else: see the module."""
        done = [entry for entry in job_status if entry[1] == "successful"]
        if not done:
            return
        try:
            await super().log_jobs(done)
        except Exception as error:
            if not self._failing:  # PgQueuer tries ten times a second
                log.warning("work_not_settled", reason=reason_of(error))
            self._failing = True
            raise
        self._failing = False
        for job, _, _ in done:
            self._noted(job)
        self._wake()  # there is room for more
