"""Storage: models' base, units of work, and wake-ups.

A unit of work is a plain function `unit(session) -> result`. It reads and writes, never commits, and does
no I/O of its own; whoever runs it decides when. `Database.write` makes it durable before it returns,
`Database.read` runs it on a connection that cannot write. `signal` inside a unit wakes subscribers after
the commit, and only then.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from sqlalchemy import MetaData, Table
from sqlalchemy.orm import DeclarativeBase, Session

T = TypeVar("T")
Unit = Callable[[Session], T]
Append = Callable[[tuple[Any, ...]], Awaitable[None]]

_SIGNALS = "trunkline.signals"


class Base(DeclarativeBase):
    """Base of all models. Constraints get stable names, which migrations need."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Database(ABC):
    """What the platform needs of a database."""

    def __init__(self) -> None:
        self.signals = Signals()

    @abstractmethod
    async def read(self, unit: Unit[T]) -> T:
        """Runs the unit on one consistent, read-only view."""

    @abstractmethod
    async def write(self, unit: Unit[T]) -> T:
        """Runs the unit in a transaction and returns when it is on disk.

        What the unit raises is raised here, and nothing of the unit remains.
        Raises StorageUnavailable if it cannot be made durable.
        """

    @abstractmethod
    def appender(self, table: Table, columns: Sequence[str]) -> Append:
        """A function that inserts one row and returns when it is on disk, fast: rows that wait at the
        same time share one statement and one commit. Raises StorageUnavailable."""

    @abstractmethod
    async def close(self) -> None:
        """Finishes what waits and lets go of the storage."""


def signal(session: Session, topic: str) -> None:
    """Wakes the subscribers of `topic` once the session's unit is committed."""
    session.info.setdefault(_SIGNALS, set()).add(topic)


def signals_of(session: Session) -> set[str]:
    """The topics that a unit has signalled (for Database implementations)."""
    topics: set[str] = session.info.get(_SIGNALS, set())
    return topics


class Signals:
    """Wake-ups inside this process. They carry nothing: the rows are the truth, so a lost or doubled
    wake-up costs time, never data."""

    def __init__(self) -> None:
        self._subscriptions: dict[str, set[Subscription]] = defaultdict(set)
        self._listeners: dict[str, list[Callable[[], None]]] = defaultdict(list)

    def send(self, topics: set[str]) -> None:
        for topic in topics:
            for listener in self._listeners.get(topic, ()):
                listener()
            for subscription in self._subscriptions.get(topic, ()):
                subscription.wake()

    def listen(self, topic: str, listener: Callable[[], None]) -> None:
        """Calls `listener` at every wake-up, before those who wrote hear that they have (for caches)."""
        self._listeners[topic].append(listener)

    def subscribe(self, *topics: str) -> "Subscription":
        subscription = Subscription(self, topics)
        for topic in topics:
            self._subscriptions[topic].add(subscription)
        return subscription

    def unsubscribe(self, subscription: "Subscription") -> None:
        for topic in subscription.topics:
            self._subscriptions[topic].discard(subscription)
            if not self._subscriptions[topic]:
                del self._subscriptions[topic]


class Subscription:
    """Waits for wake-ups. One that comes between two waits ends the next wait at once, so look at the
    rows after each wait and none is missed."""

    def __init__(self, signals: Signals, topics: tuple[str, ...]) -> None:
        self.topics = topics
        self._signals = signals
        self._event = asyncio.Event()

    def wake(self) -> None:
        self._event.set()

    async def wait(self, timeout: float | None = None) -> bool:
        """Waits for a wake-up; False if `timeout` seconds passed without one."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signals.unsubscribe(self)
