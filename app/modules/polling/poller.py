"""Asks the sources that do not tell.

One task for each poll of each connection. A poll's items, the events made of them and the new cursor are one
transaction: a kill before it repeats the poll with the old cursor, a kill after it goes on with the new one,
and what a repeated poll brings again is recognised by the events' deduplication.

Of several nodes one polls a connection, under a lease, and each has its share of the connections. A node that
was frozen in a poll and lost its lease stores nothing of it: the cursor moves only from where the poll began.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import orjson
import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import NotFound, StorageUnavailable, TrunklineError
from app.infra import metrics
from app.infra.clock import now_ms
from app.infra.db import Database, Subscription, insert_if_absent
from app.infra.failpoints import failpoint
from app.infra.ids import new_id
from app.infra.nodes import TOPIC as LEASES
from app.infra.nodes import Nodes
from app.infra.place import kind_and_place
from app.infra.watchdog import Watchdog
from app.integrations.base import call
from app.integrations.bodies import JsonObject
from app.integrations.errors import ProviderError
from app.integrations.registry import Registry
from app.integrations.requests import Headers, WebhookRequest
from app.integrations.specs import PollSpec
from app.modules.integrations.instances import Instances, Lease
from app.modules.integrations.models import Connection
from app.modules.integrations.service import CHANGED
from app.modules.webhooks.models import POLL, RECEIVED, Webhook
from app.modules.webhooks.observed import note_settled, parse_traced
from app.modules.webhooks.parse import Origin, Parsed
from app.modules.webhooks.service import Settled, settle

from .models import PollState

log = structlog.get_logger()

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 300.0
"""Seconds between polls that fail: doubling, with jitter, up to here."""
ADJUST_SECONDS = 30.0
LEAVE_SECONDS = 1.0
"""How long a poll that goes to another node gets to end."""
METHOD = "POLL"


@dataclass(frozen=True)
class PollKey:
    """One poll of one connection."""

    connection_id: str
    name: str
    integration: str = field(default="", compare=False)


class Overtaken(Exception):
    """Another node has polled meanwhile: what this poll brought is not stored."""


class Poller:
    """Runs the polls of all enabled connections and follows their changes."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        instances: Instances,
        nodes: Nodes,
        *,
        public_url: str | None,
        handler_timeout: float,
    ) -> None:
        self._database = database
        self._registry = registry
        self._instances = instances
        self._nodes = nodes
        self._public_url = public_url
        self._timeout = handler_timeout
        self._tasks: dict[PollKey, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Polls until cancelled."""
        try:
            with self._database.signals.subscribe(CHANGED, LEASES) as changes:
                while True:
                    await self._adjust()
                    await changes.wait(ADJUST_SECONDS)
        finally:
            tasks, self._tasks = list(self._tasks.values()), {}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _adjust(self) -> None:
        """Starts the polls that should run and do not, and stops the others.

        A poll that waits in an error pause starts anew when its connection changes, so that a corrected
        secret works at once.
        """
        polling = [key for key, known in self._registry.integrations.items() if known.connector.polls]
        wanted = {}
        for row in await self._database.read(lambda session: _enabled(session, polling)):
            for spec in self._registry.integrations[row.integration].connector.polls:
                wanted[PollKey(row.id, spec.name, row.integration)] = (spec, row)
        mine = await self._share({key.connection_id for key in wanted})
        wanted = {key: found for key, found in wanted.items() if key.connection_id in mine}
        for key in [key for key in self._tasks if key not in wanted or self._tasks[key].done()]:
            self._tasks.pop(key).cancel()
        for key, (spec, _) in wanted.items():
            if key not in self._tasks:
                self._tasks[key] = asyncio.create_task(self._poll_forever(key, spec))

    async def _share(self, connections: set[str]) -> set[str]:
        """The connections that this node polls: its share of them, those that it has first."""
        held = [c for c in sorted(connections) if self._nodes.holds(_lease_of(c))]
        gone = {key.connection_id for key in self._tasks} - connections
        share = -(-len(connections) // self._nodes.workers)
        surplus = held[share:]
        if leaving := gone | set(surplus):
            for key in [key for key in self._tasks if key.connection_id in leaving]:
                task = self._tasks.pop(key)
                task.cancel()
                await asyncio.wait([task], timeout=LEAVE_SECONDS)
            await self._nodes.release([_lease_of(c) for c in leaving])
            if surplus:
                self._database.tell({LEASES})
        held = held[:share]
        free = [c for c in sorted(connections) if c not in held and c not in leaving]
        names = {_lease_of(c): c for c in [*held, *free]}
        candidates = list(names)
        granted: set[str] = set()
        while candidates and len(granted) < share:  # others may have been quicker with some
            asked = candidates[: share - len(granted)]
            candidates = candidates[len(asked) :]
            granted |= await self._nodes.acquire(asked)
        return {names[name] for name in granted}

    async def _poll_forever(self, key: PollKey, spec: PollSpec) -> None:
        failures = 0
        with self._database.signals.subscribe(CHANGED) as changes:
            while True:
                try:
                    async with self._instances.lease(key.connection_id) as lease:
                        if not lease.instance.poll_enabled(spec, self._public_url):
                            await changes.wait()
                            continue
                        found = await self._poll(key, spec, lease)
                    failures, pause = 0, 0.0 if found else spec.every
                except NotFound:
                    return
                except Overtaken:
                    log.warning("poll_overtaken", connection=key.connection_id, poll=key.name)
                    pause = FIRST_PAUSE
                except Exception as error:  # noqa: BLE001 - an edge: one source's fault stops no other
                    failures += 1
                    pause = await self._failed(key, error, failures)
                if pause:
                    await self._rest(key, pause, changes)

    async def _rest(self, key: PollKey, pause: float, changes: Subscription) -> None:
        """Waits, until the pause is over or this connection (not another one) has changed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + pause
        before = await self._updated_at(key)
        while (left := until - loop.time()) > 0 and await changes.wait(left):
            if await self._updated_at(key) != before:
                return

    async def _updated_at(self, key: PollKey) -> int | None:
        row = await self._database.read(lambda session: session.get(Connection, key.connection_id))
        return row.updated_at if row else None

    async def _poll(self, key: PollKey, spec: PollSpec, lease: Lease) -> bool:
        """One poll; whether it brought anything."""
        state = await self._database.read(
            lambda session: session.get(PollState, (key.connection_id, key.name))
        )
        cursor = state.cursor if state else None
        polled_at = state.polled_at if state else None
        method = getattr(lease.instance, spec.handler)
        async with asyncio.timeout(spec.deadline):
            items, following = await call(method, cursor)
        received_at = now_ms()
        bodies = [orjson.dumps(item) for item in items]
        with Watchdog(self._timeout) as watchdog:
            polled = [await self._parse(lease, body, received_at, watchdog) for body in bodies]
        before = _Before(cursor, polled_at)
        failpoint("poll.before_store")
        batch = await self._database.write(_store(key, lease.integration.key, polled, before, following))
        note_settled(batch)
        failpoint("poll.after_store")
        return bool(items)

    async def _parse(self, lease: Lease, body: bytes, received_at: int, watchdog: Watchdog) -> "_Polled":
        request = WebhookRequest(METHOD, "", Headers(), body, JsonObject())
        origin = Origin(new_id("whk"), lease.tenant, lease.connection_id, received_at)
        return _Polled(
            origin, body, await parse_traced(lease.instance, request, origin, watchdog, polled=True)
        )

    async def _failed(self, key: PollKey, error: Exception, failures: int) -> float:
        pause: float = min(FIRST_PAUSE * 2 ** min(failures - 1, 20), LONGEST_PAUSE)
        pause *= random.uniform(0.75, 1.25)  # noqa: S311 - so that many connections do not ask in step
        if isinstance(error, ProviderError):
            code, message = error.code, str(error)
            pause = max(pause, error.retry_after or 0.0)
        elif isinstance(error, TrunklineError):
            code, message = error.code, f"{error.message} {error.remedy}"
        elif isinstance(error, TimeoutError):
            code, message = "poll_timeout", "The poll took longer than its deadline."
        else:
            code, message = "connector_error", f"The connector failed with {kind_and_place(error)}."
        metrics.POLLS_FAILED(key.integration, metrics.code_label(code)).inc()
        log.warning("poll_failed", connection=key.connection_id, poll=key.name, code=code, failures=failures)
        try:
            await self._database.write(_note_failure(key, code, message, failures))
        except StorageUnavailable:
            log.warning("poll_failure_not_stored", connection=key.connection_id)
        return pause


def _enabled(session: Session, integrations: list[str]) -> list[Connection]:
    return list(
        session.scalars(
            select(Connection).where(
                Connection.enabled, Connection.deleted_at.is_(None), Connection.integration.in_(integrations)
            )
        )
    )


def _state(session: Session, key: PollKey) -> PollState:
    """The poll's row, which is made if need be, and nobody else's until the commit."""
    insert_if_absent(session, PollState, connection_id=key.connection_id, name=key.name, failures=0)
    return session.get_one(PollState, (key.connection_id, key.name), with_for_update=True)


@dataclass(frozen=True)
class _Polled:
    """An item, and what the connector made of it."""

    origin: Origin
    body: bytes
    parsed: Parsed


@dataclass(frozen=True)
class _Before:
    """Where a poll began."""

    cursor: str | None
    polled_at: int | None


def _store(
    key: PollKey, integration: str, polled: list[_Polled], before: _Before, cursor: str | None
) -> Callable[[Session], list[Settled]]:
    """Items, events and cursor in one transaction; what became of the items. Raises Overtaken."""

    def unit(session: Session) -> list[Settled]:
        state = _state(session, key)
        if (state.cursor, state.polled_at) != (before.cursor, before.polled_at):
            raise Overtaken
        # Never the same again, so that a poll which moves no cursor can be overtaken too.
        state.polled_at = max(now_ms(), (before.polled_at or 0) + 1)
        state.cursor, state.failures = cursor, 0
        state.error_code = state.error = None
        rows = [_row(integration, one) for one in polled]
        session.add_all(rows)
        session.flush()
        batch = [
            Settled(row.seq, one.parsed.events, one.parsed.failure, integration, one.parsed.span)
            for row, one in zip(rows, polled, strict=True)
        ]
        settle(session, batch)
        return batch

    return unit


def _row(integration: str, polled: _Polled) -> Webhook:
    origin = polled.origin
    return Webhook(
        id=origin.webhook_id,
        tenant=origin.tenant,
        connection_id=origin.connection_id,
        integration=integration,
        source=POLL,
        method=METHOD,
        query="",
        headers="[]",
        body=polled.body,
        received_at=origin.received_at,
        state=RECEIVED,
        tries=0,
    )


def _lease_of(connection_id: str) -> str:
    return f"poll:{connection_id}"


def _note_failure(key: PollKey, code: str, message: str, failures: int) -> Callable[[Session], None]:
    def unit(session: Session) -> None:
        state = _state(session, key)
        state.failures, state.error_code, state.error = failures, code[:60], message[:1000]

    return unit
