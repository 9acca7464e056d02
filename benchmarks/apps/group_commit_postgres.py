"""The bare server on PostgreSQL: one statement and one commit for everybody who waits."""

import asyncio
from typing import TYPE_CHECKING

import asyncpg

from .asgi import StoringApp

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection


class GroupCommit:
    """Stores bodies; `store` returns a future that is done once the body is committed."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._write())

    @classmethod
    async def open(cls, url: str) -> "GroupCommit":
        connection = await asyncpg.connect(url)
        await connection.execute("CREATE TABLE inbox (id bigserial PRIMARY KEY, body bytea NOT NULL)")
        return cls(connection)

    def store(self, body: bytes) -> asyncio.Future[None]:
        future = self._loop.create_future()
        self._waiting.append((body, future))
        self._news.set()
        return future

    async def close(self) -> None:
        self._task.cancel()
        await self._connection.close()

    async def _write(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            batch, self._waiting = self._waiting, []
            try:
                await self._connection.execute(
                    "INSERT INTO inbox (body) SELECT unnest($1::bytea[])", [body for body, _ in batch]
                )
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                for _, future in batch:
                    if not future.cancelled():
                        future.set_exception(error)
                continue
            for _, future in batch:
                if not future.cancelled():
                    future.set_result(None)


app = StoringApp(GroupCommit.open)
