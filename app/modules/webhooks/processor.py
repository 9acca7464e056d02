"""Turns stored webhooks into events, in order for each connection, many connections at a time.

    received --settle--> processed | failed        events and new state: one transaction
    answering --settle--> processed | failed       the same, while the sender waits
    answering --start--> received                  after a crash

The processor keeps no state that matters: what waits is in the table. A kill at any place leaves webhooks
`received`, and the next start finds them. While acknowledgements are being given it works in small portions
and pauses between them, because senders time out and the backlog does not.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

import structlog

from app.errors import NotFound, StorageUnavailable
from app.infra.db import Database
from app.infra.failpoints import failpoint
from app.infra.watchdog import Watchdog
from app.integrations.requests import Reply
from app.modules.integrations.instances import ConnectionUnusable, Instances, Lease

from .observed import note_settled, parse_traced
from .parse import Failure, Parsed
from .service import (
    TOPIC,
    Settled,
    Waiting,
    origin_of,
    read_one,
    read_waiting,
    release_answering,
    request_of,
    settle,
    waiting_connections,
)

log = structlog.get_logger()

PORTION = 128
"""Webhooks of one connection in one transaction."""

PORTION_BUSY = 32
"""The same while acknowledgements are being given: it is as long as they may have to wait."""

PORTION_BYTES = 8 * 1024 * 1024
"""Bytes of bodies read at a time."""

LANES = 32
"""Connections processed at the same time: one slow connector does not hold the others up."""

SWEEP_SECONDS = 5.0
"""How often the table is asked for what nobody announced."""

YIELD_RATIO = 10.0
"""Seconds of pause per second of work while acknowledgements are being given."""

STORAGE_PAUSE = 1.0

PATIENCE = 0.25
"""Seconds after which what is done of a portion is settled, while a slow handler has the rest."""


class Processor:
    """The processing of webhooks, as `run` and as inline answers."""

    def __init__(
        self,
        database: Database,
        instances: Instances,
        *,
        handler_timeout: float,
        base_url: Callable[[], str],
        busy: Callable[[], bool] = lambda: False,
    ) -> None:
        self._database = database
        self._instances = instances
        self._timeout = handler_timeout
        self._base_url = base_url
        self._busy = busy
        self._waiting: dict[str, None] = {}
        self._lanes: dict[str, asyncio.Task[None]] = {}
        self._unanswered: set[str] = set()
        self._news = asyncio.Event()
        self._sweep = True
        database.signals.listen(TOPIC, self._look)

    def stored(self, connection_id: str) -> None:
        self._waiting[connection_id] = None
        self._news.set()

    def _look(self) -> None:
        self._sweep = True
        self._news.set()

    async def start(self) -> None:
        """Call before requests are accepted: answers that a crash interrupted become ordinary work."""
        await self._database.write(lambda session: release_answering(session, None))

    async def run(self) -> None:
        """Processes what waits until cancelled; then what is being processed is finished."""
        try:
            while True:
                self._news.clear()
                await self._dispatch()
                try:
                    async with asyncio.timeout(SWEEP_SECONDS):
                        await self._news.wait()
                except TimeoutError:
                    self._sweep = True
        finally:
            for task in list(self._lanes.values()):
                task.cancel()
            await asyncio.gather(*self._lanes.values(), return_exceptions=True)

    async def answer(self, webhook_id: str, timeout: float) -> Reply | None:
        """Processes one webhook now, for a sender that waits up to `timeout` seconds."""
        row = await self._database.read(lambda session: read_one(session, webhook_id))
        try:
            async with self._instances.lease(row.connection_id) as lease:
                with Watchdog(timeout) as watchdog:
                    parsed = await self._parse(lease, row, watchdog, inline=True)
        except (ConnectionUnusable, NotFound) as error:
            parsed = _unusable(error)
        try:
            await self._settle([_settled(row, parsed)])
        except BaseException:
            self._unanswered.add(webhook_id)
            raise
        return parsed.reply

    async def _dispatch(self) -> None:
        if unanswered := set(self._unanswered):
            await self._database.write(lambda session: release_answering(session, unanswered))
            self._unanswered -= unanswered
            self._sweep = True
        if self._sweep:
            self._sweep = False
            for connection_id in await self._database.read(waiting_connections):
                self._waiting[connection_id] = None
        ready = [c for c in self._waiting if c not in self._lanes][: LANES - len(self._lanes)]
        if not ready:
            return
        for connection_id in ready:
            del self._waiting[connection_id]
        portion = PORTION_BUSY if self._busy() else PORTION
        lanes = await self._database.read(lambda s: read_waiting(s, ready, portion, PORTION_BYTES))
        for connection_id in ready:
            rows = lanes.get(connection_id)
            if rows:
                task = asyncio.create_task(self._lane(connection_id, rows))
                self._lanes[connection_id] = task
            elif rows is None:  # not reached this time
                self.stored(connection_id)

    async def _lane(self, connection_id: str, rows: list[Waiting]) -> None:
        """Processes one portion of one connection, then lets the next in."""
        try:
            began = time.monotonic()
            await self._process(connection_id, rows)
            if self._busy():
                await asyncio.sleep((time.monotonic() - began) * YIELD_RATIO)
        except StorageUnavailable:
            await asyncio.sleep(STORAGE_PAUSE)
        except Exception:
            log.exception("processing_failed", connection=connection_id)
            await asyncio.sleep(STORAGE_PAUSE)
        finally:
            del self._lanes[connection_id]
            self.stored(connection_id)  # there may be more; an empty look takes it off the list

    async def _process(self, connection_id: str, rows: list[Waiting]) -> None:
        batch: list[Settled] = []
        settled_at = time.monotonic()
        try:
            async with self._instances.lease(connection_id) as lease:
                with Watchdog(self._timeout) as watchdog:
                    for row in rows:
                        batch.append(_settled(row, await self._parse(lease, row, watchdog)))
                        if time.monotonic() - settled_at > PATIENCE:
                            await self._settle(batch)
                            batch, settled_at = [], time.monotonic()
        except (ConnectionUnusable, NotFound) as error:
            batch = [_settled(row, _unusable(error)) for row in rows]
        await self._settle(batch)

    async def _settle(self, batch: list[Settled]) -> None:
        """Stores what became of the webhooks: together, or if that fails one by one, so that one which cannot
        be stored does not keep the others waiting for ever."""
        failpoint("processor.before_settle")
        try:
            made = await self._database.write(lambda session: settle(session, batch))
        except StorageUnavailable:
            raise
        except Exception:
            log.exception("settling_failed", webhooks=len(batch))
            for one in batch:
                await self._settle_alone(one)
        else:
            note_settled(batch, made)
        failpoint("processor.after_settle")

    async def _settle_alone(self, one: Settled) -> None:
        try:
            made = await self._database.write(lambda session: settle(session, [one]))
        except StorageUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, this webhook has to leave the line
            message = f"Its events could not be stored ({type(error).__name__})."
            failed = replace(one, events=(), failure=Failure("not_storable", message))
            await self._database.write(lambda session: settle(session, [failed]))
            note_settled([failed], 0)
        else:
            note_settled([one], made)

    async def _parse(self, lease: Lease, row: Waiting, watchdog: Watchdog, *, inline: bool = False) -> Parsed:
        request = request_of(row, lease.integration.connector.body, self._base_url())
        return await parse_traced(lease.instance, request, origin_of(row), watchdog, inline=inline)


def _unusable(error: ConnectionUnusable | NotFound) -> Parsed:
    return Parsed(failure=Failure(error.code, f"{error.message} {error.remedy}"))


def _settled(row: Waiting, parsed: Parsed) -> Settled:
    return Settled(row.seq, row.tries > 0, parsed.events, parsed.failure, row.integration, parsed.span)
