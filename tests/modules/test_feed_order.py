"""Writers on several nodes, readers all the while: the feed skips nothing, and nothing is in it twice."""

import asyncio
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from app.infra.migrate import upgrade_postgres
from app.infra.postgres import PostgresDatabase
from app.modules.events.service import NewEvent, fingerprint_of, read_feed, store_events

EVENTS = int(os.environ.get("FEED_EVENTS", "10000"))
WRITERS = 4
READERS = 3
PORTION = 25
REPEATED = 4
"""Of so many portions one is stored by two writers at the same time: those are duplicates."""


def portion(number: int) -> Callable[[Session], int]:
    """Stores the events of one portion, whoever does it."""

    def unit(session: Session) -> int:
        events = []
        for item in range(PORTION):
            name = f"{number}-{item}"
            events.append(
                NewEvent(
                    tenant="default",
                    connection_id="con_1",
                    integration="test",
                    webhook_id=f"whk_{number}_{id(session)}",
                    item=item,
                    type="test.thing.happened",
                    external_id=name,
                    unique_id=False,
                    payload=f'{{"name":"{name}"}}',
                    fingerprint=fingerprint_of(name.encode()),
                    received_at=0,
                )
            )
        return store_events(session, events)

    return unit


class Reader:
    """A consumer that never stops paging and never looks back."""

    def __init__(self, database: PostgresDatabase, limit: int) -> None:
        self._database = database
        self._limit = limit
        self.seen: list[str] = []
        self._cursor = 0

    async def page(self) -> int:
        rows = await self._database.read(lambda s: read_feed(s, "default", self._cursor, self._limit))
        if rows:
            assert all(a.seq < b.seq for a, b in pairwise(rows))
            self._cursor = rows[-1].seq
            self.seen += [str(row.external_id) for row in rows]
        return len(rows)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("every_storage", ["postgres"], indirect=True)
async def test_four_writers_and_a_feed_without_gaps(empty_postgres: str, tmp_path: Path) -> None:
    await upgrade_postgres(empty_postgres, allow_superuser=False)
    nodes = [await PostgresDatabase.open(empty_postgres) for _ in range(WRITERS)]
    made = 0
    writing = WRITERS

    async def write(lane: int) -> None:
        nonlocal made, writing
        for number in range(lane, EVENTS // PORTION, WRITERS):
            stored = await nodes[lane].write(portion(number))
            made += stored
            if number % REPEATED == 0 and number + 1 < EVENTS // PORTION:
                stored = await nodes[lane].write(portion(number + 1))
                made += stored
        writing -= 1

    readers = [Reader(nodes[n % WRITERS], (7, 100, 1000)[n]) for n in range(READERS)]

    async def read(reader: Reader) -> None:
        while writing or await reader.page():
            await reader.page()

    await asyncio.gather(*(write(n) for n in range(WRITERS)), *(read(reader) for reader in readers))
    names = {f"{number}-{item}" for number in range(EVENTS // PORTION) for item in range(PORTION)}
    assert made == len(names)
    for reader in readers:
        assert len(reader.seen) == len(set(reader.seen)), "nothing twice"
        assert not names - set(reader.seen), "nothing skipped"
    for node in nodes:
        await node.close()
