"""PostgreSQL: any number of nodes over one database.

A unit of work is a transaction of its own, READ COMMITTED, on a connection of a small pool; a reading unit
is one REPEATABLE READ snapshot on a connection that cannot write. Rows of an `appender` that wait at the same
time are one statement and one commit, on a connection of their own. A third kind of connection, one for each
node, is its link to the others: what a unit signals is told to them by NOTIFY, from there, after the commit.

What goes wrong with the server or the way to it is StorageUnavailable, and the next unit finds a new
connection. An outage during COMMIT leaves open whether the unit was stored: that is StorageUnavailable too.
Whoever asked has to repeat it or look, and what senders repeat (webhooks, whose sender got 503; actions with
an Idempotency-Key) is recognised as what was there already.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import structlog
from sqlalchemy import BigInteger, Boolean, Integer, LargeBinary, String, Table, event, text
from sqlalchemy.engine import Connection, ExceptionContext
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from app.errors import Invalid, StartupError, StorageUnavailable

from .db import Append, Database, Unit, signals_of

log = structlog.get_logger()

T = TypeVar("T")
if TYPE_CHECKING:
    Link = asyncpg.Connection[asyncpg.Record]
else:
    Link = asyncpg.Connection  # which takes no parameters when it runs

WRITERS = 6
READERS = 6
"""Connections of a node that run units; there is one more for appended rows and one for the link."""

MOST_CONNECTIONS = 17
"""Of a node, its work queue's and those of its start included."""

CONNECT_SECONDS = 10.0
COMMAND_SECONDS = 30.0
"""How long one statement may take until its connection is given up."""
POOL_SECONDS = 15.0
"""How long a unit waits for a connection."""
CLOSE_SECONDS = 5.0

MAX_BATCH = 256
MAX_BATCH_BYTES = 8 * 1024 * 1024
"""Rows, and bytes in them, in one statement of an appender."""

TRIES = 4
"""Runs of one unit that another node's write gets in the way of."""

CHANNEL = "trunkline"
MAX_PAYLOAD = 7900
"""Bytes of one notification; the server takes 8000."""
MAX_TOPICS = 2000
"""Topics in one notice; more are told as "everything"."""
EVERYTHING = "*"
NOTICE_PAUSE = 0.01
"""Seconds between two notices of a node: what is signalled meanwhile is told together."""
LINK_CHECK = 5.0
LINK_PAUSE = 0.5

TROUBLE = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What the driver raises when the server goes away; the last, when it is asked for something between the
server's farewell and the end of the connection."""

_MORE_CONNECTIONS = (
    f"A node uses up to {MOST_CONNECTIONS} connections: raise max_connections, or the CONNECTION LIMIT "
    "of the role or the database, or start fewer nodes."
)
_WRITABLE = (
    "Run ALTER ROLE ... RESET default_transaction_read_only, or the same for the database, "
    "whichever it was set for."
)

OLDEST_SERVER = 14
"""The oldest major version that PostgreSQL's own project still maintains."""

_SESSION = {
    "application_name": "trunkline",
    "timezone": "UTC",
    "jit": "off",  # compiling a plan costs more than running any statement here
    # Plans are kept, and the first are made for empty tables without statistics: to read those from end to
    # end is the best plan then, and quadratic in what arrives until the server has looked again.
    "enable_seqscan": "off",
    # A node that is frozen in the middle of a transaction must not hold the others' locks for ever.
    "idle_in_transaction_session_timeout": "15s",
    "lock_timeout": "20s",
    # And one whose machine is gone is noticed by the server.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
_READ_ONLY = {
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "repeatable read",
}

PATIENT = {
    # A migration and a move take as long as there is data, whatever an administrator grants to units.
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
}


async def connect(url: str, patience: float | None = COMMAND_SECONDS, /, **session: str) -> Link:
    """A connection with the platform's session settings. `patience` is how long a statement may take."""
    link = await asyncpg.connect(url, timeout=CONNECT_SECONDS, command_timeout=patience)
    try:
        # Not with the connection's start: PgBouncer refuses what it does not know there, or leaves it out.
        settings = "; ".join(f"SET {name} = '{value}'" for name, value in (_SESSION | session).items())
        await link.execute(settings, timeout=CONNECT_SECONDS)
    except BaseException:
        link.terminate()
        raise
    return link


async def open_link(url: str) -> Link:
    """A connection for use at start, which takes its time. Raises StartupError."""
    try:
        return await connect(url, None, **PATIENT)
    except Exception as error:  # noqa: BLE001 - whatever it is, there is no connection
        raise cannot_connect(error) from None


def cannot_connect(error: BaseException) -> StartupError:
    return StartupError(
        f"The database cannot be reached ({reason_of(error)}).",
        remedy=_remedy(error)
        or "Check that PostgreSQL runs and that TRUNKLINE_DATABASE_URL names the right host, port, "
        "database, role and password.",
    )


def cannot_prepare(error: BaseException) -> StartupError:
    """For what goes wrong while the schema is looked at or brought up to date."""
    return StartupError(
        f"The database cannot be brought up to date ({_words_of(error)}).",
        remedy=_remedy(error) or "Nothing was changed. Look at the log of the server, and try again.",
    )


def _remedy(error: BaseException) -> str | None:
    """What to do about what an administrator has set."""
    state = _sqlstate(error)
    if state in ("42501", "3F000"):
        return "The role of TRUNKLINE_DATABASE_URL must own the database, or may create in its schema."
    if state == "53300":
        return _MORE_CONNECTIONS
    if state == _READ_ONLY_VIOLATION:
        return _WRITABLE
    return None


async def check_server(link: Link, *, allow_superuser: bool) -> None:
    """Raises StartupError for a server that would not keep what it has acknowledged, or that is too powerful
    or too old for us."""
    row = await link.fetchrow(
        "SELECT current_setting('server_version_num')::int AS version, current_setting('fsync') AS fsync, "
        "current_setting('full_page_writes') AS full_pages, "
        "current_setting('synchronous_commit') AS synchronous, "
        "current_setting('synchronous_standby_names') AS standbys, "
        "current_setting('server_encoding') AS encoding, "
        "current_setting('is_superuser') AS superuser, current_user AS role, "
        "pg_is_in_recovery() AS standby, current_database() AS database, "
        "current_setting('default_transaction_read_only') AS read_only, "
        "least(current_setting('max_connections')::int, "
        "(SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database()), "
        "(SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user)) AS connections"
    )
    assert row is not None
    if row["version"] < OLDEST_SERVER * 10_000:
        raise StartupError(
            f"The PostgreSQL server has version {row['version'] // 10_000}, which is no longer maintained.",
            remedy=f"Upgrade it to {OLDEST_SERVER} or newer.",
        )
    if row["encoding"] != "UTF8":
        raise StartupError(
            f"The database has the encoding {row['encoding']}, which cannot hold every text.",
            remedy="Make one with: CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0",
        )
    if row["standby"]:
        raise StartupError(
            "The PostgreSQL server is a standby, which cannot be written.",
            remedy="Name the primary, or several hosts and ?target_session_attrs=read-write, "
            "in TRUNKLINE_DATABASE_URL.",
        )
    if row["read_only"] == "on":
        raise StartupError(
            "The database is read-only for this role: default_transaction_read_only is on.", remedy=_WRITABLE
        )
    for setting, value in (("fsync", row["fsync"]), ("full_page_writes", row["full_pages"])):
        if value != "on":
            raise StartupError(
                f"The PostgreSQL server runs with {setting}={value}, so a crash could lose or ruin what was "
                "acknowledged.",
                remedy=f"Set {setting} = on in postgresql.conf and reload it.",
            )
    synchronous = row["synchronous"]
    if synchronous == "off" or (synchronous == "local" and row["standbys"]):
        raise StartupError(
            f"The PostgreSQL server runs with synchronous_commit={synchronous}, so it acknowledges before "
            "everything that should have it has it on disk.",
            remedy=f"Run: ALTER ROLE {row['role']} IN DATABASE {row['database']} "
            "SET synchronous_commit = 'on'",
        )
    if row["connections"] < MOST_CONNECTIONS:
        log.warning("connections_limited", most=row["connections"], remedy=_MORE_CONNECTIONS)
    if row["superuser"] == "on":
        remedy = (
            "Give it a role of its own: CREATE ROLE trunkline LOGIN PASSWORD '...', owner of the database."
        )
        if not allow_superuser:
            raise StartupError(
                f"The role {row['role']} of TRUNKLINE_DATABASE_URL is a superuser: whoever gets hold of it "
                "has the whole server.",
                remedy=f"{remedy} Or accept it with TRUNKLINE_ALLOW_SUPERUSER=true.",
            )
        log.warning("database_role_is_superuser", role=row["role"], remedy=remedy)


def engine_for(
    url: str, size: int, patience: float | None = COMMAND_SECONDS, /, **session: str
) -> AsyncEngine:
    """A pool of connections for units. `patience` is how long a statement may take."""
    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=lambda: connect(url, patience, **session),
        pool_size=size,
        max_overflow=0,
        pool_timeout=POOL_SECONDS,
        pool_use_lifo=True,
        hide_parameters=True,  # errors are logged, and parameters are what customers sent
    )
    pool = engine.sync_engine
    event.listen(pool, "checkout", _refuse_the_dead)
    event.listen(pool, "after_cursor_execute", _note_use)
    event.listen(pool, "handle_error", _note_fault)
    return engine


def _refuse_the_dead(connection: Any, *_: Any) -> None:
    """Costs no round trip: the driver has noticed when the server closed a connection that lay idle."""
    if connection.driver_connection.is_closed():
        raise InvalidatePoolError


@dataclass(slots=True)
class _Run:
    """How far one run of a unit came."""

    connected: bool = False
    used: bool = False
    committing: bool = False
    fault: BaseException | None = None
    """What the driver raised last: a unit's own OSError must not be taken for the server's."""


_RUN = "trunkline.run"


def _note_use(connection: Connection, *_: Any) -> None:
    run = connection.info.get(_RUN)
    if run is not None:
        run.used = True


def _note_fault(context: ExceptionContext) -> None:
    if context.connection is not None and not context.connection.invalidated:
        run = context.connection.info.get(_RUN)
        if run is not None:
            run.fault = context.original_exception


class PostgresDatabase(Database):
    """`Database` over a PostgreSQL database that has the current schema (see `app.infra.migrate`)."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._closing = False
        self._writers = engine_for(url, WRITERS)
        self._readers = engine_for(url, READERS, **_READ_ONLY)
        self._units: set[asyncio.Task[Any]] = set()
        self._appenders: list[_Appender] = []
        self._link = _Link(url, self._heard)

    @classmethod
    async def open(cls, url: str) -> "PostgresDatabase":
        """Raises StartupError if the database cannot be reached."""
        database = cls(url)
        try:
            await database._link.start()
        except BaseException:
            await database.close()
            raise
        return database

    @property
    def url(self) -> str:
        return self._url

    async def read(self, unit: Unit[T]) -> T:
        self._refuse_if_closing()
        return await self._finish(self._read(unit))

    async def write(self, unit: Unit[T]) -> T:
        """As in Database. The unit may be run more than once: again when another node's write came between
        (a deadlock, or a unique value that it had not seen), so it does nothing beside the session that
        may not happen twice."""
        self._refuse_if_closing()
        return await self._finish(self._write(unit))

    async def check(self) -> None:
        # Its commit record is flushed like that of any other write, and it leaves no row to clean up.
        def unit(session: Session) -> str:
            return str(
                session.scalar(
                    text(
                        "SELECT current_setting('transaction_read_only') "
                        "FROM pg_logical_emit_message(true, 'trunkline', 'check')"
                    )
                )
            )

        if await self.write(unit) != "off":
            raise StorageUnavailable("The database is read-only now.")

    def appender(self, table: Table, columns: Sequence[str]) -> Append:
        appender = _Appender(self._url, table, columns)
        self._appenders.append(appender)

        def append(row: tuple[Any, ...]) -> "asyncio.Future[None]":
            self._refuse_if_closing()
            return appender.put(row)

        return append

    def tell(self, topics: set[str]) -> None:
        self._link.tell(topics)

    def announce(self, topics: set[str]) -> None:
        """Wakes the subscribers here and on the other nodes."""
        if topics:
            self.signals.send(topics)
            self._link.tell(topics)

    async def ask(self, statement: str, *values: Any) -> list[asyncpg.Record]:
        """Runs one small statement on the link, which never waits for the units' connections.
        Raises StorageUnavailable."""
        return await self._link.ask(statement, *values)

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if self._units:
            await asyncio.wait(self._units, timeout=CLOSE_SECONDS)
        for appender in self._appenders:
            await appender.close()
        await self._link.close()
        for engine in (self._writers, self._readers):
            with suppress(Exception, asyncio.CancelledError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await engine.dispose()

    def _refuse_if_closing(self) -> None:
        if self._closing:
            raise StorageUnavailable("The platform is stopping.")

    def _heard(self, topics: set[str]) -> None:
        if EVERYTHING in topics:
            self.signals.send_all()
        else:
            self.signals.send(topics)

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        # In a task of its own: a caller that goes away neither undoes the unit nor costs its connection.
        task = asyncio.create_task(work)
        self._units.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._units.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may be gone

    async def _read(self, unit: Unit[T]) -> T:
        for last in (False, True):
            run = _Run()
            session = AsyncSession(self._readers, expire_on_commit=False, autoflush=False)
            try:
                return await session.run_sync(_read_unit, unit, run)
            except Exception as error:
                if _sqlstate(error) == _NOT_IN_REPERTOIRE:
                    raise _holds_nul() from None
                if not _is_fault(error, run) or _sqlstate(error) == _READ_ONLY_VIOLATION:
                    raise
                if last or not _is_lost(error):
                    raise StorageUnavailable(f"The database cannot be read ({reason_of(error)}).") from error
        raise AssertionError

    async def _write(self, unit: Unit[T]) -> T:
        tries = 0
        while True:
            tries += 1
            run = _Run()
            session = AsyncSession(self._writers, expire_on_commit=False)
            try:
                result, topics = await session.run_sync(_write_unit, unit, run)
            except Exception as error:
                if self._again(error, run, tries):
                    await asyncio.sleep(random.uniform(0, 0.01) * tries)  # noqa: S311 - not to meet again
                    continue
                raise _as_unit_error(error, run) from error
            self.announce(topics)
            return result

    @staticmethod
    def _again(error: Exception, run: _Run, tries: int) -> bool:
        state = _sqlstate(error)
        if state in _IN_THE_WAY:
            return tries < TRIES
        if state == _UNIQUE:
            return tries < 2  # the second time it saw what was there
        # A connection that lay dead in the pool: nothing of the unit has happened.
        return tries < 2 and run.connected and not run.used and _is_fault(error, run) and _is_lost(error)


def _read_unit(session: Session, unit: Unit[T], run: _Run) -> T:
    try:
        session.connection().info[_RUN] = run
        run.connected = True
        return unit(session)
    finally:
        session.close()


def _write_unit(session: Session, unit: Unit[T], run: _Run) -> tuple[T, set[str]]:
    try:
        session.connection().info[_RUN] = run
        run.connected = True
        result = unit(session)
        session.flush()
        run.committing = True
        session.commit()
        return result, signals_of(session)
    finally:
        session.close()


# What errors mean.

_UNIQUE = "23505"
_READ_ONLY_VIOLATION = "25006"
_NOT_IN_REPERTOIRE = "22021"
_IN_THE_WAY = frozenset({"40001", "40P01"})
"""Serialization failure, deadlock: another transaction was in the way."""

_UNAVAILABLE_CLASSES = frozenset({"08", "53", "57", "58", "28", "3D", "40"})
"""Connection, resources (a full disk too), operator's intervention, system, authorization, no such database,
rollback."""

_UNAVAILABLE = frozenset({_READ_ONLY_VIOLATION, "25P03", "55P03", "XX001", "XX002", "0A000"})
"""Read-only (a standby now), idle too long in a transaction, no lock in time, corruption, a plan of before a
migration."""

_REFUSED_CLASSES = ("22", "23")
"""Data that does not fit, constraints."""


def _driver_error(error: BaseException) -> BaseException:
    """What asyncpg raised."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.driver_exception or error.orig
    return error


def _sqlstate(error: BaseException) -> str | None:
    return getattr(_driver_error(error), "sqlstate", None)


def _is_lost(error: BaseException) -> bool:
    """Whether the connection is gone."""
    cause = _driver_error(error)
    state = getattr(cause, "sqlstate", None)
    if state is not None:
        return bool(state.startswith(("08", "57P")) or state == "25P03")
    return isinstance(cause, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError)


def _is_unavailable(error: BaseException) -> bool:
    """Whether it is the server or the way to it, not what was asked of it."""
    cause = _driver_error(error)
    state = getattr(cause, "sqlstate", None)
    if state is not None:
        return state[:2] in _UNAVAILABLE_CLASSES or state in _UNAVAILABLE
    if isinstance(cause, asyncpg.DataError | ValueError):
        return False
    return isinstance(cause, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError | PoolTimeout)


def _is_fault(error: BaseException, run: _Run) -> bool:
    """Whether the unit's error is the storage's, not its own."""
    if not run.connected:
        return _is_unavailable(error)
    if isinstance(error, DBAPIError):
        return _is_unavailable(error)
    return error is run.fault and _is_unavailable(error)


def _as_unit_error(error: Exception, run: _Run) -> Exception:
    if _sqlstate(error) == _NOT_IN_REPERTOIRE:
        return _holds_nul()
    if not _is_fault(error, run):
        return error
    if run.committing and _is_lost(error):
        return StorageUnavailable(
            f"The connection was lost while it was being stored ({reason_of(error)}).",
            remedy="It may have been stored all the same: look, or repeat it with the same Idempotency-Key.",
        )
    return StorageUnavailable(f"The database could not store it ({reason_of(error)}).")


def _holds_nul() -> Invalid:
    return Invalid(
        "A text holds the character U+0000, which PostgreSQL cannot store.",
        code="nul_character",
        remedy="Send texts without it.",
    )


def _words_of(error: BaseException) -> str:
    """The server's words on a statement of our own, which holds no values."""
    cause = _driver_error(error)
    return str(cause.args[0]) if isinstance(cause, asyncpg.PostgresError) and cause.args else reason_of(error)


def reason_of(error: BaseException) -> str:
    """The server's words on a fault of its own; of everything else only the kind. They name no values."""
    cause = _driver_error(error)
    if isinstance(cause, asyncpg.PostgresError) and _is_unavailable(cause):
        return str(cause.args[0]) if cause.args else type(cause).__name__
    if isinstance(cause, TimeoutError | PoolTimeout):
        return "no answer in time"
    if isinstance(cause, asyncpg.InterfaceError) and _is_unavailable(cause):
        return "the connection is closed"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    if isinstance(cause, ConnectionError | OSError):
        return "no connection"
    return type(cause).__name__


# Appended rows.


class _Appender:
    """Rows of one table on their way to the disk: those that wait together are one statement, on a connection
    that does nothing else."""

    def __init__(self, url: str, table: Table, columns: Sequence[str]) -> None:
        self._url = url
        types = [_array_type(table.c[name].type) for name in columns]
        values = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(types, 1))
        self._statement = (
            f"INSERT INTO {table.name} ({', '.join(columns)}) "  # noqa: S608 - names are ours
            f"SELECT * FROM unnest({values})"
        )
        self._sized = [n for n, kind in enumerate(types) if kind in ("text", "bytea")]
        self._waiting: deque[tuple[tuple[Any, ...], asyncio.Future[None]]] = deque()
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._connection: Link | None = None
        self._closing = False
        self._task = asyncio.create_task(self._run(), name="trunkline-append")

    def put(self, row: tuple[Any, ...]) -> "asyncio.Future[None]":
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append((row, future))
        self._news.set()
        return future

    async def close(self) -> None:
        self._closing = True
        self._news.set()
        await self._task

    async def _run(self) -> None:
        # Before the units take what the server grants: acknowledging comes first.
        with suppress(*TROUBLE):
            self._connection = await connect(self._url)
        while True:
            if not self._waiting:
                if self._closing:
                    break
                self._news.clear()
                await self._news.wait()
                continue
            await self._store(self._take())
        await _end(self._connection)

    def _take(self) -> list[tuple[tuple[Any, ...], "asyncio.Future[None]"]]:
        batch: list[tuple[tuple[Any, ...], asyncio.Future[None]]] = []
        size = 0
        while self._waiting and len(batch) < MAX_BATCH and size < MAX_BATCH_BYTES:
            row, future = self._waiting.popleft()
            if not future.done():  # a caller that went away is not waited for, nor stored
                batch.append((row, future))
                size += sum(len(value) for n in self._sized if (value := row[n]) is not None)
        return batch

    async def _store(self, batch: list[tuple[tuple[Any, ...], "asyncio.Future[None]"]]) -> None:
        if not batch:
            return
        try:
            connection = self._connection
            if connection is None or connection.is_closed():
                connection = self._connection = await connect(self._url)
            await connection.execute(
                self._statement, *map(list, zip(*(row for row, _ in batch), strict=True))
            )
        except Exception as error:  # noqa: BLE001 - whatever happened, every waiter must hear of it
            if len(batch) > 1 and _is_refusal(error):
                # One row cannot be stored: halves find it, and the others are.
                middle = len(batch) // 2
                await self._store(batch[:middle])
                await self._store(batch[middle:])
                return
            if not _is_refusal(error):
                connection, self._connection = self._connection, None
                if connection is not None:
                    connection.terminate()
            for _, future in batch:
                if not future.done():
                    failure = StorageUnavailable(f"The database could not store it ({reason_of(error)}).")
                    failure.__cause__ = error
                    future.set_exception(failure)
            return
        for _, future in batch:
            if not future.done():
                future.set_result(None)


def _is_refusal(error: BaseException) -> bool:
    """Whether it is a row's own fault."""
    state = _sqlstate(error)
    if state is not None:
        return state.startswith(_REFUSED_CLASSES)
    return isinstance(error, ValueError | TypeError | OverflowError)


def _array_type(kind: Any) -> str:
    for known, name in (
        (BigInteger, "bigint"), (Integer, "integer"), (LargeBinary, "bytea"), (Boolean, "boolean"),
        (String, "text"),
    ):  # fmt: skip
        if isinstance(kind, known):
            return name
    raise TypeError(f"no array of {kind!r} is known here")


# The link between nodes.


class _Link:
    """This node's line to the others: LISTEN, NOTIFY and small statements, on one connection that is made
    anew whenever it breaks. After a break nobody knows what was missed, so everybody is woken."""

    def __init__(self, url: str, heard: Callable[[set[str]], None]) -> None:
        self._url = url
        self._heard = heard
        self._topics: set[str] = set()
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()
        self._connection: Link | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        try:
            connection = await self._connect()
        except Exception as error:  # noqa: BLE001 - whatever it is, there is no connection
            raise cannot_connect(error) from None
        self._task = asyncio.create_task(self._keep(connection), name="trunkline-link")

    def tell(self, topics: set[str]) -> None:
        self._topics |= topics
        self._news.set()

    async def ask(self, statement: str, *values: Any) -> list[asyncpg.Record]:
        connection = self._connection
        if connection is None:
            raise StorageUnavailable("The database cannot be reached now.")
        try:
            async with self._turn:
                return await connection.fetch(statement, *values, timeout=LINK_CHECK)
        except Exception as error:
            if not _is_unavailable(error):
                raise
            raise StorageUnavailable(f"The database does not answer ({reason_of(error)}).") from error

    async def close(self) -> None:
        if self._task is not None:
            with suppress(StorageUnavailable):
                await self._send()
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await _end(self._connection)

    async def _connect(self) -> Link:
        connection = await connect(self._url)
        connection.add_termination_listener(lambda _: self._news.set())
        try:
            await connection.add_listener(CHANNEL, self._on_notice)
        except BaseException:
            connection.terminate()
            raise
        self._connection = connection
        return connection

    def _on_notice(self, _: Any, pid: int, __: str, payload: object) -> None:
        connection = self._connection
        if connection is None or pid != connection.get_server_pid():  # our own subscribers know already
            self._heard(set(str(payload).split("\n")))

    async def _keep(self, connection: Link | None) -> None:
        down = False
        while True:
            try:
                if connection is None:
                    connection = await self._connect()
                    self._heard({EVERYTHING})
                    if down:
                        log.info("database_link_restored")
                    down = False
                await self._serve(connection)
            except (*TROUBLE, StorageUnavailable) as error:
                self._connection = None
                if connection is not None:
                    connection.terminate()
                connection = None
                if not down:
                    words = error.message if isinstance(error, StorageUnavailable) else reason_of(error)
                    log.warning("database_link_lost", reason=words)
                down = True
                await asyncio.sleep(LINK_PAUSE * random.uniform(0.5, 1.5))  # noqa: S311 - not all at once

    async def _serve(self, connection: Link) -> None:
        """Sends what there is to tell until the connection breaks; asks for a sign of life when idle."""
        while True:
            try:
                async with asyncio.timeout(LINK_CHECK):
                    await self._news.wait()
            except TimeoutError:
                await self.ask("SELECT 1")
            if connection.is_closed():
                raise ConnectionResetError
            if self._news.is_set():
                await self._send()
                await asyncio.sleep(NOTICE_PAUSE)

    async def _send(self) -> None:
        self._news.clear()
        topics, self._topics = self._topics, set()
        if not topics:
            return
        try:
            await self.ask(
                f"SELECT pg_notify('{CHANNEL}', payload) FROM unnest($1::text[]) AS payload",  # noqa: S608
                payloads(topics),
            )
        except BaseException:
            self.tell(topics if len(self._topics) < MAX_TOPICS else {EVERYTHING})
            raise


def payloads(topics: set[str]) -> list[str]:
    """Notifications that hold the topics, each within the server's limit."""
    if len(topics) > MAX_TOPICS or EVERYTHING in topics:
        return [EVERYTHING]
    found: list[str] = []
    current = ""
    for topic in sorted(topics):
        longer = f"{current}\n{topic}" if current else topic
        if len(longer.encode()) > MAX_PAYLOAD:
            found.append(current)
            longer = topic
        current = longer
    return [*found, current] if current else found


async def _end(connection: Link | None) -> None:
    if connection is None or connection.is_closed():
        return
    try:
        await connection.close(timeout=2.0)
    except TROUBLE:
        connection.terminate()
