"""Fills a platform's database while no process has it open: copies of a webhook, its event and its identity
that came the ordinary way, with ids of their own, as old as that one."""

import asyncio
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import asyncpg

from .databases import Place
from .message import bodies, message_id

if TYPE_CHECKING:
    Link = asyncpg.Connection[asyncpg.Record]
else:
    Link = asyncpg.Connection

_ROWS = 5_000
"""Written in one transaction."""

Row = dict[str, Any]


def add_processed(place: Place, number: int) -> int:
    """Adds webhooks that have been processed; returns the cursor of the feed's last event."""
    with closing(_open(place)) as tables:
        webhook, event = tables.sample("webhooks"), tables.sample("events")
        identity = tables.sample("event_identities")
        numbers = count(tables.last("webhooks"))
        for _ in range(-(-number // _ROWS)):
            part = list(islice(numbers, min(_ROWS, number)))
            number -= len(part)
            tables.insert("webhooks", [webhook | {"id": _id(webhook, n)} for n in part])
            tables.insert(
                "events",
                [event | {"id": _id(event, n), "webhook_id": _id(webhook, n),
                          "external_id": message_id("stock", n)} for n in part],
            )  # fmt: skip
            tables.insert("event_identities", [identity | {"identity": os.urandom(16)} for _ in part])
        tables.analyze()
        return tables.last("events")


def add_waiting(place: Place, size: int, text: int) -> list[str]:
    """Adds webhooks that wait, of so many bytes together; returns the external ids of their events."""
    ids: list[str] = []
    with closing(_open(place)) as tables:
        sample = tables.sample("webhooks") | {"state": "received", "tries": 0, "processed_at": None}
        made: Iterator[bytes] = bodies("backlog", text)
        while size > 0:
            rows = []
            for body in islice(made, _ROWS // 10):
                rows.append(sample | {"id": _id(sample, len(ids)), "body": body})
                ids.append(message_id("backlog", len(ids)))
                size -= len(body)
            tables.insert("webhooks", rows)
        tables.analyze()
    return ids


def _id(sample: Row, number: int) -> str:
    return f"{sample['id'][:-16]}{number:016d}"


class _Tables(ABC):
    """The tables of one database."""

    @abstractmethod
    def sample(self, table: str) -> Row:
        """Its first row, without its number."""

    @abstractmethod
    def last(self, table: str) -> int:
        """Its highest number."""

    @abstractmethod
    def insert(self, table: str, rows: list[Row]) -> None:
        """Adds rows."""

    @abstractmethod
    def analyze(self) -> None:
        """Does what the database would have done by itself while it grew."""

    @abstractmethod
    def close(self) -> None:
        """Nothing more is wanted."""


class _Sqlite(_Tables):
    def __init__(self, place: Place) -> None:
        self._connection = sqlite3.connect(place.data / "trunkline.db", isolation_level=None)
        self._connection.row_factory = sqlite3.Row

    def sample(self, table: str) -> Row:
        row = dict(self._connection.execute(f"SELECT * FROM {table} LIMIT 1").fetchone())
        row.pop("seq", None)
        return row

    def last(self, table: str) -> int:
        return int(self._connection.execute(f"SELECT max(seq) FROM {table}").fetchone()[0])

    def insert(self, table: str, rows: list[Row]) -> None:
        columns = list(rows[0])
        marks = ", ".join(f":{name}" for name in columns)
        self._connection.execute("BEGIN")
        self._connection.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)
        self._connection.execute("COMMIT")

    def analyze(self) -> None:
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        self._connection.close()


class _Postgres(_Tables):
    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._connection: Link = self._runner.run(asyncpg.connect(url))

    def sample(self, table: str) -> Row:
        found = self._runner.run(self._connection.fetchrow(f"SELECT * FROM {table} LIMIT 1"))
        assert found is not None
        return {name: value for name, value in found.items() if name != "seq"}

    def last(self, table: str) -> int:
        return int(self._runner.run(self._connection.fetchval(f"SELECT max(seq) FROM {table}")))

    def insert(self, table: str, rows: list[Row]) -> None:
        records = [tuple(row.values()) for row in rows]
        self._runner.run(
            self._connection.copy_records_to_table(table, records=records, columns=list(rows[0]))
        )

    def analyze(self) -> None:
        for table in ("webhooks", "events", "event_identities"):
            self._runner.run(self._connection.execute(f"VACUUM ANALYZE {table}"))

    def close(self) -> None:
        self._runner.run(self._connection.close())
        self._runner.close()


def _open(place: Place) -> _Tables:
    return _Sqlite(place) if place.url is None else _Postgres(place.url)
