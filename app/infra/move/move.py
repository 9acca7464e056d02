"""The move itself: check, copy, compare, commit; and what there is to do if it was interrupted.

Whoever calls holds the data folder's lock. A kill at any place leaves one of two things over there: an empty
database, or a whole one. Either way the file has its mark, so it is not started, and the next call finds out
which it is: it moves everything, or compares it and is done.
"""

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg
from sqlalchemy import MetaData

from app.errors import StartupError
from app.infra.clock import rfc3339
from app.infra.postgres import reason_of

from . import mark
from .comparison import Compared, compare
from .mark import Mark
from .source import Source
from .tables import Moved, tables_of
from .target import CommitUnknown, Target, prepare, transaction

LONG = 20_000
"""Rows from which on it is said that a table's turn has come."""

_STAYING = {mark.TABLE, "alembic_version"}
"""Tables of the file that stay there."""


@dataclass(frozen=True)
class Report:
    """What was found in both. `copied` is False if it had been there already, from a call before."""

    compared: list[Compared]
    copied: bool
    left_out: list[str]

    @property
    def different(self) -> int:
        return sum(table.different for table in self.compared)


class _Different(Exception):
    """What was copied is not what was sent."""

    def __init__(self, report: Report) -> None:
        self.report = report


@dataclass(frozen=True)
class Move:
    """From the file at `path`, which has the current schema and whose `mark` was read, to the database at
    `url`, which is shown as `target`."""

    path: Path
    url: str
    target: str
    mark: Mark | None
    metadata: MetaData
    allow_superuser: bool = False
    replace_nul: bool = False
    progress: Callable[[str], None] = lambda _: None

    async def run(self) -> Report:
        """Moves everything, or finishes a move that was interrupted. A report with differences means that
        nothing was moved. Raises StartupError."""
        if self.mark is not None and self.mark.target != self.target:
            raise StartupError(
                f"The data was moved, or may have been, to {self.mark.target}.",
                remedy=f"Name that database in TRUNKLINE_DATABASE_URL. Or, {mark.UNDO}.",
            )
        tables = tables_of(self.metadata)
        with Source.open(self.path, replace_nul=self.replace_nul) as source:
            try:
                self._refuse(await prepare(self.url, tables, allow_superuser=self.allow_superuser))
                self.progress("Checking every value.")
                counts = source.check(tables)
                report = await self._in_transaction(source, tables, counts)
            except _Different as found:
                return found.report
            except CommitUnknown:
                raise StartupError(
                    "The connection to PostgreSQL was lost at the last moment: "
                    "everything is there, or nothing.",
                    remedy="Run trunkline migrate-data again: it finds out, and finishes.",
                ) from None
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                raise StartupError(
                    f"PostgreSQL did not take it ({reason_of(error)}). Nothing was moved.",
                    remedy="Run trunkline migrate-data again once that is mended.",
                ) from None
            except sqlite3.Error as error:
                raise StartupError(
                    f"The file {self.path} cannot be read or marked ({error}). Nothing was moved.",
                    remedy="Check its disk; a damaged file is replaced by its newest backup.",
                ) from None
        try:
            mark.finish(self.path)
        except sqlite3.Error as error:
            raise StartupError(
                f"Everything is in PostgreSQL, but the file {self.path} could not be marked so ({error}).",
                remedy="It is not started all the same. Run trunkline migrate-data again to have it marked.",
            ) from None
        return report

    async def _in_transaction(self, source: Source, tables: list[Moved], counts: Mapping[str, int]) -> Report:
        left_out = source.tables_beside(_STAYING | set(self.metadata.tables))
        async with transaction(self.url, tables) as target:
            if filled := await target.filled():
                self._refuse(filled)
                return Report(await self._compare_found(source, target, tables, counts), False, left_out)
            self._refuse_to_repeat()
            mark.begin(self.path, self.target)
            try:
                for table in tables:
                    self._say("Copying", table, counts)
                    await target.copy(table, source.rows(table))
                    if table.sequence is not None:
                        await target.go_on_after(table, source.last_number(table))
                report = Report(await self._compare(source, target, tables, counts), True, left_out)
                if report.different:
                    raise _Different(report)
            except BaseException:
                # Nothing is committed, and it was seen that nothing had been: the file is what it was.
                mark.remove(self.path)
                raise
        return report

    def _refuse(self, filled: list[str]) -> None:
        """Data that is there already is what a move has left, or none of our business."""
        if filled and self.mark is None:
            raise StartupError(
                f"The database {self.target} holds data already (in {', '.join(filled)}).",
                remedy="Name one that is empty: nothing is mixed and nothing is overwritten.",
            )

    def _refuse_to_repeat(self) -> None:
        """What has happened over there is not in the file: what was queued would be sent again."""
        if self.mark is not None and self.mark.done_at is not None:
            raise StartupError(
                f"The data was moved to {self.target} at {rfc3339(self.mark.done_at)}, and that database is "
                "empty now.",
                remedy="If a platform has been at work over it, restore it from a backup. "
                "If none has, run trunkline migrate-data --undo first.",
            )

    async def _compare_found(
        self, source: Source, target: Target, tables: list[Moved], counts: Mapping[str, int]
    ) -> list[Compared]:
        assert self.mark is not None
        compared = await self._compare(source, target, tables, counts)
        different = sum(table.different for table in compared)
        if not different:
            return compared
        if self.mark.done_at is None:
            raise StartupError(
                f"A move to {self.target} was begun at {rfc3339(self.mark.begun_at)}; that database holds "
                f"data, and {different} of its rows are not as in the file.",
                remedy="If a platform has been at work over it since, the move is done: go on with that. "
                "If it holds something else, run trunkline migrate-data --undo, and name an empty one.",
            )
        raise StartupError(
            f"The data was moved to {self.target} at {rfc3339(self.mark.done_at)}, and {different} of "
            "the rows there have changed since, as they do once a platform is at work.",
            remedy=f"There is nothing left to move. Or, {mark.UNDO}.",
        )

    async def _compare(
        self, source: Source, target: Target, tables: list[Moved], counts: Mapping[str, int]
    ) -> list[Compared]:
        found = []
        for table in tables:
            self._say("Comparing", table, counts)
            compared = await compare(table, source.rows(table), target.rows(table))
            if table.sequence is not None:
                following, last = await target.next_number(table), source.last_number(table)
                if following <= last:
                    compared.note("numbers", f"go on at {following}, and {last} was given already")
            found.append(compared)
        return found

    def _say(self, what: str, table: Moved, counts: Mapping[str, int]) -> None:
        if counts[table.name] >= LONG:
            self.progress(f"{what} {table.name}: {counts[table.name]:,} rows.")
