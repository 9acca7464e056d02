"""Turns stored webhooks into events, in order for each connection, many connections at a time.

    received --settle--> processed | failed        events and new state: one transaction
    answering --settle--> processed | failed       the same, while the sender waits
    answering --adopt--> received                  its node is dead

The processor keeps no state that matters: what waits is in the table. A kill at any place leaves webhooks
`received`, and the next start, or another node, finds them. Of several nodes one at a time processes a
connection's webhooks, under a lease that it keeps while there are any. A connection's next webhooks are read
and parsed while the ones before them are being settled; they are settled after them, or not at all. What
several connections have to settle is one transaction.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

import structlog

from app.errors import NotFound, StorageUnavailable
from app.infra.batches import Batches
from app.infra.db import Database
from app.infra.failpoints import failpoint
from app.infra.nodes import TOPIC as LEASES
from app.infra.nodes import Nodes
from app.infra.watchdog import Watchdog
from app.integrations.requests import Reply
from app.modules.integrations.instances import ConnectionUnusable, ConnectorMissing, Instances, Lease

from .observed import note_settled, parse_traced
from .pace import Pace
from .parse import Failure, Parsed, parse
from .service import (
    TOPIC,
    Settled,
    Waiting,
    origin_of,
    read_one,
    read_waiting,
    release_answering,
    release_orphans,
    request_of,
    settle,
    waiting_connections,
)

log = structlog.get_logger()

PORTION = 256
"""Webhooks read at a time, of all connections that are looked at together."""

PORTION_BUSY = 32
"""The same while acknowledgements are being given: settling them is as long as those may have to wait."""

SETTLED_TOGETHER = 512
"""Webhooks in one transaction."""

PORTION_BYTES = 4 * 1024 * 1024
"""Bytes of bodies read at a time. A connection has up to two portions in memory: one that is being settled,
and the next."""

MOST_BYTES = 8 * 1024 * 1024
"""Bytes of bodies in memory, of all connections together. Once there are so many, a connection still gets a
small portion, or its next webhook, however large: those with slow handlers may not keep others waiting."""

SMALL_PORTION_BYTES = 64 * 1024

LANES = 32
"""Connections processed at the same time: one slow connector does not hold the others up."""

SWEEP_SECONDS = 5.0
"""How often the table is asked for what nobody announced."""

STORAGE_PAUSE = 1.0

IDLE_SECONDS = 10.0
"""How long a connection's lease is kept when nothing comes."""

PATIENCE = 0.25
"""Seconds after which what is done of a portion is settled, while a slow handler has the rest."""


class Processor:
    """The processing of webhooks, as `run` and as inline answers."""

    def __init__(
        self,
        database: Database,
        instances: Instances,
        nodes: Nodes,
        *,
        handler_timeout: float,
        base_url: Callable[[], str],
        busy: Callable[[], bool] = lambda: False,
        works: bool = True,
    ) -> None:
        """Without `works` it answers inline, and leaves what is stored to other nodes."""
        self._database = database
        self._instances = instances
        self._nodes = nodes
        self._works = works
        self._timeout = handler_timeout
        self._base_url = base_url
        self._pace = Pace(busy)
        self._settling = Batches(self._settle_together, most=SETTLED_TOGETHER, size=len)
        self._waiting: dict[str, None] = {}
        self._stored_here: set[str] = set()
        self._idle_since: dict[str, float] = {}
        self._left: set[str] = set()
        """Connections whose connector this node does not have."""
        self._lanes: dict[str, asyncio.Task[None]] = {}
        self._held: dict[str, int] = {}
        """Bytes of bodies that each lane has in memory, or is reading."""
        self._unanswered: set[str] = set()
        self._news = asyncio.Event()
        self._sweep = True
        if works:
            database.signals.listen(TOPIC, self._look)
            database.signals.listen(LEASES, self._look)
            database.signals.listen_to_family(TOPIC, self._add)

    def stored(self, connection_id: str) -> None:
        if self._works:
            self._stored_here.add(connection_id)
            self._add(connection_id)
        else:
            self._database.tell({f"{TOPIC}:{connection_id}"})

    def _add(self, connection_id: str) -> None:
        self._waiting[connection_id] = None
        self._news.set()

    def _look(self) -> None:
        self._sweep = True
        self._news.set()

    async def start(self) -> None:
        """Call before requests are accepted: answers that a crash interrupted become ordinary work."""
        await self.adopt()

    async def adopt(self) -> None:
        """Looks after what dead nodes left."""
        await self._database.write(lambda session: release_orphans(session, self._nodes.living(session)))
        self._look()

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
                    await self._let_go()
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

    async def preview(self, webhook_id: str) -> Parsed:
        """What the connector makes of a stored webhook, whatever its state; nothing is stored.

        What its handler does elsewhere, it does. Raises NoResultFound if there is no such webhook.
        """
        row = await self._database.read(lambda session: read_one(session, webhook_id))
        try:
            async with self._instances.lease(row.connection_id) as lease:
                replies = lease.instance.reply_within is not None
                request = request_of(row, lease.integration.connector.body, self._base_url())
                with Watchdog(self._timeout) as watchdog:
                    return await parse(lease.instance, request, origin_of(row), watchdog, inline=replies)
        except (ConnectionUnusable, NotFound) as error:
            return _unusable(error)

    async def _dispatch(self) -> None:
        if unanswered := set(self._unanswered):
            await self._database.write(lambda session: release_answering(session, unanswered))
            self._unanswered -= unanswered
            self._sweep = True
        if self._sweep:
            self._sweep = False
            for connection_id in await self._database.read(waiting_connections):
                self._waiting[connection_id] = None
        portion = PORTION_BUSY if await self._pace.turn() else PORTION
        ready = await self._take()
        if not ready:
            return
        most = max(min(PORTION_BYTES, self._room()), SMALL_PORTION_BYTES)
        lanes = await self._database.read(lambda s: read_waiting(s, ready, portion, most))
        self._pace.spend(sum(map(len, lanes.values())))
        for connection_id in ready:
            rows = lanes.get(connection_id)
            if rows:
                self._held[connection_id] = _size(rows)
                task = asyncio.create_task(self._lane(connection_id, rows))
                self._lanes[connection_id] = task
                self._idle_since.pop(connection_id, None)
            elif rows is None:  # not reached this time
                self._add(connection_id)
            else:
                self._idle_since.setdefault(connection_id, time.monotonic())
        if len(self._lanes) < LANES and any(c not in self._lanes for c in self._waiting):
            self._news.set()  # those looked at had nothing, so none of them will call for the next

    async def _take(self) -> list[str]:
        """Connections to look at now: those that wait, as far as there are lanes, and this node may."""
        for connection_id in self._left.intersection(self._waiting):
            self._not_mine(connection_id)
        waiting = [c for c in self._waiting if c not in self._lanes]
        free = LANES - len(self._lanes)
        ready, crowd = waiting[:free], waiting[free:]
        if crowd and self._nodes.workers > 1:
            await self._nodes.release([_lease_of(c) for c in crowd])
        if not ready:
            return []
        granted = await self._nodes.acquire([_lease_of(c) for c in ready])
        taken = []
        for connection_id in ready:
            if _lease_of(connection_id) in granted:
                del self._waiting[connection_id]
                self._stored_here.discard(connection_id)
                taken.append(connection_id)
            else:
                self._not_mine(connection_id)
        return taken

    def _not_mine(self, connection_id: str) -> None:
        """Another node processes this connection's webhooks, and does not know of those stored here."""
        del self._waiting[connection_id]
        if connection_id in self._stored_here:
            self._stored_here.discard(connection_id)
            self._database.tell({f"{TOPIC}:{connection_id}"})

    async def _let_go(self) -> None:
        """Gives the leases of connections back for which nothing has come for a while."""
        before = time.monotonic() - IDLE_SECONDS
        idle = [c for c, since in self._idle_since.items() if since < before and c not in self._lanes]
        for connection_id in idle:
            del self._idle_since[connection_id]
        await self._nodes.release([_lease_of(c) for c in idle])

    async def _lane(self, connection_id: str, rows: list[Waiting]) -> None:
        """Processes a connection's webhooks while there are any; one portion if others want their turn."""
        try:
            async with _InOrder(self._settle) as settling:
                while rows:
                    await self._process(connection_id, rows, settling)
                    rows = await self._following(connection_id, rows)
        except StorageUnavailable:
            await asyncio.sleep(STORAGE_PAUSE)
        except Exception:
            log.exception("processing_failed", connection=connection_id)
            await asyncio.sleep(STORAGE_PAUSE)
        finally:
            del self._lanes[connection_id], self._held[connection_id]
            self._add(connection_id)  # there may be more; an empty look takes it off the list

    async def _following(self, connection_id: str, rows: list[Waiting]) -> list[Waiting]:
        """What comes after those rows, which are being settled, unless it has to wait."""
        if self._pace.busy() or len(self._lanes) >= LANES or not self._nodes.holds(_lease_of(connection_id)):
            return []
        settling, after = _size(rows), rows[-1].seq
        self._held[connection_id] = settling
        most = min(PORTION_BYTES, self._room())
        if most < SMALL_PORTION_BYTES:
            return []
        self._held[connection_id] = settling + most  # others look while it is being read
        found = await self._database.read(
            lambda s: read_waiting(s, [connection_id], PORTION, most, after)[connection_id]
        )
        self._held[connection_id] = settling + _size(found)
        return found

    def _room(self) -> int:
        """Bytes of bodies for which there is room in memory."""
        return MOST_BYTES - sum(self._held.values())

    async def _process(self, connection_id: str, rows: list[Waiting], settling: "_InOrder") -> None:
        batch: list[Settled] = []
        try:
            async with self._instances.lease(connection_id) as lease:
                began = settled_at = time.monotonic()
                with Watchdog(self._timeout) as watchdog:
                    for row in rows:
                        batch.append(_settled(row, await self._parse(lease, row, watchdog)))
                        if time.monotonic() - settled_at > PATIENCE:
                            await settling.put(batch)
                            batch, settled_at = [], time.monotonic()
                self._pace.parsed(len(rows), time.monotonic() - began)
        except (ConnectionUnusable, NotFound) as error:
            if isinstance(error, ConnectorMissing) and not self._nodes.alone:
                await self._leave(connection_id, rows[0].integration)
                return
            batch = [_settled(row, _unusable(error)) for row in rows]
        await settling.put(batch)

    async def _leave(self, connection_id: str, integration: str) -> None:
        """This node does not have the connector; others may, or its own next version."""
        self._left.add(connection_id)
        log.warning(
            "webhooks_left",
            connection=connection_id,
            integration=integration,
            remedy="This node does not have the connector. They wait for a worker that has it.",
        )
        await self._nodes.release([_lease_of(connection_id)])

    async def _settle(self, batch: Sequence[Settled]) -> None:
        """Stores what became of a connection's webhooks: together, or if that fails one by one, so that one
        which cannot be stored does not keep the others waiting for ever."""
        if not batch:
            return
        failpoint("processor.before_settle")
        try:
            await self._settling.ask(batch)
        except StorageUnavailable:
            raise
        except Exception:
            log.exception("settling_failed", webhooks=len(batch))
            for one in batch:
                await self._settle_alone(one)
        else:
            note_settled(batch)
        failpoint("processor.after_settle")

    async def _settle_together(self, batches: Sequence[Sequence[Settled]]) -> Sequence[None]:
        everything = [one for batch in batches for one in batch]
        await self._database.write(lambda session: settle(session, everything))
        return [None] * len(batches)

    async def _settle_alone(self, one: Settled) -> None:
        try:
            await self._database.write(lambda session: settle(session, [one]))
        except StorageUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, this webhook has to leave the line
            message = f"Its events could not be stored ({type(error).__name__})."
            failed = replace(one, events=(), failure=Failure("not_storable", message))
            await self._database.write(lambda session: settle(session, [failed]))
            note_settled([failed])
        else:
            note_settled([one])

    async def _parse(self, lease: Lease, row: Waiting, watchdog: Watchdog, *, inline: bool = False) -> Parsed:
        request = request_of(row, lease.integration.connector.body, self._base_url())
        return await parse_traced(lease.instance, request, origin_of(row), watchdog, inline=inline)


class _InOrder:
    """Does one thing after another, while its owner prepares the next. If one fails, none follows."""

    def __init__(self, do: Callable[[Sequence[Settled]], Awaitable[None]]) -> None:
        self._do = do
        self._doing: asyncio.Future[None] | None = None

    async def put(self, batch: Sequence[Settled]) -> None:
        """Has it done, as soon as the one before is. Raises what that one raised."""
        await self._done()
        self._doing = asyncio.ensure_future(self._do(batch))

    async def _done(self) -> None:
        doing, self._doing = self._doing, None
        if doing is not None:
            await doing

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self._done()
        elif self._doing is not None:
            self._doing.cancel()
            await asyncio.gather(self._doing, return_exceptions=True)


def _unusable(error: ConnectionUnusable | NotFound) -> Parsed:
    return Parsed(failure=Failure(error.code, f"{error.message} {error.remedy}"))


def _settled(row: Waiting, parsed: Parsed) -> Settled:
    return Settled(row.seq, parsed.events, parsed.failure, row.integration, parsed.span)


def _size(rows: Sequence[Waiting]) -> int:
    return sum(len(row.body) for row in rows)


def _lease_of(connection_id: str) -> str:
    return f"webhooks:{connection_id}"
