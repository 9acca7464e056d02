"""The bare server on SQLite: stores each raw body durably before it answers 200, and does nothing else.

One thread owns the connection. Whatever arrives while a commit is under way waits for the next one, so a
commit, and the fsync in it, is shared by everybody who waits.
"""

import asyncio
import sqlite3
import threading
from queue import SimpleQueue

from .asgi import StoringApp

Batch = list[tuple[bytes, asyncio.Future[None]]]


class GroupCommit:
    """Stores bodies; `store` returns a future that is done once the body is committed."""

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop) -> None:
        self._path = path
        self._loop = loop
        self._waiting: Batch = []
        self._committing = False
        self._batches: SimpleQueue[Batch | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="writer")
        self._thread.start()

    @classmethod
    async def open(cls, path: str) -> "GroupCommit":
        return cls(path, asyncio.get_running_loop())

    def store(self, body: bytes) -> asyncio.Future[None]:
        future = self._loop.create_future()
        self._waiting.append((body, future))
        if not self._committing:
            self._committing = True
            # Not at once: the requests that arrived in this turn of the loop share the commit.
            self._loop.call_soon(self._hand_over)
        return future

    async def close(self) -> None:
        self._batches.put(None)
        self._thread.join()

    def _hand_over(self) -> None:
        self._committing = bool(self._waiting)
        if self._waiting:
            self._batches.put(self._waiting)
            self._waiting = []

    def _committed(self, batch: Batch, error: Exception | None) -> None:
        self._hand_over()
        for _, future in batch:
            if future.cancelled():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

    def _write(self) -> None:
        database = sqlite3.connect(self._path, isolation_level=None)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        # As the platform sets it: rarer checkpoints lower p99 and raise the maximum.
        database.execute("PRAGMA wal_autocheckpoint = 16000")
        database.execute("CREATE TABLE inbox (id INTEGER PRIMARY KEY, body BLOB NOT NULL)")
        while batch := self._batches.get():
            error: Exception | None = None
            try:
                database.execute("BEGIN IMMEDIATE")
                database.executemany("INSERT INTO inbox (body) VALUES (?)", [(body,) for body, _ in batch])
                database.execute("COMMIT")
            except sqlite3.Error as raised:
                error = raised
                if database.in_transaction:
                    database.execute("ROLLBACK")
            self._loop.call_soon_threadsafe(self._committed, batch, error)
        database.close()


app = StoringApp(GroupCommit.open)
