"""The mark in an SQLite file whose data has gone, or may have gone, to PostgreSQL.

Two platforms with the same connections would both answer, poll and send what is queued. So the mark is on the
disk before anything is committed over there, in the file itself, where copies of the file have it too, and as
long as it is there the file is not started.

    unmarked --begin--> begun --finish--> done
    begun --remove--> unmarked      nothing was committed over there, or somebody has decided
    done --remove--> unmarked       somebody has decided
"""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from app.errors import StartupError
from app.infra.clock import now_ms, rfc3339

TABLE = "moved"

_READ = f"SELECT target, begun_at, done_at FROM {TABLE}"  # noqa: S608 - a name of ours
_IS_THERE = f"SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = '{TABLE}'"  # noqa: S608
_MAKE = (
    f"CREATE TABLE IF NOT EXISTS {TABLE} (target TEXT NOT NULL, begun_at INTEGER NOT NULL, done_at INTEGER)"
)

UNDO = (
    "to go on with the file instead, and only if nothing runs over that database, "
    "run trunkline migrate-data --undo"
)


@dataclass(frozen=True)
class Mark:
    """Where the data went, without the password, and when. `done_at` is None while that is not certain."""

    target: str
    begun_at: int
    done_at: int | None


def mark_of(connection: Connection) -> Mark | None:
    """The file's mark, if it has one."""
    if not inspect(connection).has_table(TABLE):
        return None
    row = connection.execute(text(_READ)).first()
    return Mark(*row) if row else None


def refuse_if_moved(connection: Connection) -> None:
    """Raises StartupError for a file that has the mark."""
    mark = mark_of(connection)
    if mark is None:
        return
    if mark.done_at is None:
        raise StartupError(
            f"A move of this SQLite file to {mark.target} was begun at {rfc3339(mark.begun_at)} "
            "and did not end.",
            remedy=f"Run trunkline migrate-data again: it finishes the move or repeats it. Or, {UNDO}.",
        )
    raise StartupError(
        f"The data of this SQLite file was moved to {mark.target} at {rfc3339(mark.done_at)}.",
        remedy=f"Set TRUNKLINE_DATABASE_URL to that database. Or, {UNDO}.",
    )


def begin(path: Path, target: str) -> None:
    """On the disk when it returns."""
    with closing(_open(path)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute(_MAKE)
        connection.execute(f"DELETE FROM {TABLE}")  # noqa: S608 - a name of ours
        connection.execute(f"INSERT INTO {TABLE} VALUES (?, ?, NULL)", (target, now_ms()))  # noqa: S608
        connection.execute("COMMIT")


def finish(path: Path) -> None:
    with closing(_open(path)) as connection:
        connection.execute(f"UPDATE {TABLE} SET done_at = ? WHERE done_at IS NULL", (now_ms(),))  # noqa: S608


def remove(path: Path) -> Mark | None:
    """Takes the mark off; returns it, if there was one."""
    with closing(_open(path)) as connection:
        if connection.execute(_IS_THERE).fetchone() is None:
            return None
        row = connection.execute(_READ).fetchone()
        connection.execute(f"DROP TABLE {TABLE}")
        return Mark(*row) if row else None


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA busy_timeout=5000")
    return connection
