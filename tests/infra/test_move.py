"""Rows on their way from SQLite to PostgreSQL, with every value that SQLite can hold."""

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import app.main  # noqa: F401 - it imports every model
from app.errors import StartupError
from app.infra.db import Base
from app.infra.migrate import upgrade
from app.infra.move.comparison import compare
from app.infra.move.mark import remove
from app.infra.move.move import Move, Report
from app.infra.move.tables import Field, Moved, tables_of
from app.infra.sqlite import writer_engine
from tests.support.postgres import PostgresServer
from tests.support.specification import ROOT

TABLES = {table.name: table for table in tables_of(Base.metadata)}
NOT_UTF8 = "CAST(x'eda080' AS TEXT)"
"""What a lone surrogate would be: the driver refuses to write one, but a file may hold it."""


class _NotUtf8:
    """Stands for it among values."""


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the current schema and nothing in it."""
    path = tmp_path_factory.mktemp("blank") / "trunkline.db"
    engine = writer_engine(path)
    upgrade(engine)
    engine.dispose()
    return path


@pytest.fixture
def file(blank: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(blank, tmp_path))


def insert(path: Path, table: str, rows: list[dict[str, Any]]) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for row in rows:
            marks = [NOT_UTF8 if isinstance(value, _NotUtf8) else "?" for value in row.values()]
            names = ", ".join(f'"{name}"' for name in row)
            values = [value for value in row.values() if not isinstance(value, _NotUtf8)]
            connection.execute(f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({', '.join(marks)})", values)


async def move(path: Path, url: str, **options: Any) -> Report:
    return await Move(path, url, "there", None, Base.metadata, **options).run()


async def both(path: Path, url: str, name: str) -> tuple[list[Any], list[Any]]:
    """A table's rows in the file and over there, in one order, as plain values."""
    with closing(sqlite3.connect(path)) as connection:
        here = [tuple(row) for row in connection.execute(f"SELECT {_columns(name)} FROM {name}")]
    return sorted(here, key=repr), await rows_there(url, name)


async def rows_there(url: str, name: str) -> list[Any]:
    link = await asyncpg.connect(url)
    try:
        rows = await link.fetch(f"SELECT {_columns(name)} FROM {name}")
    finally:
        await link.close()
    return sorted((tuple(int(v) if isinstance(v, bool) else v for v in row) for row in rows), key=repr)


def _columns(name: str) -> str:
    return ", ".join(f'"{field.name}"' for field in TABLES[name].fields)


# Values.

ANYTHING = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-3, 3),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
    st.text("a\0\ufffd\U0010ffff\u0301 ", max_size=4),
    st.binary(max_size=50),
    st.builds(_NotUtf8),
)


def fitting(field: Field) -> st.SearchStrategy[Any]:
    """Values that both databases take, the awkward ones among them."""
    text = st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
        max_size=min(field.length or 200, 200),
    )
    of_kind: dict[str, st.SearchStrategy[Any]] = {
        "text": text
        | st.sampled_from(["", " ", "\U0010ffff" * (field.length or 3000), "a\u0301", "\\N", "\r\n"]),
        "bytes": st.binary(max_size=field.length or 300) | st.just(b"\0" * (field.length or 5000)),
        "integer": st.integers(-(2**31), 2**31 - 1),
        "bigint": st.integers(-(2**63), 2**63 - 1),
        "boolean": st.sampled_from([0, 1]),
        "float": st.floats(allow_nan=False),
    }
    return of_kind[field.kind] | st.none() if field.nullable else of_kind[field.kind]


def rows_of(table: Moved) -> st.SearchStrategy[list[dict[str, Any]]]:
    row = st.fixed_dictionaries({field.name: fitting(field) for field in table.fields})
    return st.lists(row, max_size=4)


AS_THEY_ARE = [table for name, table in TABLES.items() if table.target != "pgqueuer"]

with_servers = settings(
    deadline=None,
    derandomize=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture, *HealthCheck],
)


@settings(with_servers, max_examples=8)
@given(contents=st.fixed_dictionaries({table.name: rows_of(table) for table in AS_THEY_ARE}))
def test_whatever_fits_arrives_as_it_was(
    blank: Path, postgres: PostgresServer, contents: dict[str, list[dict[str, Any]]]
) -> None:
    async def check(path: Path, url: str) -> None:
        report = await move(path, url)
        assert report.different == 0
        for name in contents:
            here, there = await both(path, url, name)
            assert here == there

    _on_fresh_ones(blank, postgres, contents, check)


@settings(with_servers, max_examples=30)
@given(data=st.data())
def test_a_value_arrives_as_it_was_or_its_place_is_named(
    blank: Path, postgres: PostgresServer, data: st.DataObject
) -> None:
    """Any value of SQLite in any column: what is let through arrives, and what would not is found before."""
    table = data.draw(st.sampled_from(AS_THEY_ARE))
    row = {field.name: data.draw(fitting(field)) for field in table.fields}
    column = data.draw(st.sampled_from([field.name for field in table.fields]))
    row[column] = data.draw(ANYTHING)

    async def check(path: Path, url: str) -> None:
        refused = await _refusal(path, url)
        if refused is None:
            here, there = await both(path, url, table.name)
            assert here == there
            return
        assert refused.message.startswith("PostgreSQL cannot store 1 of the values as they are.")
        [problem] = refused.problems
        assert problem.path.startswith(f"{table.name} ")
        assert problem.message.startswith(f"{column} ")
        assert await rows_there(url, table.name) == []

    with contextlib.suppress(sqlite3.IntegrityError):  # what SQLite does not take either
        _on_fresh_ones(blank, postgres, {table.name: [row]}, check)


async def _refusal(path: Path, url: str) -> StartupError | None:
    try:
        report = await move(path, url)
    except StartupError as error:
        return error
    assert report.different == 0
    return None


def _on_fresh_ones(blank: Path, postgres: PostgresServer, contents: Any, check: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copy(blank, folder))
        for name, rows in contents.items():
            insert(path, name, rows)
        url = postgres.create_database(template=postgres.migrated())
        try:
            asyncio.run(check(path, url))
        finally:
            postgres.drop_database(url)


async def test_all_faults_are_counted_the_first_are_named_and_no_value_is_shown(
    file: Path, migrated_postgres: str
) -> None:
    rows = [{"name": f"tenant-{n:02}", "created_at": "secret"} for n in range(30)]
    insert(file, "tenants", rows)
    insert(file, "leases", [{"name": "x" * 201, "node": _NotUtf8()}])
    with pytest.raises(StartupError) as refused:
        await move(file, migrated_postgres, replace_nul=True)
    assert refused.value.message.startswith(
        "PostgreSQL cannot store 32 of the values as they are (the first 20 are named)."
    )
    assert len(refused.value.problems) == 20
    told = [f"{problem.path}: {problem.message}" for problem in refused.value.problems]
    assert told[1] == f"leases {'x' * 201}: node is text that is not UTF-8."
    assert told[2] == "tenants tenant-00: created_at is text, and should be bigint."
    assert "secret" not in "".join(told)
    assert "--replace-nul" not in refused.value.remedy


async def test_only_u_0000_outside_of_keys_is_replaced(file: Path, migrated_postgres: str) -> None:
    insert(file, "leases", [{"name": "with \0", "node": "a\0b\0"}])
    with pytest.raises(StartupError) as refused:
        await move(file, migrated_postgres, replace_nul=True)
    [problem] = refused.value.problems
    assert problem.message == "name holds the character U+0000, which PostgreSQL cannot store."
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE leases SET name = 'plain'")
    report = await move(file, migrated_postgres, replace_nul=True)
    assert report.different == 0
    assert await rows_there(migrated_postgres, "leases") == [("plain", "a\ufffdb\ufffd")]


async def test_numbers_go_on_after_the_last_that_was_ever_given(file: Path, migrated_postgres: str) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('events', 41)")
    insert(file, "master_key_check", [{"id": 1, "sealed": b"x"}])
    await move(file, migrated_postgres)
    link = await asyncpg.connect(migrated_postgres)
    for table, following in (("events", 42), ("webhooks", 1), ("master_key_check", 2)):
        column = TABLES[table].sequence
        assert (
            await link.fetchval(f"SELECT nextval(pg_get_serial_sequence('{table}', '{column}'))") == following
        )
    await link.close()


async def test_wake_ups_become_those_of_the_other_queue(file: Path, migrated_postgres: str) -> None:
    waiting = [
        ("action.run", "act_b", 1_700_000_000_001, 0, 0),
        ("action.run", "act_a", 1_700_000_000_001, 1, 3),
        ("action.run", "act_a", 1_700_000_000_001, 1, 3),
        ("connection.register", "con_1", 0, 0, 0),
        ("action.run", "act_c", 253_402_300_799_999, 0, 0),
    ]
    columns = ("kind", "ref", "not_before", "claimed", "failures")
    insert(file, "work", [dict(zip(columns, row, strict=True)) for row in waiting])
    report = await move(file, migrated_postgres)
    assert [(t.source_rows, t.target_rows) for t in report.compared if t.table.startswith("work")] == [(5, 5)]
    link = await asyncpg.connect(migrated_postgres)
    rows = await link.fetch(
        "SELECT entrypoint, payload, (extract(epoch FROM execute_after) * 1000)::bigint AS due, status, "
        "attempts FROM pgqueuer ORDER BY id"
    )
    await link.close()
    assert [tuple(row) for row in rows] == [
        (kind, ref.encode(), due, "queued", failures)
        for kind, ref, due, _, failures in sorted(waiting, key=lambda row: (row[2], row[0], row[1]))
    ]


async def test_a_wake_up_that_cannot_be_said_is_refused(file: Path, migrated_postgres: str) -> None:
    row = {"kind": "k", "ref": "r", "not_before": 253_402_300_800_000, "claimed": 0, "failures": 0}
    insert(file, "work", [row])
    with pytest.raises(StartupError) as refused:
        await move(file, migrated_postgres)
    assert refused.value.problems[0].message == "not_before is not a time before the year 10000."


async def test_every_table_with_all_its_columns_is_moved_or_said_to_stay(
    file: Path, migrated_postgres: str
) -> None:
    """A table that a later version adds is moved without anybody thinking of it."""
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("CREATE TABLE mine (x)")
        tables = {
            name: {column[1] for column in connection.execute(f"PRAGMA table_info({name})")}
            for (name,) in connection.execute(
                "SELECT name FROM sqlite_master WHERE type = 'table'"
            ).fetchall()
        }
    report = await move(file, migrated_postgres)
    assert report.left_out == ["mine"]
    for stays in ("alembic_version", "sqlite_sequence", "mine", "work"):
        del tables[stays]
    assert tables == {
        name: {field.name for field in table.fields} for name, table in TABLES.items() if name in tables
    }
    assert {t.table for t in report.compared} == {*tables, "work (the queue)"}


# Comparing.

KEYED = TABLES["leases"]


@given(
    here=st.dictionaries(st.text("ab", max_size=3), st.sampled_from("xy"), max_size=8),
    there=st.dictionaries(st.text("ab", max_size=3), st.sampled_from("xy"), max_size=8),
)
def test_two_streams_differ_exactly_where_they_do(here: dict[str, str], there: dict[str, str]) -> None:
    result = asyncio.run(compare(KEYED, iter(sorted(here.items())), _stream(sorted(there.items()))))
    assert (result.source_rows, result.target_rows) == (len(here), len(there))
    assert result.different == len([key for key in here | there if here.get(key) != there.get(key)])


@given(
    here=st.lists(st.sampled_from(["a", "b", "c"]), max_size=6),
    there=st.lists(st.sampled_from(["a", "b", "c"]), max_size=6),
)
def test_rows_that_are_there_more_than_once_count_as_often(here: list[str], there: list[str]) -> None:
    def rows(refs: list[str]) -> Iterator[tuple[Any, ...]]:
        return iter([("k", ref, 0, 0) for ref in sorted(refs)])

    result = asyncio.run(compare(TABLES["work (the queue)"], rows(here), _stream(rows(there))))
    assert result.different == sum(abs(here.count(ref) - there.count(ref)) for ref in "abc")


async def _stream(rows: Any) -> AsyncIterator[tuple[Any, ...]]:
    for row in rows:
        yield row


# How much is in memory.

BODY = 4 * 1024 * 1024
BODIES = 30


SHOWS_ITS_PEAK = """
import os
from app.__main__ import main
from tests.support.process import peak_memory
try:
    main()
finally:
    print("peak", peak_memory(os.getpid()))
"""


def test_a_move_needs_no_more_memory_for_more_data(file: Path, postgres: PostgresServer) -> None:
    little = _peak(file, postgres)
    row = {
        "tenant": "t", "connection_id": "c", "integration": "i", "source": "webhook", "method": "POST",
        "query": "", "headers": "[]", "received_at": 1, "state": "processed", "tries": 1,
    }  # fmt: skip
    insert(file, "webhooks", [{**row, "id": f"w{n}", "body": os.urandom(BODY)} for n in range(BODIES)])
    assert _peak(file, postgres) < little + BODIES * BODY / 3


def _peak(file: Path, postgres: PostgresServer) -> int:
    """Bytes that the command had at most. What it did is undone."""
    url = postgres.create_database(template=postgres.migrated())
    moved = subprocess.run(
        [sys.executable, "-c", SHOWS_ITS_PEAK, "migrate-data", "--data-dir", str(file.parent)],
        cwd=ROOT,
        env=os.environ | {"TRUNKLINE_DATABASE_URL": url},
        check=True,
        capture_output=True,
        text=True,
    )
    postgres.drop_database(url)
    remove(file)
    return int(moved.stdout.rpartition("peak ")[2])
