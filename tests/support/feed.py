"""A consumer of the feed that never stops reading."""

import asyncio
from typing import Any

import httpx2

PAUSE = 0.02
"""Seconds between two pages."""


class FeedReader:
    """Follows the feed by its cursor, over restarts of the platform too; `seen` are the events' cursors."""

    def __init__(self, client: httpx2.AsyncClient, limit: int) -> None:
        self._client = client
        self._limit = limit
        self._cursor: str | None = None
        self.seen: list[int] = []

    async def read(self) -> bool:
        """The next page; whether there was one. Raises TransportError while the platform is down."""
        params: dict[str, Any] = {"limit": self._limit}
        if self._cursor is not None:
            params["after"] = self._cursor
        answer = await self._client.get("/api/v1/events", params=params)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        self.seen += [int(event["cursor"]) for event in page["items"]]
        self._cursor = page["next"] or self._cursor
        return page["next"] is not None

    async def read_until(self, settled: asyncio.Event) -> None:
        """Pages while events are written, and then to the end."""
        while await self._goes_on() or not settled.is_set():
            await asyncio.sleep(PAUSE)

    async def _goes_on(self) -> bool:
        try:
            return await self.read()
        except httpx2.TransportError:
            await asyncio.sleep(0.05)
            return True
