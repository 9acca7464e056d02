"""`trunkline migrate-data`: what it says, what it refuses, and the way back."""

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from app.config import Settings
from app.errors import StartupError
from app.infra.move import mark
from app.infra.postgres import engine_for
from app.infra.sqlite import lock_data_dir, writer_engine
from app.main import open_platform
from tests.support.connectors import OpenConnector
from tests.support.platform import registry_of, running_platform
from tests.support.postgres import PASSWORD, PostgresServer, database_of
from tests.support.specification import ROOT

from .conftest import Ran, Trunkline

CONNECTIONS = ("plain", "with \0 in it")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a platform that has a connection with two events, and was stopped."""
    folder = tmp_path_factory.mktemp("kept") / "data"

    async def fill() -> None:
        async with running_platform(folder, OpenConnector) as running:
            url = (await running.connect("open"))["webhook_url"]
            for number in range(2):
                assert (await running.client.post(url, json={"id": f"n{number}"})).status_code == 200
            await running.feed_of(2)

    asyncio.run(fill())
    return folder


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(kept, tmp_path / "data"))


@pytest.fixture
def foreign_postgres(postgres: PostgresServer) -> Iterator[str]:
    """A database in which somebody else's tables are."""
    url = postgres.create_database()
    run_in(postgres, url, "CREATE TABLE theirs (id integer)")
    yield url
    postgres.drop_database(url)


def run_in(postgres: PostgresServer, url: str, statement: str) -> str:
    return postgres.psql(statement, database_of(url))


def move(local: Trunkline, folder: Path, url: str | None, *arguments: str) -> Ran:
    variables = {"TRUNKLINE_DATABASE_URL": url} if url else {}
    ran = local("migrate-data", "--data-dir", str(folder), *arguments, **variables)
    assert PASSWORD not in ran.stdout + ran.stderr
    return ran


def tables(folder: Path) -> dict[str, list[Any]]:
    """Everything in the file."""
    with closing(sqlite3.connect(folder / "trunkline.db")) as file:
        names = [row[0] for row in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: file.execute(f"SELECT * FROM {name}").fetchall() for name in names}


def change(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "trunkline.db")) as file, file:
        file.execute(statement)


def refusal(folder: Path) -> str:
    """Why a platform does not start over the folder; empty if it does."""

    async def start() -> None:
        settings = Settings(data_dir=folder)
        platform = await open_platform(settings, lambda: "http://127.0.0.1", registry_of(OpenConnector))
        await platform.close()

    try:
        asyncio.run(start())
    except StartupError as error:
        return f"{error.message} {error.remedy}"
    return ""


def test_it_shows_every_table_and_says_what_to_keep(
    local: Trunkline, folder: Path, empty_postgres: str
) -> None:
    ran = move(local, folder, empty_postgres)
    assert ran.exit_code == 0, ran.stderr
    lines = [line.split() for line in ran.stdout.splitlines()]
    assert ["events", "2", "2", "0"] in lines
    assert ["webhooks", "2", "2", "0"] in lines
    assert ["work", "(the", "queue)", "0", "0", "0"] in lines
    assert f"Keep the master key ({folder / 'master.key'})" in ran.stdout
    assert "every row as it was" in ran.stdout
    assert empty_postgres.replace(PASSWORD, "***") in ran.stdout
    again = move(local, folder, empty_postgres, "--json").json
    assert (again["moved"], again["copied"]) == (True, False)


def test_a_moved_file_is_not_started_until_somebody_takes_it_up_again(
    local: Trunkline, folder: Path, empty_postgres: str
) -> None:
    assert refusal(folder) == ""
    assert move(local, folder, empty_postgres).exit_code == 0
    shown = empty_postgres.replace(PASSWORD, "***")
    assert f"was moved to {shown}" in refusal(folder)
    for words in (["migrate"], ["keys", "recover"]):
        ran = local(*words, "--data-dir", str(folder))
        assert (ran.exit_code, f"was moved to {shown}" in ran.stderr) == (1, True)
    copied = local("backup", str(folder / "copy.db"), "--data-dir", str(folder))
    assert copied.exit_code == 0
    (folder / "other").mkdir()
    (folder / "copy.db").rename(folder / "other" / "trunkline.db")
    assert "was moved to" in refusal(folder / "other"), "a copy is no other platform"

    elsewhere = move(local, folder, f"{empty_postgres}&application_name=x")
    assert elsewhere.exit_code == 1
    assert f"was moved, or may have been, to {shown}" in elsewhere.stderr

    undone = " ".join(move(local, folder, None, "--undo").stdout.split())
    assert "can be started again" in undone
    assert "what was queued would be sent from both" in undone
    assert refusal(folder) == ""
    assert "was not marked as moved" in move(local, folder, None, "--undo").stdout
    filled = move(local, folder, empty_postgres)
    assert (filled.exit_code, "holds data already" in filled.stderr) == (1, True)


def test_what_was_moved_is_not_moved_once_more(
    local: Trunkline, folder: Path, postgres: PostgresServer, empty_postgres: str
) -> None:
    """What was queued may have been sent from over there."""
    assert move(local, folder, empty_postgres).exit_code == 0
    for table in tables(folder).keys() - {"alembic_version", "sqlite_sequence", "moved"}:
        run_in(postgres, empty_postgres, f"TRUNCATE {table}")
    again = move(local, folder, empty_postgres)
    assert again.exit_code == 1
    assert "that database is empty now" in again.stderr
    assert "migrate-data --undo first" in again.stderr
    assert move(local, folder, None, "--undo").exit_code == 0
    assert move(local, folder, empty_postgres, "--json").json["copied"]


def test_a_file_that_cannot_be_marked_at_the_end_is_not_started_all_the_same(
    local: Trunkline, folder: Path, empty_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(_: Path) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(mark, "finish", no_space)
        moved = move(local, folder, empty_postgres)
    assert moved.exit_code == 1
    assert "Everything is in PostgreSQL, but the file" in moved.stderr
    assert "was begun at" in refusal(folder)
    again = move(local, folder, empty_postgres, "--json").json
    assert (again["moved"], again["copied"]) == (True, False)
    assert "was moved to" in refusal(folder)


def test_a_folder_in_use_is_left_alone(local: Trunkline, folder: Path, empty_postgres: str) -> None:
    with lock_data_dir(folder):
        for arguments in ([], ["--undo"]):
            ran = move(local, folder, empty_postgres, *arguments)
            assert ran.exit_code == 1
            assert "Another process (pid " in ran.stderr


def test_what_it_cannot_move_to_it_says_and_nothing_changes(
    local: Trunkline, folder: Path, tmp_path: Path, postgres: PostgresServer, migrated_postgres: str,
    foreign_postgres: str,
) -> None:  # fmt: skip
    before = tables(folder)
    name = database_of(migrated_postgres)
    run_in(postgres, migrated_postgres, "INSERT INTO tenants (name, created_at) VALUES ('somebody', 1)")
    for url, words in (
        (None, "It is not said where to. Set TRUNKLINE_DATABASE_URL"),
        ("mysql://trunkline@127.0.0.1/x", "must name a PostgreSQL database"),
        (f"postgresql://trunkline:{PASSWORD}@127.0.0.1:1/x", "cannot be reached"),
        (postgres.url("absent"), "cannot be reached"),
        (migrated_postgres, "holds data already (in tenants). Name one that is empty"),
        (foreign_postgres, "has tables, but none of Trunkline"),
        (postgres.url(name, role="postgres"), "is a superuser"),
    ):
        ran = move(local, folder, url)
        assert (ran.exit_code, words in ran.stderr) == (1, True), ran.stderr
    run_in(
        postgres, migrated_postgres, "DELETE FROM tenants; UPDATE alembic_version SET version_num = '9999'"
    )
    newer = move(local, folder, migrated_postgres)
    assert newer.exit_code == 1
    assert "has schema 9999, which this version does not know: it is newer" in newer.stderr
    assert tables(folder) == before
    nothing = move(local, tmp_path / "nothing", migrated_postgres)
    assert (nothing.exit_code, "There is no database at" in nothing.stderr) == (1, True)
    assert not (tmp_path / "nothing").exists()


def test_what_it_cannot_move_it_says_before_anything_is_done(
    local: Trunkline, folder: Path, postgres: PostgresServer, empty_postgres: str
) -> None:
    key = (folder / "master.key").read_text()
    (folder / "master.key").unlink()
    gone = move(local, folder, empty_postgres)
    assert (gone.exit_code, "is gone" in gone.stderr) == (1, True), gone.stderr
    (folder / "master.key").write_text("A" * 43 + "=\n")
    wrong = move(local, folder, empty_postgres)
    assert (wrong.exit_code, "not the one that this database was written with" in wrong.stderr) == (1, True)
    (folder / "master.key").write_text(key)
    change(folder, "UPDATE alembic_version SET version_num = '9999'")
    newer = move(local, folder, empty_postgres)
    assert (newer.exit_code, "has schema 9999" in newer.stderr) == (1, True)
    (folder / "trunkline.db").write_bytes(b"not a database, by far" * 100)
    broken = move(local, folder, empty_postgres)
    assert (broken.exit_code, "cannot be opened" in broken.stderr) == (1, True)
    count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert run_in(postgres, empty_postgres, count) == "0"


def test_values_that_postgresql_cannot_store_are_named_and_not_shown(
    local: Trunkline, tmp_path: Path, postgres: PostgresServer, empty_postgres: str
) -> None:
    folder = tmp_path / "data"

    async def fill() -> list[str]:
        async with running_platform(folder, OpenConnector) as running:
            return [(await running.connect("open", name=f"private{n}"))["id"] for n in CONNECTIONS]

    plain, awkward = asyncio.run(fill())
    before = tables(folder)
    refused = move(local, folder, empty_postgres)
    assert refused.exit_code == 1
    assert f"  connections {awkward}: name holds the character U+0000" in refused.stderr
    assert "--replace-nul" in refused.stderr
    assert "private" not in refused.stderr
    assert plain not in refused.stderr
    assert tables(folder) == before
    assert run_in(postgres, empty_postgres, "SELECT count(*) FROM connections") == "0"

    assert move(local, folder, empty_postgres, "--replace-nul").exit_code == 0
    names = run_in(postgres, empty_postgres, "SELECT name FROM connections ORDER BY id").splitlines()
    assert names == ["privateplain", "privatewith \ufffd in it"]


def test_a_row_that_is_changed_on_its_way_is_found_and_nothing_is_moved(
    local: Trunkline, folder: Path, postgres: PostgresServer, migrated_postgres: str
) -> None:
    def has_trigger(words: str) -> None:
        run_in(
            postgres,
            migrated_postgres,
            "CREATE OR REPLACE FUNCTION meddle() RETURNS TRIGGER LANGUAGE plpgsql AS "
            f"$$ BEGIN {words} END; $$; "
            "CREATE OR REPLACE TRIGGER meddle BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION meddle()",
        )

    for words, told in (
        (
            "IF NEW.seq = 2 THEN NEW.payload = NEW.payload || ' '; END IF; RETURN NEW;",
            "not the same in payload",
        ),
        ("IF NEW.seq = 2 THEN NEW.conflicting = true; END IF; RETURN NEW;", "not the same in conflicting"),
        ("IF NEW.seq = 2 THEN NEW.external_id = NULL; END IF; RETURN NEW;", "not the same in external_id"),
        ("IF NEW.seq = 2 THEN RETURN NULL; END IF; RETURN NEW;", "not in PostgreSQL"),
    ):
        has_trigger(words)
        ran = move(local, folder, migrated_postgres)
        assert ran.exit_code == 1
        assert ["events", "2"] in [line.split()[:2] for line in ran.stdout.splitlines()]
        assert f"  events 2: {told}" in ran.stderr
        assert "1 rows were not in PostgreSQL as in the file. Nothing was moved." in ran.stderr
        assert run_in(postgres, migrated_postgres, "SELECT count(*) FROM events, webhooks") == "0"
        assert refusal(folder) == "", "the file is as it was"
    has_trigger("INSERT INTO tenants (name, created_at) VALUES ('x' || NEW.seq, 1); RETURN NEW;")
    extra = move(local, folder, migrated_postgres)
    # Tenants come after events, so the row that is too many stands in the way of none.
    assert extra.exit_code == 1
    assert "tenants x1: not in the file" in extra.stderr
    run_in(postgres, migrated_postgres, "DROP TRIGGER meddle ON events")
    assert move(local, folder, migrated_postgres).exit_code == 0


def test_an_older_file_and_an_older_database_are_brought_up_to_date(
    local: Trunkline, tmp_path: Path, empty_postgres: str
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    engine = writer_engine(folder / "trunkline.db")
    with engine.connect() as connection:
        bring_to(connection, "0002")
    engine.dispose()
    change(folder, "INSERT INTO tenants VALUES ('acme', 7)")

    async def make_there() -> None:
        there = engine_for(empty_postgres, 1)
        async with there.connect() as connection:
            await connection.run_sync(bring_to, "0003")
        await there.dispose()

    asyncio.run(make_there())
    moved = move(local, folder, empty_postgres, "--json").json
    assert {t["table"]: t["target_rows"] for t in moved["tables"]}["tenants"] == 1
    assert moved["master_key"] is None, "nothing was sealed"


def bring_to(connection: Connection, revision: str) -> None:
    """The schema of an earlier version."""
    config = Config()
    config.set_main_option("script_location", str(ROOT / "app/infra/migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)
    connection.commit()
