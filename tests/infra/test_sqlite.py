"""One thread that writes: everybody's transaction, nobody's lock, and what happens when the disk is full."""

import asyncio
import json
import signal as signals
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import String, create_engine, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from app.errors import StartupError, StorageUnavailable
from app.infra.db import signal
from app.infra.migrate import upgrade
from app.infra.sqlite import MAX_BATCH, SqliteDatabase, backup, lock_data_dir, writer_engine
from tests.support.specification import ROOT


class Model(DeclarativeBase):
    pass


class Note(Model):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    writer: Mapped[str] = mapped_column(String(40))
    body: Mapped[str] = mapped_column(default="")


NOTES = Note.__table__
COLUMNS = ("id", "writer", "body")


def make(path: Path) -> Path:
    engine = writer_engine(path)
    Model.metadata.create_all(engine)
    engine.dispose()
    return path


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    opened = await SqliteDatabase.open(make(tmp_path / "notes.db"))
    yield opened
    await opened.close()


def add(number: int, writer: str = "orm", body: str = "") -> Callable[[Session], int]:
    def unit(session: Session) -> int:
        session.add(Note(id=number, writer=writer, body=body))
        session.flush()
        return number

    return unit


async def ids(database: SqliteDatabase) -> list[int]:
    return await database.read(lambda s: list(s.scalars(select(Note.id).order_by(Note.id))))


@dataclass
class Append:
    """A row on its way to an appender."""

    append: Callable[[tuple[Any, ...]], Any]
    row: tuple[Any, ...]

    def start(self) -> Any:
        return self.append(self.row)


class Held:
    """Holds the writer thread, so that what is asked for meanwhile becomes one transaction."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._release = threading.Event()

    async def __aenter__(self) -> None:
        started = asyncio.Event()
        loop = asyncio.get_running_loop()

        def unit(_: Session) -> None:
            loop.call_soon_threadsafe(started.set)
            assert self._release.wait(10)

        self._unit = asyncio.create_task(self._database.write(unit))
        await started.wait()

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)  # tasks just made reach the queue
        self._release.set()
        await self._unit


async def together(database: SqliteDatabase, *jobs: Callable[[Session], Any] | Append) -> list[Any]:
    """The outcomes of writes that share one transaction: units, and rows as `append` and `row`."""
    async with Held(database):
        tasks = [
            asyncio.ensure_future(job.start() if isinstance(job, Append) else database.write(job))
            for job in jobs
        ]
        await asyncio.sleep(0.01)
    return await asyncio.gather(*tasks, return_exceptions=True)


# Units of work.


async def test_a_unit_that_fails_rolls_back_alone(database: SqliteDatabase) -> None:
    append = database.appender(NOTES, COLUMNS)

    def fails(session: Session) -> None:
        add(100)(session)
        raise LookupError("mine")

    def violates(session: Session) -> None:
        add(101)(session)
        session.add(Note(id=1, writer="again"))

    sizes: list[int] = []
    commit_together = database._commit_together

    def counted(connection: Any, batch: Any) -> Any:
        sizes.append(len(batch))
        return commit_together(connection, batch)

    database._commit_together = counted  # type: ignore[method-assign]
    outcomes = await together(
        database,
        add(1),
        Append(append, (50, "append", "")),
        fails,
        violates,
        add(2),
        Append(append, (51, "append", "")),
    )
    assert sizes == [1, 6], "the one that held, then all of them together"
    assert outcomes[0] == 1
    assert outcomes[1] is None
    assert isinstance(outcomes[2], LookupError)
    assert isinstance(outcomes[3], IntegrityError)
    assert outcomes[4:] == [2, None]
    assert await ids(database) == [1, 2, 50, 51]


async def test_an_appended_row_that_fails_fails_alone(database: SqliteDatabase) -> None:
    append = database.appender(NOTES, COLUMNS)
    good, bad = [(1, "a", ""), (2, "a", "")], [(1, "twice", ""), (3, None, ""), (5, object(), "")]
    bad += [(2**70, "a", ""), (7, "\ud800", "")]
    outcomes = await together(database, *(Append(append, row) for row in [*good, *bad]), add(6))
    assert outcomes[:2] == [None, None]
    assert [type(outcome) for outcome in outcomes[2:-1]] == [StorageUnavailable] * len(bad)
    assert outcomes[-1] == 6
    assert await ids(database) == [1, 2, 6]


async def test_two_appenders_of_one_table_both_store(database: SqliteDatabase) -> None:
    """What is acknowledged is there, whoever asked."""
    one, two = database.appender(NOTES, COLUMNS), database.appender(NOTES, COLUMNS)
    other = database.appender(NOTES, ("writer", "id", "body"))
    outcomes = await together(
        database,
        Append(one, (1, "one", "")),
        Append(two, (2, "two", "")),
        Append(one, (3, "one", "")),
        Append(other, ("other", 4, "")),
    )
    assert outcomes == [None] * 4
    assert await ids(database) == [1, 2, 3, 4]


async def test_many_appenders_and_orm_writers_at_once_lose_nothing(database: SqliteDatabase) -> None:
    append = database.appender(NOTES, COLUMNS)

    async def appends(writer: int) -> None:
        for number in range(20):
            await append((writer * 1000 + number, f"append {writer}", "x" * 100))

    async def writes(writer: int) -> None:
        for number in range(20):
            made = await database.write(add(1_000_000 + writer * 1000 + number, f"orm {writer}"))
            assert made in await ids(database)

    await asyncio.gather(*(appends(writer) for writer in range(64)), *(writes(writer) for writer in range(8)))
    found = await database.read(
        lambda s: dict(s.execute(select(Note.writer, func.count()).group_by(Note.writer)).all())
    )
    assert found == {f"append {w}": 20 for w in range(64)} | {f"orm {w}": 20 for w in range(8)}


async def test_more_than_one_transaction_holds_is_stored_in_several(database: SqliteDatabase) -> None:
    append = database.appender(NOTES, COLUMNS)
    count = MAX_BATCH * 2 + 7
    assert await together(database, *(Append(append, (n, "a", "")) for n in range(count))) == [None] * count
    assert len(await ids(database)) == count


async def test_a_caller_that_went_away_disturbs_nobody(database: SqliteDatabase) -> None:
    async with Held(database):
        gone = asyncio.create_task(database.write(add(1)))
        stays = asyncio.create_task(database.write(add(2)))
        await asyncio.sleep(0.01)
        gone.cancel()
    assert await stays == 2
    assert gone.cancelled()
    assert 2 in await ids(database)


# Signals.


async def test_signals_come_after_the_commit_and_before_the_answer(
    database: SqliteDatabase, tmp_path: Path
) -> None:
    seen: list[Any] = []

    def look() -> None:
        with sqlite3.connect(tmp_path / "notes.db") as other:
            seen.append([row[0] for row in other.execute("SELECT id FROM notes")])

    database.signals.listen("notes", look)

    def unit(session: Session) -> None:
        signal(session, "notes")
        add(1)(session)
        assert seen == []

    with database.signals.subscribe("notes") as subscription:
        await database.write(unit)
        assert seen == [[1]]
        assert await subscription.wait(0)
        assert not await subscription.wait(0.01)


async def test_a_listener_that_fails_keeps_no_writer_waiting(
    database: SqliteDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> None:
        raise LookupError("a listener's fault")

    database.signals.listen("notes", fails)
    assert await asyncio.wait_for(database.write(lambda s: signal(s, "notes") or add(1)(s)), 5) == 1
    assert "a listener's fault" in caplog.text


async def test_a_unit_that_fails_signals_nothing(database: SqliteDatabase) -> None:
    def fails(session: Session) -> None:
        signal(session, "notes")
        raise LookupError

    def quiet(session: Session) -> None:
        signal(session, "other")

    with database.signals.subscribe("notes") as notes, database.signals.subscribe("other") as other:
        await together(database, fails, quiet)
        assert await other.wait(1)
        assert not await notes.wait(0.02)


async def test_an_error_does_not_quote_what_was_to_be_stored(database: SqliteDatabase) -> None:
    await database.write(add(1))
    with pytest.raises(IntegrityError) as raised:
        await database.write(add(1, body="planted"))
    assert "planted" not in str(raised.value)


# Reading.


async def test_a_read_unit_cannot_write(database: SqliteDatabase) -> None:
    for statement in ("INSERT INTO notes VALUES (1, 'x', '')", "PRAGMA user_version=7", "DROP TABLE notes"):
        with pytest.raises(StorageUnavailable, match="readonly"):
            await database.read(lambda s, statement=statement: s.execute(text(statement)))
    with pytest.raises(StorageUnavailable, match="readonly"):
        await database.read(add(1))
    assert await ids(database) == []


async def test_a_read_unit_sees_one_state_throughout(database: SqliteDatabase) -> None:
    await database.write(add(1))
    looked, go_on = threading.Event(), threading.Event()

    def twice(session: Session) -> tuple[int, int]:
        count = select(func.count()).select_from(Note)
        first = session.scalar(count)
        looked.set()
        assert go_on.wait(10)
        return first or 0, session.scalar(count) or 0

    reading = asyncio.create_task(database.read(twice))
    await asyncio.to_thread(looked.wait)
    await database.write(add(2))
    assert await ids(database) == [1, 2]
    go_on.set()
    assert await reading == (1, 1)


async def test_a_read_units_error_is_its_callers(database: SqliteDatabase) -> None:
    def fails(_: Session) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await database.read(fails)


# A full disk.


async def limit_pages(database: SqliteDatabase, more: int) -> None:
    """Lets the file grow by so many pages and no further."""

    def unit(session: Session) -> None:
        pages = session.scalar(text("PRAGMA page_count"))
        session.execute(text(f"PRAGMA max_page_count={pages + more}"))

    await database.write(unit)


@pytest.mark.parametrize("rows_at_once", [1, 40])
async def test_a_full_disk_fails_what_does_not_fit_and_nothing_else(
    database: SqliteDatabase, rows_at_once: int
) -> None:
    append = database.appender(NOTES, COLUMNS)
    await database.write(add(1))
    await limit_pages(database, 20)
    stored, refused, number = {1}, [], 1
    while not refused:
        numbers = range(number + 1, number + 1 + rows_at_once)
        number += rows_at_once
        outcomes = await together(database, *(Append(append, (n, "a", "x" * 3000)) for n in numbers))
        refused = [outcome for outcome in outcomes if outcome is not None]
        stored |= {n for n, outcome in zip(numbers, outcomes, strict=True) if outcome is None}
    assert {type(error) for error in refused} == {StorageUnavailable}
    assert "full" in str(refused[0])
    assert refused[0].retry_after
    assert set(await ids(database)) == stored, "acknowledged and stored are the same"

    with pytest.raises(StorageUnavailable, match="full"):
        await database.write(add(900_000, body="x" * 100_000))
    with pytest.raises(LookupError):  # a unit that fails by itself is still told why
        await database.write(_fails)
    assert set(await ids(database)) == stored

    await limit_pages(database, 100_000)
    await append((900_001, "again", "x" * 100_000))
    assert await database.write(add(900_002, body="x" * 100_000)) == 900_002
    assert set(await ids(database)) == stored | {900_001, 900_002}


def _fails(session: Session) -> None:
    raise LookupError


async def test_a_unit_that_fills_the_disk_takes_no_half_of_its_neighbours_with_it(
    database: SqliteDatabase,
) -> None:
    append = database.appender(NOTES, COLUMNS)
    await limit_pages(database, 20)

    def half(session: Session) -> None:
        add(10)(session)
        add(11, body="x" * 1_000_000)(session)

    outcomes = await together(
        database,
        Append(append, (1, "a", "")),
        add(2),
        half,
        add(3),
        Append(append, (4, "a", "")),
    )
    acknowledged = [
        n for n, o in zip((1, 2, None, 3, 4), outcomes, strict=True) if not isinstance(o, Exception)
    ]
    assert isinstance(outcomes[2], StorageUnavailable)
    assert all(isinstance(o, StorageUnavailable) for o in outcomes if isinstance(o, Exception))
    assert await ids(database) == acknowledged
    await limit_pages(database, 100_000)
    assert await database.write(add(20)) == 20
    await append((21, "a", ""))
    assert await ids(database) == [*acknowledged, 20, 21]


FULL_DISK = """
import asyncio, json, resource, sys
from pathlib import Path
from app.errors import StorageUnavailable
from app.infra.sqlite import SqliteDatabase
from tests.infra.test_sqlite import COLUMNS, NOTES, add, ids, make

async def main(path):
    database = await SqliteDatabase.open(make(path))
    append = database.appender(NOTES, COLUMNS)
    said, stored, number = [], [], 0
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, unlimited[1]))
    while len(said) < 30:
        numbers = range(number, number + 10)
        number += 10
        work = [
            append((n, "a", "x" * 2000)) if n % 3 else database.write(add(n, body="x" * 2000))
            for n in numbers
        ]
        for n, outcome in zip(numbers, await asyncio.gather(*work, return_exceptions=True)):
            if isinstance(outcome, StorageUnavailable):
                said.append(str(outcome))
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                stored.append(n)
    during = await ids(database)
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    await append((1_000_000, "again", "x" * 2000))
    await database.write(add(1_000_001, body="x" * 2000))
    after = await ids(database)
    await database.close()
    print(json.dumps({"said": said, "stored": stored, "during": during, "after": after}))

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_disk_that_takes_no_more_bytes_loses_and_halves_nothing(tmp_path: Path) -> None:
    """The same below SQLite: the operating system refuses to let the files grow."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "full.db")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["stored"]
    assert seen["during"] == seen["stored"]
    assert seen["after"] == [*seen["stored"], 1_000_000, 1_000_001]
    with sqlite3.connect(tmp_path / "full.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# Opening and closing.


async def test_closing_finishes_what_waits_and_refuses_the_rest(tmp_path: Path) -> None:
    database = await SqliteDatabase.open(make(tmp_path / "notes.db"))
    append = database.appender(NOTES, COLUMNS)
    async with Held(database):
        waiting = [asyncio.create_task(database.write(add(n))) for n in range(5)]
        waiting += [asyncio.ensure_future(append((n, "a", ""))) for n in range(5, 10)]
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(database.close())
        await asyncio.sleep(0.01)
        for refused in (
            lambda: database.write(add(99)),
            lambda: database.read(_fails),
            lambda: append((98, "a", "")),
        ):
            with pytest.raises(StorageUnavailable, match="stopping"):
                await refused()
    await closing
    assert await asyncio.gather(*waiting) == [*range(5), *[None] * 5]
    await database.close()
    with sqlite3.connect(tmp_path / "notes.db") as connection:
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (10,)


async def test_a_file_that_cannot_be_opened_is_a_start_up_error(tmp_path: Path) -> None:
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "text.db").write_text("this is no database, but long enough to have a header " * 20)
    for path in (tmp_path / "folder.db", tmp_path / "nowhere" / "x.db", tmp_path / "text.db"):
        with pytest.raises(StartupError) as raised:
            await SqliteDatabase.open(path)
        assert raised.value.remedy


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "trunkline.db"
    engine = writer_engine(path)
    upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StartupError, match="9999") as raised:
        upgrade(engine)
    assert "newer" in str(raised.value)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
    engine.dispose()


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "trunkline.db"
    content = "this is no database, but long enough to have a header " * 20
    path.write_text(content)
    engine = writer_engine(path)
    with pytest.raises(StartupError, match="not a database") as raised:
        upgrade(engine)
    assert raised.value.remedy
    engine.dispose()
    assert path.read_text() == content


# The lock.

HOLD = """
import sys, time
from pathlib import Path
from app.infra.sqlite import lock_data_dir
lock = lock_data_dir(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "for it"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(StartupError, match=f"pid {holder.pid}") as raised:
            lock_data_dir(folder)
        assert "TRUNKLINE_DATA_DIR" in raised.value.remedy
    finally:
        holder.send_signal(signals.SIGKILL)
        holder.wait()
    lock_data_dir(folder).close()
    lock_data_dir(folder).close()


def test_a_data_folder_that_cannot_be_made_is_a_start_up_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="cannot be written"):
        lock_data_dir(tmp_path / "file" / "data")


def test_the_data_folder_is_private(tmp_path: Path) -> None:
    lock_data_dir(tmp_path / "data").close()
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700


# Backups.


async def test_a_backup_of_a_busy_database_is_complete_and_opens(
    database: SqliteDatabase, tmp_path: Path
) -> None:
    append = database.appender(NOTES, COLUMNS)
    for number in range(200):
        await append((number, "before", "x" * 500))
    target, busy = tmp_path / "copy.db", True

    async def keep_writing() -> int:
        number = 1000
        while busy:
            await append((number, "during", ""))
            number += 1
        return number - 1000

    writing = asyncio.create_task(keep_writing())
    await asyncio.to_thread(backup, tmp_path / "notes.db", target)
    busy = False
    assert await writing > 0
    assert target.stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("copy")) == ["copy.db"]
    with sqlite3.connect(target) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    restored = await SqliteDatabase.open(target)
    found = await ids(restored)
    assert found[:200] == list(range(200))
    assert found[200:] == list(range(1000, 1000 + len(found) - 200)), "a consistent state has no gaps"
    await restored.write(add(999_999))
    await restored.close()


def test_a_backup_never_overwrites_and_says_what_is_wrong(tmp_path: Path) -> None:
    source = make(tmp_path / "notes.db")
    (tmp_path / "there.db").write_text("precious")
    (tmp_path / "text.db").write_text("this is no database, but long enough to have a header " * 20)
    for path, target, problem in (
        (tmp_path / "nothing.db", tmp_path / "copy.db", "no database"),
        (source, tmp_path / "there.db", "exists"),
        (source, tmp_path / "nowhere" / "copy.db", "failed"),
        (tmp_path / "text.db", tmp_path / "copy.db", "failed"),
    ):
        with pytest.raises(StartupError, match=problem) as raised:
            backup(path, target)
        assert raised.value.remedy
    assert (tmp_path / "there.db").read_text() == "precious"
    assert not (tmp_path / "copy.db").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_what_a_failed_backup_left_is_in_nobodys_way(tmp_path: Path) -> None:
    source = make(tmp_path / "notes.db")
    (tmp_path / "copy.db.partial").write_text("half of something " * 100)
    backup(source, tmp_path / "copy.db")
    engine = create_engine(f"sqlite:///{tmp_path / 'copy.db'}")
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Note)) == 0
    engine.dispose()
