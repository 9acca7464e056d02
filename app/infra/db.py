"""Storage: models' base, units of work, and wake-ups.

A unit of work is a plain function `unit(session) -> result`. It reads and writes, never commits, and does
no I/O of its own; whoever runs it decides when. `Database.write` makes it durable before it returns,
`Database.read` runs it on a connection that cannot write. `signal` inside a unit wakes subscribers after
the commit, and only then.
"""

import asyncio
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain, islice
from types import TracebackType
from typing import Any, Self, TypeVar
from zlib import crc32

from sqlalchemy import ColumnElement, MetaData, Table, any_, bindparam, text
from sqlalchemy.dialects import postgresql, sqlite
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
        Raises StorageUnavailable if it cannot be made durable, or if nobody can tell whether it was. A unit
        may be run more than once before it is committed, so it has no effect but on the session.
        """

    @abstractmethod
    async def check(self) -> None:
        """Raises StorageUnavailable unless a write reaches the disk now."""

    @abstractmethod
    def appender(self, table: Table, columns: Sequence[str]) -> Append:
        """A function that inserts one row and returns when it is on disk, fast: rows that wait at the
        same time share one statement and one commit. Raises StorageUnavailable."""

    @abstractmethod
    def tell(self, topics: set[str]) -> None:
        """Wakes the subscribers on other nodes, soon. Whoever signals in a unit need not."""

    @abstractmethod
    async def close(self) -> None:
        """Finishes what waits and lets go of the storage."""


def table_of(model: type[Base]) -> Table:
    """The table of a model that has just one."""
    table = model.__table__
    assert isinstance(table, Table)
    return table


def insert_if_absent(session: Session, model: type[Base], **values: Any) -> bool:
    """Inserts a row unless one with its key is there, also if another node is inserting it at the same time;
    whether it did. What is there can be read afterwards in either case."""
    insert: Any = postgresql.insert if is_shared(session) else sqlite.insert
    table = table_of(model)
    statement = insert(table).values(**values).on_conflict_do_nothing().returning(*table.primary_key)
    return session.execute(statement).first() is not None


def exclusive(session: Session, what: str) -> None:
    """Waits until no other transaction does `what`, and keeps others from it until this one is committed.
    What they wrote is seen by the statements that follow."""
    if is_shared(session):
        session.execute(_LOCK, {"space": _LOCK_SPACE, "what": crc32(what.encode()) - 2**31})


_LOCK = text("SELECT pg_advisory_xact_lock(CAST(:space AS integer), CAST(:what AS integer))")
_LOCK_SPACE = 0x74726B


def members(column: ColumnElement[Any], name: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    """Whether the column is in the list `name`, as SQLite and as PostgreSQL want it, which keeps statements
    prepared by their text: one that differs with the length of a list would be prepared over and over."""
    array = bindparam(name, type_=postgresql.ARRAY(column.type))
    return column.in_(bindparam(name, expanding=True)), column == any_(array)


def is_shared(session: Session) -> bool:
    """Whether other nodes write to the same database."""
    return session.get_bind().dialect.name == "postgresql"


def insert_rows(
    session: Session, table: Table, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Inserts many rows by few statements: for the paths where an ORM's work per row is what costs.

    Values go to the driver as they are, so columns hold plain integers, strings, bytes and booleans.
    """
    connection = session.connection()
    numbered = connection.dialect.paramstyle == "numeric_dollar"
    for statement, values in multi_row_inserts(table.name, tuple(columns), rows, numbered=numbered):
        connection.exec_driver_sql(statement, values)


def multi_row_inserts(
    table: str, columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]], *, numbered: bool = False
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Statements with their values. Few sizes of statement, so that drivers keep all of them prepared."""
    at = 0
    while at < len(rows):
        size = min(MAX_INSERT, 1 << ((len(rows) - at).bit_length() - 1))
        part = rows[at : at + size]
        yield _insert_statement(table, columns, size, numbered), tuple(chain.from_iterable(part))
        at += size


@lru_cache(maxsize=256)
def _insert_statement(table: str, columns: tuple[str, ...], size: int, numbered: bool) -> str:
    width = len(columns)
    marks = (f"${n + 1}" if numbered else "?" for n in range(size * width))
    values = ", ".join(f"({', '.join(islice(marks, width))})" for _ in range(size))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {values}"  # noqa: S608 - names are ours


MAX_INSERT = 64
"""Rows in one statement."""


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
        self._families: dict[str, Callable[[str], None]] = {}

    def send(self, topics: set[str]) -> None:
        for topic in topics:
            if self._families:
                family, _, member = topic.partition(":")
                if member and family in self._families:
                    self._families[family](member)
            for listener in self._listeners.get(topic, ()):
                listener()
            for subscription in self._subscriptions.get(topic, ()):
                subscription.wake()

    def send_all(self) -> None:
        """Wakes everybody: nobody knows what was missed."""
        self.send({*self._listeners, *self._subscriptions})

    def listen(self, topic: str, listener: Callable[[], None]) -> None:
        """Calls `listener` at every wake-up, before those who wrote hear that they have (for caches)."""
        self._listeners[topic].append(listener)

    def listen_to_family(self, family: str, listener: Callable[[str], None]) -> None:
        """Calls `listener` with what stands after the colon, at every wake-up of a topic `family:...`."""
        self._families[family] = listener

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
