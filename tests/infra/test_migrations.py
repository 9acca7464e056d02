"""The models and the migrations say the same."""

from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, Engine, text

import app.main  # noqa: F401 - it imports every model
from app.errors import StartupError
from app.infra.db import Base
from app.infra.migrate import upgrade, upgrade_postgres
from app.infra.postgres import engine_for
from app.infra.sqlite import writer_engine


def schema(engine: Engine) -> dict[tuple[str, str], list[str]]:
    """Every table and index as SQLite keeps it, but for blanks and the order of constraints."""
    with engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%'"
            )
        )
        return {
            (row.type, row.name): sorted(
                " ".join(row.sql.replace('"', "").split()).removesuffix(" )").split(", ")
            )
            for row in rows
            if row.name != "alembic_version"
        }


def columns(engine: Engine) -> dict[str, list[Any]]:
    with engine.connect() as connection:
        return {
            name: connection.execute(text(f"PRAGMA table_xinfo({name})")).all()
            for kind, name in schema(engine)
            if kind == "table"
        }


def test_the_models_need_no_other_migration(tmp_path: Path) -> None:
    engine = writer_engine(tmp_path / "a.db")
    upgrade(engine)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


async def test_the_models_need_no_other_migration_on_postgresql(empty_postgres: str) -> None:
    await upgrade_postgres(empty_postgres, allow_superuser=False)

    def ours(found: Any, name: str | None, kind: str, reflected: bool, _: Any) -> bool:
        table = name if kind == "table" else found.table.name
        return not (reflected and str(table).startswith("pgqueuer"))

    def differences(connection: Connection) -> list[Any]:
        options = {"compare_type": True, "compare_server_default": False, "include_object": ours}
        return compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata)

    engine = engine_for(empty_postgres, 1)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        await connection.execute(text("ALTER TABLE events ALTER COLUMN type TYPE varchar(100)"))
        await connection.execute(text("DROP INDEX ix_webhooks_waiting"))
        assert len(await connection.run_sync(differences)) == 2, "it would see what differs"
    await engine.dispose()


def test_migrating_from_nothing_makes_what_the_models_make(tmp_path: Path) -> None:
    migrated, created = writer_engine(tmp_path / "a.db"), writer_engine(tmp_path / "b.db")
    applied = upgrade(migrated)
    assert applied[0] == "0001"
    Base.metadata.create_all(created)
    assert schema(migrated) == schema(created)
    assert columns(migrated) == columns(created)
    migrated.dispose()
    created.dispose()


def test_migrating_again_does_nothing(tmp_path: Path) -> None:
    engine = writer_engine(tmp_path / "a.db")
    upgrade(engine)
    before = schema(engine)
    assert upgrade(engine) == []
    assert schema(engine) == before
    engine.dispose()


def test_a_migration_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    engine = writer_engine(tmp_path / "a.db")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE webhooks (mine TEXT)"))
    before = schema(engine)
    for _ in range(2):
        with pytest.raises(StartupError, match="webhooks already exists"):
            upgrade(engine)
        assert schema(engine) == before
    engine.dispose()


def test_identities_that_order_the_feed_are_never_given_twice(tmp_path: Path) -> None:
    """AUTOINCREMENT: a cursor stays good although rows are deleted."""
    engine = writer_engine(tmp_path / "a.db")
    upgrade(engine)
    found = schema(engine)
    for table in ("events", "webhooks"):
        assert "AUTOINCREMENT" in ", ".join(found["table", table])
    engine.dispose()
