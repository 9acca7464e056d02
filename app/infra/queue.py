"""The work queue: wake-ups for what the rows say has to be done.

`put` in the transaction that makes the work; a handler is called at least once for it, perhaps more often,
perhaps after a crash, and looks into the rows what there is to do. The embedded queue is a table of the
same SQLite file, claimed and completed in batches by the one process that owns the file; the one for
PostgreSQL is `app.infra.pgqueue`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog
from sqlalchemy import BigInteger, Index, Integer, String, delete, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from app.errors import StorageUnavailable

from .clock import now_ms
from .db import Base, Database, signal
from .failpoints import failpoint

log = structlog.get_logger()

Handler = Callable[[str], Awaitable[None]]

TOPIC = "work"
MAX_RETRY_PAUSE_MS = 300_000

LAST_WORDS = 1.0
"""Seconds that a cancelled handler gets to note how far it came."""


class WorkItem(Base):
    """One wake-up: call the handler of `kind` with `ref` at `not_before` or later."""

    __tablename__ = "work"
    __table_args__ = (Index("ix_work_claimed_not_before", "claimed", "not_before"),)

    seq: Mapped[int] = mapped_column(
        BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True
    )
    kind: Mapped[str] = mapped_column(String(40))
    ref: Mapped[str] = mapped_column(String(100))
    not_before: Mapped[int] = mapped_column(BigInteger)
    claimed: Mapped[int] = mapped_column(Integer)
    failures: Mapped[int] = mapped_column(Integer)


class WorkQueue(Protocol):
    """What the modules and the worker need of a queue."""

    def put(self, session: Session, kind: str, ref: str, not_before: int = 0) -> None:
        """Adds a wake-up in the caller's transaction: it exists if and only if that commits."""

    async def run(self, handlers: Mapping[str, Handler]) -> None:
        """Calls handlers until cancelled. The running ones go on: see `drain`.

        A handler that raises is called again after a pause, which grows. Raises StorageUnavailable; what has
        been put stays, so call it again.
        """

    async def drain(self, timeout: float) -> None:
        """Waits for running handlers; those that take longer are cancelled. Call after `run` has ended.
        The wake-ups of cancelled ones come again."""


def retry_pause(failures: int) -> int:
    """Milliseconds until a handler is called again that has raised so many times in a row."""
    return min(1000 << min(failures, 20), MAX_RETRY_PAUSE_MS)


class EmbeddedQueue:
    """The queue over the platform's own database, for one process."""

    def __init__(self, database: Database, *, concurrency: int) -> None:
        self._database = database
        self._concurrency = concurrency
        self._running: dict[int, asyncio.Task[None]] = {}
        self._settled = _Settled([], [])

    def put(self, session: Session, kind: str, ref: str, not_before: int = 0) -> None:
        session.add(WorkItem(kind=kind, ref=ref, not_before=not_before, claimed=0, failures=0))
        signal(session, TOPIC)

    async def run(self, handlers: Mapping[str, Handler]) -> None:
        """Calls handlers until cancelled. The running ones go on: see `drain`."""
        await self._database.write(_release_all_but(list(self._running)))
        with self._database.signals.subscribe(TOPIC) as work:
            while True:
                free = self._concurrency - len(self._running)
                claimed, pause = await self._settle_and_claim(free)
                for seq, kind, ref in claimed:
                    self._running[seq] = asyncio.create_task(
                        self._handle(handlers, seq, kind, ref, work.wake)
                    )
                if not self._settled and (not claimed or len(self._running) >= self._concurrency):
                    await work.wait(pause)

    async def drain(self, timeout: float) -> None:
        """Waits for running handlers; those that take longer are cancelled. Call after `run` has ended.
        The wake-ups of cancelled ones stay in the table and come again at the next start."""
        if self._running:
            _, late = await asyncio.wait(self._running.values(), timeout=timeout)
            for task in late:
                task.cancel()
            if late:
                # Not for ever: one may be waiting for storage that does not come back.
                await asyncio.wait(late, timeout=LAST_WORDS)
        try:
            await self._settle_and_claim(0)
        except StorageUnavailable as error:
            # They stay in the table too, and their handlers find that there is nothing left to do.
            log.warning("work_not_settled", reason=error.message)

    async def _settle_and_claim(self, free: int) -> "_Claim":
        settled, self._settled = self._settled, _Settled([], [])
        failpoint("queue.before_claim")
        try:
            claim = await self._database.write(_settle_and_claim(settled, free))
        except StorageUnavailable:
            self._settled.done += settled.done
            self._settled.failed += settled.failed
            raise
        failpoint("queue.after_claim")
        return claim

    async def _handle(
        self, handlers: Mapping[str, Handler], seq: int, kind: str, ref: str, wake: Callable[[], None]
    ) -> None:
        try:
            await handlers[kind](ref)
        except Exception:
            log.exception("work_failed", kind=kind, ref=ref)
            self._settled.failed.append(seq)
        else:
            self._settled.done.append(seq)
        finally:
            # Before the wake-up: a callback of the task would free its place only after the loop has looked.
            self._running.pop(seq)
        wake()


_Claim = tuple[list[tuple[int, str, str]], float | None]


@dataclass
class _Settled:
    """Wake-ups whose handlers have ended, not yet noted in the table."""

    done: list[int]
    failed: list[int]

    def __bool__(self) -> bool:
        return bool(self.done or self.failed)


def _release_all_but(running: list[int]) -> Callable[[Session], None]:
    """Gives back what a dead process had claimed; what still runs in this one stays claimed."""

    def unit(session: Session) -> None:
        lost = update(WorkItem).where(WorkItem.claimed == 1, WorkItem.seq.not_in(running))
        session.execute(lost.values(claimed=0))

    return unit


def _settle_and_claim(settled: _Settled, free: int) -> Callable[[Session], _Claim]:
    """Removes what is done, puts back what failed and claims what is due: one transaction for all."""

    def unit(session: Session) -> _Claim:
        now = now_ms()
        if settled.done:
            session.execute(delete(WorkItem).where(WorkItem.seq.in_(settled.done)))
        if settled.failed:
            for item in session.scalars(select(WorkItem).where(WorkItem.seq.in_(settled.failed))):
                item.failures += 1
                item.claimed = 0
                item.not_before = now + retry_pause(item.failures)
            session.flush()
        if free <= 0:
            return [], None
        due = (
            select(WorkItem.seq)
            .where(WorkItem.claimed == 0, WorkItem.not_before <= now)
            .order_by(WorkItem.not_before, WorkItem.seq)
            .limit(free)
        )
        rows = session.execute(
            update(WorkItem)
            .where(WorkItem.seq.in_(due))
            .values(claimed=1)
            .returning(WorkItem.seq, WorkItem.kind, WorkItem.ref)
            .execution_options(synchronize_session=False)
        )
        claimed = sorted((row.seq, row.kind, row.ref) for row in rows)
        upcoming = session.scalar(select(func.min(WorkItem.not_before)).where(WorkItem.claimed == 0))
        return claimed, None if upcoming is None else max(upcoming - now, 0) / 1000

    return unit
