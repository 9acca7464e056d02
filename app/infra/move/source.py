"""The SQLite file that is moved: read in one view, row by row."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from app.errors import Problem, StartupError

from .tables import INSTEAD_OF_NUL, NUL, Moved, NotText, Row

MOST_FAULTS = 20
"""Rows that are named when they cannot be moved; the others are counted."""


@dataclass
class Faults:
    """Values that PostgreSQL would refuse, by table, row and column."""

    problems: list[Problem] = field(default_factory=list)
    count: int = 0
    only_nul: bool = True

    def add(self, table: Moved, row: Row, column: str, words: str, *, nul: bool) -> None:
        self.count += 1
        self.only_nul = self.only_nul and nul
        if len(self.problems) < MOST_FAULTS:
            place = f"{table.name} {table.name_of(row)}"
            self.problems.append(Problem(place, "cannot_be_stored", f"{column} {words}."))

    def refuse(self) -> None:
        """Raises StartupError if there are any."""
        if not self.count:
            return
        rest = self.count - len(self.problems)
        raise StartupError(
            f"PostgreSQL cannot store {self.count} of the values as they are"
            f"{f' (the first {len(self.problems)} are named)' if rest else ''}. Nothing was moved.",
            remedy="To have U+FFFD in the place of each U+0000, add --replace-nul."
            if self.only_nul
            else "Start the platform on the file and change or delete these, or correct the rows in it.",
            problems=self.problems,
        )


class Source:
    """An open file. `replace_nul` has U+FFFD stand for U+0000, except in keys."""

    def __init__(self, connection: sqlite3.Connection, *, replace_nul: bool) -> None:
        self._connection = connection
        self._replace_nul = replace_nul

    @classmethod
    @contextmanager
    def open(cls, path: Path, *, replace_nul: bool = False) -> Iterator["Source"]:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, isolation_level=None)) as opened:
            opened.text_factory = _text
            opened.execute("BEGIN")  # one view for everything that follows
            yield cls(opened, replace_nul=replace_nul)

    def rows(self, table: Moved) -> Iterator[Row]:
        """All rows, in their order; one at a time is in memory."""
        long_keys = [n for n, f in enumerate(table.fields) if f.kind == "text" and not f.key]
        for row in self._connection.execute(table.source):
            if self._replace_nul and any(isinstance(row[n], str) and NUL in row[n] for n in long_keys):
                yield tuple(
                    value.replace(NUL, INSTEAD_OF_NUL) if n in long_keys and isinstance(value, str) else value
                    for n, value in enumerate(row)
                )
            else:
                yield row

    def check(self, tables: list[Moved]) -> dict[str, int]:
        """Looks at every value; returns how many rows each table has. Raises StartupError, with the rows that
        PostgreSQL would refuse."""
        faults, counts = Faults(), dict.fromkeys((table.name for table in tables), 0)
        for table in tables:
            for row in self.rows(table):
                counts[table.name] += 1
                for column, value in zip(table.fields, row, strict=True):
                    if words := column.fault(value):
                        nul = isinstance(value, str) and NUL in value and not column.key
                        faults.add(table, row, column.name, words, nul=nul)
        faults.refuse()
        return counts

    def last_number(self, table: Moved) -> int:
        """The highest number that the table has ever given, also to rows that are gone."""
        highest = self._connection.execute(
            f'SELECT coalesce(max("{table.sequence}"), 0) FROM "{table.target}"'  # noqa: S608 - names are ours
        ).fetchone()[0]
        given = None
        if self._connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'").fetchone():
            given = self._connection.execute(
                "SELECT seq FROM sqlite_sequence WHERE name = ?", (table.target,)
            ).fetchone()
        return max(int(highest), int(given[0]) if given else 0)

    def tables_beside(self, known: set[str]) -> list[str]:
        """Tables that are none of these."""
        found = self._connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        )
        return sorted(name for (name,) in found if name not in known)


def _text(value: bytes) -> str | NotText:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return NotText(value)
