"""Brings a database to the current schema, and refuses one that is newer than this code.

An SQLite file is brought up to date at start: one process owns it. A PostgreSQL database is so by the
command `trunkline migrate`, because nodes of the version before may still be working on it; only an empty one
is set up at start.
"""

from pathlib import Path

import structlog
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DatabaseError, DBAPIError

from app.errors import StartupError

from .move.mark import refuse_if_moved

log = structlog.get_logger()

_SCRIPTS = Path(__file__).parent / "migrations"

_LOCK = "SELECT pg_advisory_lock(hashtext('trunkline migrate'))"
_LINE = "SELECT pg_backend_pid()"
_TRY_LOCK = "SELECT pg_try_advisory_lock(hashtext('trunkline migrate'))"


def known_revisions() -> list[str]:
    """All schema versions, in order. A migration's file is named after it: `0001_what_it_does.py`."""
    return sorted(path.name.split("_")[0] for path in (_SCRIPTS / "versions").glob("[0-9]*_*.py"))


def upgrade(engine: Engine, *, moved: bool = False) -> list[str]:
    """Applies to an SQLite file what is missing, each migration in a transaction; returns the revisions
    applied.

    Raises StartupError if the schema is newer than this code, the file is not a database, or its data has
    been moved to PostgreSQL, unless it is `moved` that is wanted.
    """
    try:
        with engine.connect() as connection:
            if not moved:
                refuse_if_moved(connection)
            return upgrade_on(connection)
    except DatabaseError as error:
        raise StartupError(
            f"The database cannot be opened ({error.orig}).",
            remedy="Check that the file is a Trunkline database and that the disk is not full.",
        ) from None


async def upgrade_postgres(url: str, *, allow_superuser: bool) -> list[str]:
    """The same for PostgreSQL, one process at a time. Raises StartupError."""
    return await _on_postgres(url, allow_superuser, only_if_empty=False)


async def prepare_postgres(url: str, *, allow_superuser: bool) -> list[str]:
    """Sets an empty database up, and refuses one that has not the current schema. Raises StartupError."""
    return await _on_postgres(url, allow_superuser, only_if_empty=True)


async def _on_postgres(url: str, allow_superuser: bool, *, only_if_empty: bool) -> list[str]:
    # Imported when needed: SQLite does without.
    from .postgres import (
        PATIENT,
        TROUBLE,
        cannot_connect,
        cannot_prepare,
        check_server,
        engine_for,
        open_link,
    )

    link = await open_link(url)
    try:
        await check_server(link, allow_superuser=allow_superuser)
        if not await link.fetchval(_TRY_LOCK):
            log.info("waiting_for_migration", remedy="Another process is bringing the database up to date.")
            await link.execute("SET lock_timeout = 0")
            await link.execute(_LOCK)  # held as long as the connection is
        engine = engine_for(url, 1, None, **PATIENT)
        try:
            async with engine.connect() as connection:
                await connection.run_sync(_refuse_shared_lines, await link.fetchval(_LINE))
                return await connection.run_sync(_set_up if only_if_empty else upgrade_on)
        finally:
            await engine.dispose()
    except DBAPIError as error:
        raise cannot_prepare(error) from None
    except TROUBLE as error:
        raise (cannot_prepare if getattr(error, "sqlstate", None) else cannot_connect)(error) from None
    finally:
        await link.close()


def _refuse_shared_lines(connection: Connection, other: int) -> None:
    """`other` is the server's process behind another connection, which is open as well."""
    if connection.scalar(text(_LINE)) == other:
        raise StartupError(
            "A pooler between here and PostgreSQL gives one connection to several clients in turn, "
            "so locks and wake-ups go astray.",
            remedy="Have it pool sessions, not transactions, or name the server itself in "
            "TRUNKLINE_DATABASE_URL.",
        )


def upgrade_on(connection: Connection) -> list[str]:
    """Applies what is missing. Raises StartupError if the schema is newer than this code."""
    known = known_revisions()
    current = _known_revision(connection, known)
    connection.rollback()
    if current == known[-1]:
        return []
    _apply(connection)
    return known if current is None else known[known.index(current) + 1 :]


def _set_up(connection: Connection) -> list[str]:
    known = known_revisions()
    current = _known_revision(connection, known)
    if current == known[-1]:
        return []
    if current is None and not inspect(connection).get_table_names():
        return upgrade_on(connection)
    found = f"schema {current}" if current else "tables, but none of Trunkline"
    raise StartupError(
        f"The database has {found}; this version needs schema {known[-1]}.",
        remedy="Back it up, stop the nodes of earlier versions, and run: trunkline migrate",
    )


def _known_revision(connection: Connection, known: list[str]) -> str | None:
    """The database's schema version; None if it has none."""
    current: str | None = None
    if inspect(connection).has_table("alembic_version"):
        current = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if current is not None and current not in known:
        raise StartupError(
            f"The database has schema {current}, which this version does not know: it is newer.",
            remedy="Run the version that wrote it, or a newer one.",
        )
    return current


def _apply(connection: Connection) -> None:
    # Imported when needed: it takes a tenth of the time in which a start should be ready.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.commit()
