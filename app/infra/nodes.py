"""Nodes: who is at work on one database, and which of them does what only one may do at a time.

Every node writes a heartbeat. What it does alone (the webhooks of a connection in their order, a connection's
polls, retention) it does under a lease: a row that names it. One heartbeat keeps all leases of a node; a node
whose heartbeat is older than `dead_after` is dead, for ever, and its leases are anybody's. Time is the
database's. A node that finds that it was taken for dead (it was frozen, or cut off) gives up everything and
goes on under a new id.

    joined --beat--> joined
    joined --no beat for dead_after--> dead        others take its leases; its id never lives again
    joined --leave--> gone                         the same, at once

A lease keeps two nodes from doing the same work at the same time, as far as clocks and pauses allow. That
nothing is done twice where it counts is up to the rows: every state changes by compare-and-set.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import BigInteger, String, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.errors import StorageUnavailable

from . import clock
from .db import Base
from .ids import new_id

if TYPE_CHECKING:
    from .postgres import PostgresDatabase

log = structlog.get_logger()

TOPIC = "leases"
"""Wakes whoever works under leases: there may be some to take, or this node has lost its own."""

BEATS = 5
"""Heartbeats in the time after which a node is dead."""

REFUSED_SECONDS = 1.0
"""How long a lease that another node has is not asked for again."""

REMEMBERED = 100
"""Multiples of `dead_after` after which a dead node's row is deleted."""


class NodeRow(Base):
    """A process at work. `beat_at` is its last heartbeat by the database's clock, in milliseconds."""

    __tablename__ = "nodes"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    role: Mapped[str] = mapped_column(String(10))
    beat_at: Mapped[int] = mapped_column(BigInteger)


class LeaseRow(Base):
    """What `node` alone does."""

    __tablename__ = "leases"

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    node: Mapped[str] = mapped_column(String(40), index=True)


class Nodes(ABC):
    """This node among the others. `id` changes when it was taken for dead: ask when it is needed."""

    id: str
    workers: int
    """Living nodes that take leases, this one included."""
    alone: bool
    """Whether there can never be another."""

    @abstractmethod
    async def acquire(self, names: Collection[str]) -> set[str]:
        """Takes the leases that nobody living has; returns those that this node has now.
        Raises StorageUnavailable."""

    @abstractmethod
    def holds(self, name: str) -> bool:
        """Whether this node has the lease, as far as it knows."""

    @abstractmethod
    def counts_as_living(self, id: str) -> bool:
        """Whether this node goes by that id, and no other node can have taken it for dead yet, however long
        it stood still: what it was at is its own."""

    @abstractmethod
    async def prove(self) -> None:
        """Makes sure of that, if the last heartbeat is too long ago to know. Raises StorageUnavailable."""

    @abstractmethod
    async def release(self, names: Collection[str]) -> None:
        """Gives leases back, at the latest with a heartbeat to come."""

    @abstractmethod
    def living(self, session: Session) -> set[str]:
        """The ids of all living nodes, this one included: the work of any other owner is orphaned."""

    @abstractmethod
    async def close(self) -> None:
        """Leaves: everything held is free at once."""


class SoleNode(Nodes):
    """The one process of an embedded database: it has every lease."""

    workers = 1
    alone = True

    def __init__(self) -> None:
        self.id = new_id("nod")

    async def acquire(self, names: Collection[str]) -> set[str]:
        return set(names)

    def holds(self, name: str) -> bool:
        return True

    def counts_as_living(self, id: str) -> bool:
        return id == self.id

    async def prove(self) -> None:
        """There is nobody who could doubt it."""

    async def release(self, names: Collection[str]) -> None:
        """There is nobody to give them to."""

    def living(self, session: Session) -> set[str]:
        return {self.id}

    async def close(self) -> None:
        """There is nobody to tell."""


_NOW = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"

# While the server was down nobody could write a heartbeat: after its start all get time to do so.
_ALIVE = (
    f"(nodes.beat_at >= {_NOW} - {{timeout}} "
    f"OR pg_postmaster_start_time() > clock_timestamp() - {{timeout}} * interval '1 millisecond')"
)


class Fleet(Nodes):
    """One of any number of nodes over PostgreSQL."""

    alone = False

    def __init__(self, database: "PostgresDatabase", role: str, dead_after: float) -> None:
        self._database = database
        self._role = role
        self._dead_after = dead_after
        self._held: set[str] = set()
        self._refused: dict[str, float] = {}
        self._let_go: set[str] = set()
        """Leases given back that the database does not know of yet."""
        self._good_until = 0.0
        self._unattended = 0
        """Heartbeats in a row without a node that works."""
        self._beating = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self.id = new_id("nod")
        self.workers = 1
        alive = _ALIVE.format(timeout=int(dead_after * 1000))
        self._join_sql = (
            f"INSERT INTO nodes (id, role, beat_at) VALUES ($1, $2, {_NOW}) RETURNING {_NOW} AS now"  # noqa: S608
        )
        self._beat_sql = (
            f"UPDATE nodes SET beat_at = {_NOW} WHERE id = $1 AND {alive} "  # noqa: S608
            f"RETURNING (SELECT count(*) FROM nodes WHERE role <> 'api' AND {alive}) AS workers, "
            f"{_NOW} AS now"
        )
        # Who is in this statement's view may be older than who has the lease by then; that a node which has
        # just joined loses one so is what the rows' own compare-and-set is for.
        self._acquire_sql = (
            "INSERT INTO leases (name, node) SELECT wanted, $2::varchar FROM unnest($1::text[]) AS wanted "  # noqa: S608
            f"WHERE EXISTS (SELECT 1 FROM nodes WHERE id = $2::varchar AND {alive}) ORDER BY wanted "
            "ON CONFLICT (name) DO UPDATE SET node = excluded.node WHERE leases.node = excluded.node "
            f"OR NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.id = leases.node AND {alive}) RETURNING name"
        )
        self._free_sql = (
            "DELETE FROM leases WHERE NOT EXISTS "  # noqa: S608
            f"(SELECT 1 FROM nodes WHERE nodes.id = leases.node AND {alive}) RETURNING name"
        )
        self._forget_sql = f"DELETE FROM nodes WHERE beat_at < {_NOW} - {int(dead_after * 1000) * REMEMBERED}"  # noqa: S608
        self._living_sql = text(f"SELECT id FROM nodes WHERE {alive}")  # noqa: S608

    @classmethod
    async def join(cls, database: "PostgresDatabase", role: str, dead_after: float) -> "Fleet":
        """Raises StorageUnavailable."""
        node = cls(database, role, dead_after)
        await node._join()
        node._task = asyncio.create_task(node._beat_forever(), name="trunkline-nodes")
        return node

    async def acquire(self, names: Collection[str]) -> set[str]:
        now = time.monotonic()
        mine = {name for name in names if self.holds(name)}
        wanted = [name for name in names if name not in mine and self._refused.get(name, 0.0) <= now]
        if not wanted:
            return mine
        me = self.id
        rows = await self._database.ask(self._acquire_sql, wanted, me)
        taken = {str(row["name"]) for row in rows}
        self._let_go -= taken
        if me != self.id:  # taken for dead meanwhile
            return set()
        self._held |= taken
        for name in wanted:
            if name in taken:
                self._refused.pop(name, None)
            else:
                self._refused[name] = time.monotonic() + REFUSED_SECONDS
        return mine | taken

    def holds(self, name: str) -> bool:
        return name in self._held and time.monotonic() < self._good_until

    def counts_as_living(self, id: str) -> bool:
        return id == self.id and time.monotonic() < self._good_until

    async def prove(self) -> None:
        if time.monotonic() >= self._good_until:
            await self._beat()

    async def release(self, names: Collection[str]) -> None:
        released = [name for name in names if name in self._held]
        self._held.difference_update(released)
        self._let_go.update(released)
        with suppress(StorageUnavailable):  # then it comes with the next heartbeat
            await self._give_back()

    async def _give_back(self) -> None:
        if names := list(self._let_go):
            statement = "DELETE FROM leases WHERE node = $2 AND name = ANY($1::text[])"
            await self._database.ask(statement, names, self.id)
            self._let_go.difference_update(names)

    def living(self, session: Session) -> set[str]:
        return {self.id, *session.scalars(self._living_sql)}

    async def close(self) -> None:
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._held.clear()
        try:
            await self._database.ask("DELETE FROM leases WHERE node = $1", self.id)
            await self._database.ask("DELETE FROM nodes WHERE id = $1", self.id)
        except StorageUnavailable:
            return  # the others will see that no heartbeat comes
        self._database.tell({TOPIC})

    async def _join(self) -> None:
        began, asked = time.monotonic(), clock.machine_ms()
        rows = await self._database.ask(self._join_sql, self.id, self._role)
        _go_by(int(rows[0]["now"]), asked)
        self._good_until = began + self._dead_after
        self._database.tell({TOPIC})

    async def _beat_forever(self) -> None:
        rounds = 0
        while True:
            await asyncio.sleep(self._dead_after / BEATS)
            rounds += 1
            try:
                await self._beat()
                if rounds % BEATS == 0:
                    await self._tidy()
            except StorageUnavailable as error:
                log.warning("heartbeat_missed", reason=error.message)
            except Exception:
                log.exception("heartbeat_failed")

    async def _beat(self) -> None:
        async with self._beating:
            await self._beat_once()

    async def _beat_once(self) -> None:
        began, asked = time.monotonic(), clock.machine_ms()
        rows = await self._database.ask(self._beat_sql, self.id)
        if rows:
            _go_by(int(rows[0]["now"]), asked)
            self._good_until = began + self._dead_after
            self._look_for_workers(int(rows[0]["workers"]))
            workers, self.workers = self.workers, max(int(rows[0]["workers"]), 1)
            if workers != self.workers:
                self._database.signals.send({TOPIC})
            await self._give_back()
            return
        log.warning("taken_for_dead", node=self.id, remedy="Was this process or its machine frozen?")
        self._held.clear()
        self._refused.clear()
        self.id = new_id("nod")
        await self._join()
        self._database.signals.send({TOPIC})

    def _look_for_workers(self, workers: int) -> None:
        """Says it once when for the time of `dead_after` nobody works: what is accepted only waits."""
        if workers and self._unattended >= BEATS:
            log.info("workers_found", count=workers)
        self._unattended = 0 if workers else self._unattended + 1
        if self._unattended == BEATS:
            log.warning(
                "no_worker", remedy="What is accepted waits. Start `trunkline worker`, or a node of role all."
            )

    async def _tidy(self) -> None:
        """Frees the leases of the dead, for those who wait to be told."""
        now = time.monotonic()
        self._refused = {name: until for name, until in self._refused.items() if until > now}
        freed = await self._database.ask(self._free_sql)
        await self._database.ask(self._forget_sql)
        if freed:
            log.info("leases_freed", count=len(freed))
            self._database.announce({TOPIC})


def _go_by(theirs: int, asked: int) -> None:
    """Keeps this node's time to the database's."""
    if not clock.follow(theirs, asked):
        return
    if off := clock.correction_ms():
        log.warning(
            "clock_differs",
            seconds=round(-off / 1000, 1),
            remedy="The database's time is used instead. Set this machine's clock, by NTP.",
        )
    else:
        log.info("clock_agrees")
