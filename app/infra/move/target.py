"""The PostgreSQL database that is moved to: everything in one transaction, so that it has all or nothing."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress

import asyncpg

from app.errors import StartupError
from app.infra.migrate import prepare_postgres, upgrade_postgres
from app.infra.postgres import Link, check_server, open_link, reason_of

from .tables import Moved, Row

AT_A_TIME = 500
"""Rows that are read back at a time; long values come as digests."""

_OTHER_TABLES = ("alembic_version",)
"""Locked too: a node that starts looks here first, and waits."""


class CommitUnknown(Exception):
    """The line was lost during the commit: nobody can tell whether it happened."""


class Target:
    """An open transaction on the database, which nobody else uses until it ends."""

    def __init__(self, link: Link, tables: list[Moved]) -> None:
        self._link = link
        self._tables = tables

    async def filled(self) -> list[str]:
        """The tables that hold anything."""
        return [t.target for t in self._tables if await _has_rows(self._link, t.target)]

    async def copy(self, table: Moved, rows: Iterable[Row]) -> None:
        """Raises StartupError if a row is refused."""
        try:
            await self._link.copy_records_to_table(
                table.target, records=map(table.record, rows), columns=table.columns
            )
        except asyncpg.PostgresError as error:
            if not str(error.sqlstate).startswith(("22", "23")):
                raise
            # Its own words may quote values.
            where = (
                getattr(error, "constraint_name", None) or getattr(error, "column_name", None) or "a column"
            )
            raise StartupError(
                f"PostgreSQL refuses a row of {table.name}: {type(error).__name__} at {where}. "
                "Nothing was moved.",
                remedy="Has somebody changed the tables over there? Name a database that is empty.",
            ) from None

    async def go_on_after(self, table: Moved, number: int) -> None:
        """Has the table's numbers go on after this one."""
        if table.sequence is not None:
            await self._link.execute(
                "SELECT setval(pg_get_serial_sequence($1, $2)::regclass, greatest($3::bigint, 1), $3 > 0)",
                table.target,
                table.sequence,
                number,
            )

    async def next_number(self, table: Moved) -> int:
        """The number that the next row gets."""
        sequence = await self._link.fetchval(
            "SELECT pg_get_serial_sequence($1, $2)", table.target, table.sequence
        )
        row = await self._link.fetchrow(f"SELECT last_value, is_called FROM {sequence}")  # noqa: S608
        assert row is not None
        return int(row["last_value"]) + bool(row["is_called"])

    async def rows(self, table: Moved) -> AsyncIterator[Row]:
        """All rows, in their order; few at a time are in memory."""
        async for record in self._link.cursor(table.target_rows, prefetch=AT_A_TIME):
            yield tuple(record.values())


@asynccontextmanager
async def transaction(url: str, tables: list[Moved]) -> AsyncIterator[Target]:
    """A transaction that has the database for itself, and is committed at the end of the block.

    Raises StartupError if the database cannot be had, CommitUnknown if it may or may not have been committed.
    """
    link = await open_link(url)
    try:
        names = ", ".join(f'"{name}"' for name in (*(t.target for t in tables), *_OTHER_TABLES))
        change = link.transaction()
        await change.start()
        try:
            await _lock(link, names)
            yield Target(link, tables)
        except BaseException:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await change.rollback()
            raise
        try:
            await change.commit()
        except BaseException as error:
            raise CommitUnknown from error
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            # Else the first queries would be planned as for empty tables.
            await link.execute(f"ANALYZE {names}")
    finally:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await link.close(timeout=2.0)


async def prepare(url: str, tables: list[Moved], *, allow_superuser: bool) -> list[str]:
    """Gives an empty database the current schema; returns the tables that hold anything. Raises StartupError
    for a server that is not to be used, and for a schema that is newer, or older with data in it."""
    link = await open_link(url)
    try:
        await check_server(link, allow_superuser=allow_superuser)
        found = [t.target for t in tables if await link.fetchval("SELECT to_regclass($1)", t.target)]
        filled = [name for name in found if await _has_rows(link, name)]
    finally:
        await link.close(timeout=2.0)
    if found and not filled:
        await upgrade_postgres(url, allow_superuser=allow_superuser)
    else:
        await prepare_postgres(url, allow_superuser=allow_superuser)
    return filled


async def _lock(link: Link, names: str) -> None:
    try:
        await link.execute(f"LOCK TABLE {names} IN ACCESS EXCLUSIVE MODE")
    except asyncpg.PostgresError as error:
        raise StartupError(
            f"The database cannot be had alone ({reason_of(error)}).",
            remedy="Stop every node and every other program that uses it. Its role must own the tables.",
        ) from None


async def _has_rows(link: Link, table: str) -> bool:
    return bool(await link.fetchval(f'SELECT EXISTS (SELECT 1 FROM "{table}")'))  # noqa: S608 - a name of ours
