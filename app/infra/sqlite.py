"""SQLite: one process, one thread that writes.

Every write runs in the writer thread. What waits there when it comes round is one transaction: inserts
of `appender` rows by few statements, each unit in a savepoint of its own so that one that fails rolls back
alone, then one COMMIT with fsync (WAL, synchronous=FULL) for all, and only then is anybody answered.
Other connections are opened read-only. So writers never meet, and "database is locked" cannot happen.
"""

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from sqlalchemy import Connection, Dialect, Engine, Table, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool, StaticPool

from app.errors import StartupError, StorageUnavailable

from .db import Append, Database, Unit, multi_row_inserts, signals_of
from .failpoints import failpoint

T = TypeVar("T")

MAX_BATCH = 512
"""Jobs in one transaction: bounds how long the first of them waits for the last."""

READERS = 4

_WRITER_PRAGMAS = (
    "PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL",
    "PRAGMA foreign_keys=ON",
    "PRAGMA busy_timeout=5000",
    # Checkpoints copy the log into the file and fsync both; fewer, larger ones keep acknowledgements even.
    "PRAGMA wal_autocheckpoint=16000",
    "PRAGMA cache_size=-32000",
    "PRAGMA temp_store=MEMORY",
)


@dataclass(slots=True)
class _UnitJob:
    unit: Unit[Any]
    future: "asyncio.Future[Any]"


@dataclass(frozen=True)
class _Target:
    """Where appended rows go."""

    table: str
    columns: tuple[str, ...]


@dataclass(slots=True)
class _AppendJob:
    target: _Target
    row: tuple[Any, ...]
    future: "asyncio.Future[Any]"


_REFUSALS = (sqlite3.Error, ValueError, OverflowError)
"""What a row may be refused with: the driver has its own words for values that it cannot bind."""

_Job = _UnitJob | _AppendJob
_Outcome = tuple["asyncio.Future[Any]", Any, BaseException | None]


class SqliteDatabase(Database):
    """`Database` over one SQLite file. `open` before use, in the event loop that uses it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._waiting: list[_Job] = []
        self._writing = False
        self._batches: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._closing = False

    @classmethod
    async def open(cls, path: Path) -> "SqliteDatabase":
        """Opens the file, which exists and has the current schema (see `app.infra.migrate`).

        Raises StartupError if it cannot be written.
        """
        database = cls(path)
        database._loop = asyncio.get_running_loop()
        database._engine = writer_engine(path)
        try:
            connection = database._engine.connect()
        except DBAPIError as error:
            raise StartupError(
                f"The database {path} cannot be opened ({_reason(error.orig)}).",
                remedy="Check that its folder can be written and that the disk is not full.",
            ) from None
        database._read_engine = create_engine(
            "sqlite://",
            creator=lambda: _read_only_connection(path),
            hide_parameters=True,
            poolclass=QueuePool,
            pool_size=READERS,
            max_overflow=0,
        )
        # Without it every statement would see a state of its own.
        event.listen(database._read_engine, "begin", lambda c: c.exec_driver_sql("BEGIN"))
        database._readers = ThreadPoolExecutor(READERS, thread_name_prefix="trunkline-read")
        database._writer = threading.Thread(
            target=database._write_loop, args=(connection,), name="trunkline-write", daemon=True
        )
        database._writer.start()
        return database

    _loop: asyncio.AbstractEventLoop
    _engine: Engine
    _read_engine: Engine
    _readers: ThreadPoolExecutor
    _writer: threading.Thread

    async def read(self, unit: Unit[T]) -> T:
        self._refuse_if_closing()
        return await self._loop.run_in_executor(self._readers, self._read, unit)

    def _read(self, unit: Unit[T]) -> T:
        try:
            with Session(self._read_engine, expire_on_commit=False) as session:
                return unit(session)
        except DBAPIError as error:
            if isinstance(error.orig, sqlite3.OperationalError):
                raise StorageUnavailable(f"The database cannot be read ({_reason(error.orig)}).") from error
            raise

    async def write(self, unit: Unit[T]) -> T:
        self._refuse_if_closing()
        future: asyncio.Future[T] = self._loop.create_future()
        self._put(_UnitJob(unit, future))
        return await future

    async def check(self) -> None:
        # Nobody uses this number, and setting it writes a page even if it stays the same: an empty
        # transaction, or an UPDATE that changes nothing, would not touch the disk.
        await self.write(lambda session: session.execute(text("PRAGMA user_version = 0")))

    def appender(self, table: Table, columns: Sequence[str]) -> Append:
        target = _Target(table.name, tuple(columns))
        create_future, put = self._loop.create_future, self._put

        def append(row: tuple[Any, ...]) -> "asyncio.Future[None]":
            self._refuse_if_closing()
            future = create_future()
            put(_AppendJob(target, row, future))
            return future

        return append

    def tell(self, topics: set[str]) -> None:
        """There are no other nodes."""

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        while self._waiting:
            self._hand_over()
        self._batches.put(None)
        await asyncio.to_thread(self._writer.join)
        self._readers.shutdown(wait=True)
        self._read_engine.dispose()
        self._engine.dispose()

    def _refuse_if_closing(self) -> None:
        if self._closing:
            raise StorageUnavailable("The platform is stopping.")

    def _put(self, job: _Job) -> None:
        self._waiting.append(job)
        if not self._writing:
            self._writing = True
            # Not at once: what comes in this turn of the loop shares the commit.
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        """Gives the writer its next batch: whole, so that it wakes once and need not fight for the
        interpreter over every job."""
        batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        self._writing = bool(batch)
        if batch:
            self._batches.put(batch)

    # In the writer thread.

    def _write_loop(self, connection: Connection) -> None:
        with connection:
            while batch := self._batches.get():
                outcomes, topics = self._commit_together(connection, batch)
                self._loop.call_soon_threadsafe(self._resolve, outcomes, topics)

    def _commit_together(
        self, connection: Connection, batch: Sequence[_Job]
    ) -> tuple[list[_Outcome], set[str]]:
        """One transaction for all jobs. A failed COMMIT, or an error at which SQLite itself rolls the whole
        transaction back (disk full, I/O error), fails them all; any other error only its own job."""
        outcomes: list[_Outcome] = []
        topics: set[str] = set()
        try:
            with connection.begin():
                appends = [job for job in batch if isinstance(job, _AppendJob)]
                outcomes += self._append_rows(connection, appends)
                for job in batch:
                    if isinstance(job, _UnitJob):
                        outcomes.append(self._run_unit(connection, job, topics))
                failpoint("sqlite.before_commit")
            failpoint("sqlite.after_commit")
        except Exception as error:  # noqa: BLE001 - whatever happened, every waiter must hear of it
            failure = _as_storage_error(error)
            return [(job.future, None, failure) for job in batch], set()
        return outcomes, topics

    def _append_rows(self, connection: Connection, jobs: Sequence[_AppendJob]) -> list[_Outcome]:
        if not jobs:
            return []
        raw = _raw(connection)
        raw.execute("SAVEPOINT append")
        try:
            for target in {job.target for job in jobs}:
                _insert(raw, target, [job.row for job in jobs if job.target == target])
            raw.execute("RELEASE append")
        except _REFUSALS:
            _still_in_transaction(raw)
            raw.execute("ROLLBACK TO append")
            raw.execute("RELEASE append")
            return [self._append_alone(raw, job) for job in jobs]
        return [(job.future, None, None) for job in jobs]

    def _append_alone(self, raw: sqlite3.Connection, job: _AppendJob) -> _Outcome:
        try:
            _insert(raw, job.target, [job.row])
        except _REFUSALS as error:
            _still_in_transaction(raw)
            return job.future, None, _as_storage_error(error)
        return job.future, None, None

    def _run_unit(self, connection: Connection, job: _UnitJob, topics: set[str]) -> _Outcome:
        with Session(connection, join_transaction_mode="create_savepoint", expire_on_commit=False) as session:
            try:
                result = job.unit(session)
                session.commit()
            except Exception as error:  # noqa: BLE001 - it belongs to whoever asked for the unit
                _still_in_transaction(_raw(connection))
                session.rollback()
                return job.future, None, _as_unit_error(error)
            topics |= signals_of(session)
            return job.future, result, None

    # In the event loop.

    def _resolve(self, outcomes: list[_Outcome], topics: set[str]) -> None:
        self._hand_over()
        try:
            self.signals.send(topics)
        finally:  # whatever a listener does, everybody hears what became of their write
            for future, result, error in outcomes:
                if future.done():  # the caller was cancelled meanwhile
                    continue
                if error is None:
                    future.set_result(result)
                else:
                    future.set_exception(error)


def _insert(raw: sqlite3.Connection, target: _Target, rows: list[tuple[Any, ...]]) -> None:
    # Few statements, not one step a row: after each step this thread has to win the interpreter back.
    for statement, values in multi_row_inserts(target.table, target.columns, rows):
        raw.execute(statement, values)


class _TransactionLost(Exception):
    """SQLite has rolled the whole transaction back by itself."""


def _still_in_transaction(raw: sqlite3.Connection) -> None:
    if not raw.in_transaction:
        raise _TransactionLost


def _as_unit_error(error: Exception) -> Exception:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return _as_storage_error(error) if isinstance(cause, sqlite3.OperationalError) else error


def _as_storage_error(error: BaseException) -> StorageUnavailable:
    result = StorageUnavailable(f"The database could not store it ({_reason(error)}).")
    result.__cause__ = error
    return result


def _reason(error: BaseException | None) -> str:
    """SQLite's first words on what led to the error: "database or disk is full", "disk I/O error".
    They name no values."""
    words = type(error).__name__
    while error is not None:
        if isinstance(error, sqlite3.Error):
            words = str(error)
        error = error.__cause__ or error.__context__
    return words


def _raw(connection: Connection) -> sqlite3.Connection:
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
    return raw


def writer_engine(path: Path) -> Engine:
    """An engine with one connection that may write. Transactions begin as IMMEDIATE."""

    def connect() -> sqlite3.Connection:
        # autocommit: SQLAlchemy begins and ends transactions, the driver must not
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in _WRITER_PRAGMAS:
            connection.execute(pragma)
        return connection

    # Errors are logged, and parameters are what customers sent.
    engine = create_engine("sqlite://", creator=connect, poolclass=StaticPool, hide_parameters=True)
    _plain_savepoints(engine.dialect)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _plain_savepoints(dialect: Dialect) -> None:
    """Has savepoints executed as they are: compiling each anew, as the dialect does because their names
    differ, is most of what a small unit of work costs."""

    def execute(words: str) -> Callable[[Connection, str], None]:
        def run(connection: Connection, name: str) -> None:
            _raw(connection).execute(f"{words} {name}")

        return run

    dialect.do_savepoint = execute("SAVEPOINT")  # type: ignore[method-assign, assignment]
    dialect.do_release_savepoint = execute("RELEASE SAVEPOINT")  # type: ignore[method-assign, assignment]
    dialect.do_rollback_to_savepoint = execute("ROLLBACK TO SAVEPOINT")  # type: ignore[method-assign, assignment]


def _read_only_connection(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA query_only=ON")
    connection.execute("PRAGMA busy_timeout=5000")
    return connection


def lock_data_dir(folder: Path) -> IO[str]:
    """Makes the folder if need be and takes the lock that one process at a time holds.

    The lock is the open file: it ends with the process, however that ends. Raises StartupError.
    """
    make_data_dir(folder)
    try:
        lock = (folder / "trunkline.lock").open("a+")
    except OSError as error:
        raise _not_writable(folder, error) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        owner = lock.read().strip()
        lock.close()
        raise StartupError(
            f"Another process{f' ({owner})' if owner else ''} already uses the data folder {folder}.",
            remedy="Stop it, or name another folder with TRUNKLINE_DATA_DIR or --data-dir.",
        ) from None
    lock.truncate(0)
    lock.write(f"pid {os.getpid()}")
    lock.flush()
    return lock


def make_data_dir(folder: Path) -> None:
    """Makes the folder if need be. Raises StartupError."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise _not_writable(folder, error) from None


def _not_writable(folder: Path, error: OSError) -> StartupError:
    return StartupError(
        f"The data folder {folder} cannot be written ({error.strerror}).",
        remedy="Make it writable, or name another with TRUNKLINE_DATA_DIR or --data-dir.",
    )


def backup(path: Path, target: Path) -> None:
    """Copies a consistent state of the database to `target`, also while the platform runs.

    Raises StartupError if there is nothing to copy or `target` exists.
    """
    if not path.exists():
        raise StartupError(f"There is no database at {path}.", remedy="Name its folder with --data-dir.")
    if target.exists():
        raise StartupError(f"{target} exists.", remedy="Name a file that does not.")
    partial = target.with_name(target.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        partial.touch(mode=0o600)  # it holds everything that was received
        with closing(_read_only_connection(path)) as source, closing(sqlite3.connect(partial)) as copy:
            # In one step: in several, every write of the platform would make it begin again.
            source.backup(copy, pages=-1)
            copy.execute("PRAGMA journal_mode=DELETE")
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(target)
    except (OSError, sqlite3.Error) as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise StartupError(
            f"The backup failed ({error}).", remedy="Free space, or name another file."
        ) from None
