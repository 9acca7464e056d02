"""Consumers of the feed that never stop reading."""

import asyncio
from typing import Any, Protocol

import httpx2

PAUSE = 0.02
"""Seconds between two pages."""

PAUSE_WHILE_DOWN = 0.05


class Reader(Protocol):
    """Follows the feed, over restarts of the platform too; `seen` are the events' cursors."""

    seen: list[int]

    async def read_until(self, settled: asyncio.Event) -> None:
        """Reads while events are written, and then to the end."""


class FeedReader:
    """Pages, each from the cursor of the one before, `pause` seconds apart. `unavailable` says that the
    platform may be unable to answer, which is not for the reader to judge."""

    def __init__(
        self, client: httpx2.AsyncClient, limit: int, *, unavailable: bool = False, pause: float = PAUSE
    ) -> None:
        self._client = client
        self._limit = limit
        self._unavailable = unavailable
        self._pause = pause
        self._cursor: str | None = None
        self.seen: list[int] = []

    async def read(self) -> bool:
        """The next page; whether there was one, or none could be had. Raises TransportError while the
        platform is down."""
        params: dict[str, Any] = {"limit": self._limit}
        if self._cursor is not None:
            params["after"] = self._cursor
        answer = await self._client.get("/api/v1/events", params=params)
        if answer.status_code >= 500 and self._unavailable:
            await asyncio.sleep(PAUSE_WHILE_DOWN)
            return True
        assert answer.status_code == 200, answer.text
        page = answer.json()
        self.seen += [int(event["cursor"]) for event in page["items"]]
        self._cursor = page["next"] or self._cursor
        return page["next"] is not None

    async def read_until(self, settled: asyncio.Event) -> None:
        """Pages while events are written, and then to the end."""
        while await self._goes_on() or not settled.is_set():
            await asyncio.sleep(self._pause)

    async def _goes_on(self) -> bool:
        try:
            return await self.read()
        except httpx2.TransportError:
            await asyncio.sleep(PAUSE_WHILE_DOWN)
            return True


class StreamReader:
    """Server-sent events, over as many streams as it takes: each goes on from the last event seen."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client
        self._cursor = "0"
        self.seen: list[int] = []
        self.streams = 0

    async def read_until(self, settled: asyncio.Event) -> None:
        following = asyncio.create_task(self._follow_forever())
        try:
            await settled.wait()
            # Where the end is, a stream does not tell.
            last = await self._last()
            while not following.done() and int(self._cursor) < last:
                await asyncio.sleep(PAUSE)
        finally:
            following.cancel()
        outcome = (await asyncio.gather(following, return_exceptions=True))[0]
        assert isinstance(outcome, asyncio.CancelledError), f"the stream ended for good: {outcome!r}"

    async def _follow_forever(self) -> None:
        while True:
            try:
                await self._follow()
            except httpx2.TransportError:
                await asyncio.sleep(PAUSE_WHILE_DOWN)

    async def _follow(self) -> None:
        async with self._client.stream(
            "GET", "/api/v1/events/stream", headers={"Last-Event-ID": self._cursor}, timeout=None
        ) as answer:
            if answer.status_code >= 500:
                await asyncio.sleep(PAUSE_WHILE_DOWN)
                return
            assert answer.status_code == 200, answer.status_code
            self.streams += 1
            cursor, told = "", False
            async for line in answer.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    cursor = value
                elif name == "data":
                    told = True
                elif not line and told:
                    self.seen.append(int(cursor))
                    self._cursor = cursor
                    told = False

    async def _last(self) -> int:
        """The cursor of the newest event."""
        cursor = self._cursor
        while True:
            answer = await self._client.get("/api/v1/events", params={"after": cursor, "limit": 1000})
            following = answer.json()["next"]
            if following is None:
                return int(cursor)
            cursor = following
