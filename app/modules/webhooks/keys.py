"""Key material that providers name by URL: fetched, kept, and never believed when it cannot be fetched.

Which URLs may be asked is the verification's decision (it raises `KeyNeeded` only for the provider's host).
"""

import asyncio
import time
from dataclasses import dataclass

import httpx2
import structlog

from app.integrations.errors import KeyUnavailable

log = structlog.get_logger()

KEEP_SECONDS = 3600.0
MISS_SECONDS = 5.0
FETCH_SECONDS = 5.0
MAX_BYTES = 64 * 1024
MOST_KEYS = 1000


@dataclass(frozen=True)
class _Fetched:
    text: str | None
    until: float


class FetchedKeys:
    """Fetches each URL once for all who wait for it. `transport` stands in for the network in tests."""

    def __init__(self, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        self._transport = transport
        self._known: dict[str, _Fetched] = {}
        self._fetching: dict[str, asyncio.Task[str | None]] = {}

    async def get(self, url: str) -> str:
        """What is at `url`. Raises KeyUnavailable."""
        known = self._known.get(url)
        if known is None or known.until < time.monotonic():
            task = self._fetching.get(url)
            if task is None:
                task = self._fetching[url] = asyncio.create_task(self._fetch(url))
            text = await asyncio.shield(task)
        else:
            text = known.text
        if text is None:
            raise KeyUnavailable("key_unavailable", "The provider's key could not be fetched; send again.")
        return text

    async def _fetch(self, url: str) -> str | None:
        try:
            async with httpx2.AsyncClient(transport=self._transport, timeout=FETCH_SECONDS) as client:
                answer = await client.get(url)
            text = answer.text if answer.status_code == 200 and len(answer.content) <= MAX_BYTES else None
        except httpx2.HTTPError as error:
            log.warning("key_not_fetched", error=type(error).__name__)
            text = None
        if len(self._known) >= MOST_KEYS:
            self._known.clear()
        keep = KEEP_SECONDS if text is not None else MISS_SECONDS
        self._known[url] = _Fetched(text, time.monotonic() + keep)
        del self._fetching[url]
        return text
