"""Units, appended rows and wake-ups on PostgreSQL, and what happens when it goes away."""

import asyncio
import os
import signal as signals
from collections.abc import AsyncIterator, Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import LargeBinary, String, func, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from app.errors import StartupError, StorageUnavailable
from app.infra import postgres as module
from app.infra.db import insert_rows, signal
from app.infra.migrate import known_revisions, prepare_postgres, upgrade_postgres
from app.infra.postgres import MAX_BATCH, MAX_PAYLOAD, PostgresDatabase, check_server, connect, payloads
from tests.support.pooler import Pooler
from tests.support.postgres import PASSWORD, PostgresServer, database_of
from tests.support.proxy import Proxy

pytestmark = pytest.mark.timeout(60)


class Model(DeclarativeBase):
    pass


class Note(Model):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    writer: Mapped[str] = mapped_column(String(40))
    body: Mapped[bytes | None] = mapped_column(LargeBinary)


NOTES = Note.__table__
COLUMNS = ("id", "writer", "body")


@pytest.fixture
async def database(empty_postgres: str) -> AsyncIterator[PostgresDatabase]:
    opened = await PostgresDatabase.open(empty_postgres)
    await opened.write(lambda s: Model.metadata.create_all(s.connection()))
    yield opened
    await opened.close()


@pytest.fixture
async def other(database: PostgresDatabase) -> AsyncIterator[PostgresDatabase]:
    """Another node over the same database."""
    opened = await PostgresDatabase.open(database.url)
    yield opened
    await opened.close()


def add(number: int, writer: str = "orm") -> Callable[[Session], int]:
    def unit(session: Session) -> int:
        session.add(Note(id=number, writer=writer))
        session.flush()
        return number

    return unit


async def ids(database: PostgresDatabase) -> list[int]:
    return await database.read(lambda s: list(s.scalars(select(Note.id).order_by(Note.id))))


async def count(database: PostgresDatabase) -> int:
    return await database.read(lambda s: s.scalar(select(func.count()).select_from(Note)) or 0)


async def until(good: Callable[[], Any], timeout: float = 15.0) -> None:
    async with asyncio.timeout(timeout):
        while True:
            try:
                if await good():
                    return
            except StorageUnavailable:
                pass
            await asyncio.sleep(0.05)


# Units of work.


async def test_what_a_unit_raises_is_its_callers_and_nothing_of_it_remains(
    database: PostgresDatabase,
) -> None:
    def fails(session: Session) -> None:
        add(100)(session)
        raise LookupError("mine")

    def disk(session: Session) -> None:
        add(101)(session)
        raise OSError("a file of the unit's own")

    assert await database.write(add(1)) == 1
    with pytest.raises(LookupError):
        await database.write(fails)
    with pytest.raises(OSError, match="the unit's own"):
        await database.write(disk)
    with pytest.raises(IntegrityError):
        await database.write(add(1))
    with pytest.raises(DBAPIError) as caught:
        await database.write(add(2, "x" * 41))
    assert "x" * 41 not in str(caught.value), "errors are logged, and values are customers'"
    assert await ids(database) == [1]


async def test_a_caller_that_went_away_disturbs_nobody(database: PostgresDatabase) -> None:
    def slow(session: Session) -> None:
        add(1)(session)
        session.execute(text("SELECT pg_sleep(0.2)"))

    before = await connections(database)
    for _ in range(5):
        going = asyncio.create_task(database.read(lambda s: s.execute(text("SELECT pg_sleep(0.2)")).all()))
        await asyncio.sleep(0.01)
        going.cancel()
    write = asyncio.create_task(database.write(slow))
    await asyncio.sleep(0.05)
    write.cancel()
    with pytest.raises(asyncio.CancelledError):
        await write
    await until(lambda: seen(database, [1]))
    assert await connections(database) <= before + module.READERS + module.WRITERS


async def seen(database: PostgresDatabase, expected: list[int]) -> bool:
    return await ids(database) == expected


async def connections(database: PostgresDatabase) -> int:
    statement = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
    return await database.read(lambda s: int(s.scalar(statement) or 0))


async def test_a_read_unit_cannot_write_and_sees_one_state_throughout(
    database: PostgresDatabase, other: PostgresDatabase
) -> None:
    with pytest.raises(DBAPIError, match="read-only"):
        await database.read(add(1))
    loop = asyncio.get_running_loop()

    def unit(session: Session) -> tuple[int, int]:
        counted = select(func.count()).select_from(Note)
        first = session.scalar(counted) or 0
        loop.call_soon(lambda: asyncio.ensure_future(other.write(add(5))))
        session.execute(text("SELECT pg_sleep(0.3)"))
        return first, session.scalar(counted) or 0

    assert await database.read(unit) == (0, 0)
    assert await ids(database) == [5]


async def test_many_rows_by_few_statements(database: PostgresDatabase) -> None:
    rows = [(n, f"w{n}", b"\0\xff" if n % 2 else None) for n in range(1000)]
    await database.write(lambda s: insert_rows(s, NOTES, COLUMNS, rows))
    found = await database.read(lambda s: s.execute(select(*NOTES.c).order_by(NOTES.c.id)).all())
    assert [tuple(row) for row in found] == rows


async def test_units_that_lock_each_other_out_are_run_again(
    database: PostgresDatabase, other: PostgresDatabase
) -> None:
    await database.write(lambda s: s.add_all([Note(id=1, writer=""), Note(id=2, writer="")]))
    runs = []

    def crossing(first: int, second: int) -> Callable[[Session], None]:
        def unit(session: Session) -> None:
            runs.append(first)
            for number in (first, second):
                note = session.get_one(Note, number, with_for_update=True)
                note.writer += f"{first}"
                session.flush()
                session.execute(text("SELECT pg_sleep(0.2)"))

        return unit

    await asyncio.gather(database.write(crossing(1, 2)), other.write(crossing(2, 1)))
    found = await database.read(lambda s: {n.id: n.writer for n in s.scalars(select(Note))})
    assert {key: sorted(value) for key, value in found.items()} == {1: ["1", "2"], 2: ["1", "2"]}
    assert len(runs) == 3, "one of the two was run again"


async def test_two_that_look_and_then_insert_the_same_agree(
    database: PostgresDatabase, other: PostgresDatabase
) -> None:
    def look_and_insert(session: Session) -> str:
        note = session.get(Note, 7)
        if note is not None:
            return "found"
        session.execute(text("SELECT pg_sleep(0.2)"))
        add(7)(session)
        return "made"

    outcomes = await asyncio.gather(database.write(look_and_insert), other.write(look_and_insert))
    assert sorted(outcomes) == ["found", "made"]


# Appended rows.


async def test_an_appended_row_that_fails_fails_alone(database: PostgresDatabase) -> None:
    append = database.appender(NOTES, COLUMNS)
    rows: list[tuple[Any, ...]] = [(n, "append", b"x" * 100) for n in range(2 * MAX_BATCH)]
    rows[10] = (10, "no\0text", None)
    rows[300] = (300, "x" * 41, None)
    rows[301] = (301, None, None)
    rows[400] = (399, "twice", None)
    rows[401] = ("not a number", "append", None)
    outcomes = await asyncio.gather(*(append(row) for row in rows), return_exceptions=True)
    failed = [n for n, outcome in enumerate(outcomes) if outcome is not None]
    assert failed == [10, 300, 301, 400, 401]
    assert all(isinstance(outcomes[n], StorageUnavailable) for n in failed)
    assert await count(database) == len(rows) - len(failed)


async def test_appenders_and_units_at_once_lose_nothing(
    database: PostgresDatabase, other: PostgresDatabase
) -> None:
    appends = [node.appender(NOTES, COLUMNS) for node in (database, other)]

    async def appending(lane: int) -> None:
        for n in range(50):
            await appends[lane % 2]((lane * 1000 + n, "append", b"b" * 1500))

    async def writing(lane: int) -> None:
        for n in range(10):
            await (database, other)[lane % 2].write(add(100_000 + lane * 1000 + n))

    await asyncio.gather(*(appending(n) for n in range(32)), *(writing(n) for n in range(8)))
    assert await count(database) == 32 * 50 + 8 * 10


async def test_rows_that_wait_together_share_a_statement(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = database.appender(NOTES, COLUMNS)
    await append((0, "first", None))
    executed: list[int] = []
    execute = asyncpg.Connection.execute

    async def counted(self: Any, statement: str, *columns: Any, **options: Any) -> Any:
        executed.append(len(columns[0]))
        return await execute(self, statement, *columns, **options)

    monkeypatch.setattr(asyncpg.Connection, "execute", counted)
    await asyncio.gather(*(append((n, "append", b"x" * 20_000)) for n in range(1, 1001)))
    assert sum(executed) == 1000
    assert len(executed) < 12
    assert max(executed) == MAX_BATCH
    monkeypatch.setattr(module, "MAX_BATCH_BYTES", 100_000)
    executed.clear()
    await asyncio.gather(*(append((n, "append", b"x" * 20_000)) for n in range(2000, 2020)))
    assert max(executed) <= 6, "a batch is bounded in bytes too"


# Wake-ups.


async def test_what_a_unit_signals_wakes_other_nodes(
    database: PostgresDatabase, other: PostgresDatabase
) -> None:
    def signals_and_fails(session: Session) -> None:
        signal(session, "events")
        raise LookupError

    with other.signals.subscribe("events") as news, database.signals.subscribe("events") as own:
        with pytest.raises(LookupError):
            await database.write(signals_and_fails)
        assert not await news.wait(0.3)
        await database.write(lambda s: signal(s, "events"))
        assert await own.wait(0)
        assert await news.wait(5)
        assert not await news.wait(0.3), "once"
    members: list[str] = []
    other.signals.listen_to_family("webhooks", members.append)
    topics = {f"webhooks:con_{n:034}" for n in range(1500)}
    database.tell(topics)
    await until(lambda: asyncio.sleep(0, len(members) >= len(topics)))
    assert {f"webhooks:{member}" for member in members} == topics


def test_notifications_stay_within_the_servers_limit() -> None:
    topics = {f"action:{n:0100}" for n in range(1500)}
    made = payloads(topics)
    assert max(len(payload) for payload in made) <= MAX_PAYLOAD
    assert {topic for payload in made for topic in payload.split("\n")} == topics
    assert payloads({str(n) for n in range(10_000)}) == ["*"]
    assert payloads(set()) == []


async def test_a_link_that_was_cut_comes_back_and_wakes_everybody(
    database: PostgresDatabase, other: PostgresDatabase
) -> None:
    heard: list[bool] = []
    other.signals.listen("connections", lambda: heard.append(True))
    with other.signals.subscribe("anything") as news:
        assert await terminate(database) > 0
        assert await news.wait(10), "nobody knows what was missed"
    assert heard
    with other.signals.subscribe("events") as news:

        async def told() -> bool:
            await database.write(lambda s: signal(s, "events"))
            return await news.wait(0.5)

        await until(told)


async def test_a_link_that_breaks_while_it_comes_back_comes_back_all_the_same(
    database: PostgresDatabase, other: PostgresDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen, broken = asyncpg.Connection.add_listener, []

    async def once_broken(self: Any, *given: Any) -> None:
        if not broken:
            # What the driver raises between the server's last words and the end of the connection.
            broken.append(self)
            raise asyncpg.InternalClientError("another operation is in progress")
        await listen(self, *given)

    monkeypatch.setattr(asyncpg.Connection, "add_listener", once_broken)
    with other.signals.subscribe("anything") as news:
        assert await terminate(database) > 0
        assert await news.wait(10)
    assert broken
    assert all(connection.is_closed() for connection in broken)


async def terminate(database: PostgresDatabase) -> int:
    """Has the server end all connections of the database but the one that asks."""
    link = await connect(database.url)
    try:
        return int(
            await link.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    finally:
        await link.close()


# Outages.


async def test_connections_that_died_idle_are_noticed_before_they_are_used(
    database: PostgresDatabase,
) -> None:
    append = database.appender(NOTES, COLUMNS)
    await append((1, "append", None))
    await asyncio.gather(
        *(database.read(lambda s: s.execute(text("SELECT pg_sleep(0.05)"))) for _ in range(6))
    )
    for n in range(3):
        await terminate(database)
        await asyncio.sleep(0.05)
        await database.write(add(10 + n))
        await append((20 + n, "append", None))
        assert len(await ids(database)) == 3 + 2 * n


async def test_a_restart_of_the_server_is_survived(
    postgres: PostgresServer, database: PostgresDatabase
) -> None:
    append = database.appender(NOTES, COLUMNS)
    attempts = [
        lambda: database.read(lambda s: s.get(Note, 1)),
        lambda: database.write(add(1)),
        lambda: append((2, "append", None)),
        database.check,
        lambda: database.ask("SELECT 1"),
    ]
    for how in (signals.SIGINT, signals.SIGQUIT):
        postgres.stop(how)
        try:
            await asyncio.sleep(0.05)
            for attempt in attempts:
                with pytest.raises(StorageUnavailable) as caught:
                    await attempt()
                assert PASSWORD not in f"{caught.value!r}{caught.value.message}{caught.value.remedy}"
        finally:
            postgres.start()
        await asyncio.sleep(0)
        await until(lambda: _works(database))
        await append((1000 + how, "append", None))
        await database.write(add(2000 + how))
        await until(lambda: _answers(database))


async def _works(database: PostgresDatabase) -> bool:
    await database.check()
    return True


async def _answers(database: PostgresDatabase) -> bool:
    return bool(await database.ask("SELECT 1"))


@pytest.mark.parametrize("delivered", [False, True], ids=["before", "after"])
async def test_a_line_cut_during_commit_leaves_open_what_became_of_it(
    postgres: PostgresServer, database: PostgresDatabase, delivered: bool
) -> None:
    async with Proxy(postgres.port) as proxy:
        url = database.url.replace(f":{postgres.port}/", f":{proxy.port}/")
        through = await PostgresDatabase.open(url)
        await through.write(add(1))
        proxy.cut_at, proxy.deliver = b"COMMIT", delivered
        with pytest.raises(StorageUnavailable) as caught:
            await through.write(add(2))
        assert "may have been stored" in caught.value.remedy
        assert proxy.cuts == 1, "it is not tried again: it may have been stored"
        assert await ids(database) == ([1, 2] if delivered else [1])
        proxy.cut_at = b"pg_sleep"
        with pytest.raises(StorageUnavailable) as caught:
            await through.write(lambda s: (add(3)(s), s.execute(text("SELECT pg_sleep(0)"))))
        assert "Nothing was stored" in caught.value.remedy
        proxy.cut_at = None
        await through.write(add(4))
        await through.close()
    assert await ids(database) == ([1, 2, 4] if delivered else [1, 4])


async def test_appended_rows_are_not_acknowledged_when_the_line_is_cut(
    postgres: PostgresServer, database: PostgresDatabase
) -> None:
    async with Proxy(postgres.port) as proxy:
        through = await PostgresDatabase.open(database.url.replace(f":{postgres.port}/", f":{proxy.port}/"))
        append = through.appender(NOTES, COLUMNS)
        await append((1, "append", None))
        proxy.cut_at = b"mark"
        outcomes = await asyncio.gather(
            *(append((n, "mark", None)) for n in range(2, 9)), return_exceptions=True
        )
        assert all(isinstance(outcome, StorageUnavailable) for outcome in outcomes)
        proxy.cut_at = None
        await append((10, "append", None))
        await through.close()
    assert await ids(database) == [1, 10]


@pytest.mark.parametrize("state", ["53100", "58030", "57P01", "40001", "55P03", "25006"])
async def test_the_servers_own_trouble_is_storage_unavailable(database: PostgresDatabase, state: str) -> None:
    """53100: disk full."""
    await database.write(
        lambda s: s.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                f"RAISE EXCEPTION 'out of order' USING ERRCODE = '{state}'; END $$"
            )
        )
    )
    await database.write(
        lambda s: s.execute(
            text("CREATE TRIGGER refuse BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION refuse()")
        )
    )
    append = database.appender(NOTES, COLUMNS)
    with pytest.raises(StorageUnavailable, match="out of order"):
        await database.write(add(1))
    with pytest.raises(StorageUnavailable, match="out of order"):
        await append((2, "append", None))
    await database.write(lambda s: s.execute(text("DROP TRIGGER refuse ON notes")))
    await append((2, "append", None))
    await database.write(add(1))


async def test_a_database_that_is_read_only_is_not_ready(database: PostgresDatabase) -> None:
    await database.check()
    await database.write(
        lambda s: s.execute(
            text(f"ALTER DATABASE {database.url.rpartition('/')[2].partition('?')[0]} "
                 "SET default_transaction_read_only = on")
        )
    )  # fmt: skip
    await terminate(database)
    await asyncio.sleep(0.05)
    with pytest.raises(StorageUnavailable, match="read-only"):
        await database.check()
    with pytest.raises(StorageUnavailable, match="read-only"):
        await database.write(add(1))


async def test_a_node_that_freezes_in_a_transaction_does_not_hold_the_others_up(
    database: PostgresDatabase, monkeypatch: pytest.MonkeyPatch, empty_postgres: str
) -> None:
    monkeypatch.setitem(module._SESSION, "idle_in_transaction_session_timeout", "300ms")
    freezing = await PostgresDatabase.open(empty_postgres)

    def frozen(session: Session) -> None:
        add(1)(session)
        os.system("sleep 0.6")  # nothing of this process goes on meanwhile

    with pytest.raises(StorageUnavailable):
        await freezing.write(frozen)
    await database.write(add(1))
    await freezing.close()


async def test_closing_finishes_what_waits(empty_postgres: str, database: PostgresDatabase) -> None:
    closing = await PostgresDatabase.open(empty_postgres)
    append = closing.appender(NOTES, COLUMNS)
    tasks = [asyncio.ensure_future(append((n, "append", None))) for n in range(500)]
    tasks += [asyncio.create_task(closing.write(add(1000 + n))) for n in range(20)]
    await asyncio.sleep(0)
    await closing.close()
    await asyncio.gather(*tasks)
    assert await count(database) == 520
    with pytest.raises(StorageUnavailable, match="stopping"):
        await closing.write(add(1))


# Starting.


async def checked(url: str, *, allow_superuser: bool = False) -> None:
    link = await connect(url)
    try:
        await check_server(link, allow_superuser=allow_superuser)
    finally:
        await link.close()


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_a_server_that_may_lose_what_it_acknowledged_is_refused(
    postgres: PostgresServer, empty_postgres: str, setting: str
) -> None:
    await checked(empty_postgres)
    postgres.restart_with(**{setting: "off"})
    try:
        with pytest.raises(StartupError, match=f"{setting}=off") as caught:
            await checked(empty_postgres)
        assert f"{setting} = on" in caught.value.remedy
    finally:
        postgres.restart_with()


async def test_a_role_that_does_not_wait_for_the_disk_is_refused(
    postgres: PostgresServer, empty_postgres: str
) -> None:
    name = database_of(empty_postgres)
    postgres.psql(f"ALTER DATABASE {name} SET synchronous_commit = off")
    with pytest.raises(StartupError, match="synchronous_commit=off") as caught:
        await checked(empty_postgres)
    postgres.psql(caught.value.remedy.removeprefix("Run: "))
    await checked(empty_postgres)
    postgres.psql(f"ALTER ROLE trunkline IN DATABASE {name} SET synchronous_commit = local")
    await checked(empty_postgres)  # nobody else has to have it


async def test_a_database_that_is_read_only_for_the_role_is_refused(
    postgres: PostgresServer, empty_postgres: str
) -> None:
    name = database_of(empty_postgres)
    postgres.psql(f"ALTER ROLE trunkline IN DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(StartupError, match="read-only") as caught:
        await prepare_postgres(empty_postgres, allow_superuser=False)
    assert "RESET default_transaction_read_only" in caught.value.remedy


async def test_a_superuser_is_refused_unless_it_is_allowed(
    postgres: PostgresServer, empty_postgres: str
) -> None:
    url = empty_postgres.replace("//trunkline:", "//postgres:")
    with pytest.raises(StartupError, match="superuser"):
        await checked(url)
    await checked(url, allow_superuser=True)


async def test_an_encoding_that_holds_not_every_text_is_refused(postgres: PostgresServer) -> None:
    url = postgres.create_database(more="ENCODING 'SQL_ASCII' LOCALE 'C'")
    with pytest.raises(StartupError, match="SQL_ASCII"):
        await checked(url)


async def test_an_old_server_and_a_standby_are_refused() -> None:
    facts = {
        "version": 130_012, "fsync": "on", "full_pages": "on", "synchronous": "on", "standbys": "",
        "encoding": "UTF8", "superuser": "off", "role": "trunkline", "standby": False,
        "database": "trunkline", "read_only": "off", "connections": 100,
    }  # fmt: skip

    class Link:
        async def fetchrow(self, _: str) -> dict[str, Any]:
            return facts

    with pytest.raises(StartupError, match="version 13"):
        await check_server(Link(), allow_superuser=False)  # type: ignore[arg-type]
    facts |= {"version": 160_001, "standby": True}
    with pytest.raises(StartupError, match="standby"):
        await check_server(Link(), allow_superuser=False)  # type: ignore[arg-type]
    facts |= {"standby": False, "synchronous": "local", "standbys": "replica"}
    with pytest.raises(StartupError, match="synchronous_commit=local"):
        await check_server(Link(), allow_superuser=False)  # type: ignore[arg-type]


def through(pooler: Pooler, postgres: PostgresServer, url: str) -> str:
    """The same database, by way of the pooler."""
    return url.replace(f":{postgres.port}/", f":{pooler.port}/")


async def test_a_pooler_that_pools_transactions_is_refused(
    postgres: PostgresServer, empty_postgres: str
) -> None:
    async with Pooler(postgres.port, transactions=True) as pooler:
        url = through(pooler, postgres, empty_postgres)
        with pytest.raises(StartupError, match="pooler") as caught:
            await prepare_postgres(url, allow_superuser=False)
        assert "sessions" in caught.value.remedy


async def test_through_a_pooler_of_sessions_a_connection_has_its_settings(
    postgres: PostgresServer, empty_postgres: str
) -> None:
    async with Pooler(postgres.port, transactions=False) as pooler:
        url = through(pooler, postgres, empty_postgres)
        assert await prepare_postgres(url, allow_superuser=False) == known_revisions()
        link = await connect(url, **module._READ_ONLY)
        for name, value in (module._SESSION | module._READ_ONLY).items():
            if not name.startswith("tcp_"):
                assert await link.fetchval("SELECT current_setting($1)", name) == value
        await link.close()


async def test_what_cannot_be_reached_is_said_without_the_password(
    postgres: PostgresServer, empty_postgres: str
) -> None:
    wrong = [
        empty_postgres.replace(f":{postgres.port}/", ":1/"),
        empty_postgres.replace("/test_", "/absent_"),
        empty_postgres.replace("//trunkline:", "//nobody:"),
        empty_postgres.replace("sslmode=disable", "sslmode=nonsense"),
    ]
    for url in wrong:
        for opening in (PostgresDatabase.open(url), prepare_postgres(url, allow_superuser=False)):
            with pytest.raises(StartupError) as caught:
                await opening
            assert PASSWORD not in f"{caught.value.message} {caught.value.remedy}"


# The schema.


async def test_an_empty_database_is_set_up_once_by_those_who_start_together(empty_postgres: str) -> None:
    applied = await asyncio.gather(
        *(prepare_postgres(empty_postgres, allow_superuser=False) for _ in range(3))
    )
    assert sorted(map(len, applied)) == [0, 0, len(known_revisions())]


async def test_who_starts_during_a_migration_waits_however_long_it_takes(
    empty_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module._SESSION, "lock_timeout", "100ms")
    other = await connect(empty_postgres)
    await other.execute("SELECT pg_advisory_lock(hashtext('trunkline migrate'))")
    starting = asyncio.create_task(prepare_postgres(empty_postgres, allow_superuser=False))
    waits = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND wait_event = 'advisory' AND clock_timestamp() - query_start > interval '300 milliseconds'"
    )
    while not starting.done() and not await other.fetchval(waits):
        await asyncio.sleep(0.05)
    await other.close()
    assert await starting == known_revisions()


async def test_a_migration_takes_the_time_that_it_needs(
    postgres: PostgresServer, empty_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = database_of(empty_postgres)
    postgres.psql(f"ALTER ROLE trunkline IN DATABASE {name} SET statement_timeout = '300ms'")
    postgres.psql(
        "CREATE FUNCTION linger() RETURNS event_trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF to_regclass('nodes') IS NULL AND to_regclass('webhooks') IS NOT NULL "
        "AND current_setting('test.lingered', true) IS NULL THEN "
        "PERFORM pg_sleep(0.6), set_config('test.lingered', 'yes', false); END IF; END $$; "
        "CREATE EVENT TRIGGER linger ON ddl_command_end EXECUTE FUNCTION linger()",
        name,
    )
    monkeypatch.setattr(module.connect, "__defaults__", (0.4,))  # for what is no migration
    assert await upgrade_postgres(empty_postgres, allow_superuser=False) == known_revisions()


async def test_an_old_schema_waits_for_the_command_and_a_newer_one_is_refused(empty_postgres: str) -> None:
    assert await upgrade_postgres(empty_postgres, allow_superuser=False) == known_revisions()
    assert await upgrade_postgres(empty_postgres, allow_superuser=False) == []
    link = await connect(empty_postgres)
    await link.execute("UPDATE alembic_version SET version_num = '0001'")
    with pytest.raises(StartupError, match="schema 0001") as caught:
        await prepare_postgres(empty_postgres, allow_superuser=False)
    assert "trunkline migrate" in caught.value.remedy
    await link.execute("UPDATE alembic_version SET version_num = '9999'")
    for opening in (prepare_postgres, upgrade_postgres):
        with pytest.raises(StartupError, match="newer"):
            await opening(empty_postgres, allow_superuser=False)
    await link.close()


async def test_somebody_elses_database_is_not_set_up_unasked(empty_postgres: str) -> None:
    link = await connect(empty_postgres)
    await link.execute("CREATE TABLE invoices (id integer)")
    with pytest.raises(StartupError, match="none of Trunkline"):
        await prepare_postgres(empty_postgres, allow_superuser=False)
    await link.close()
