"""Providers of the durability tests: they keep their own account of what happened."""

import asyncio
from collections import Counter
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from app.integrations.twin import BrokenAnswer, Twin

PAGE = 20


class Source(Twin):
    """Serves items by offset, and forgets those below the offset only when that is asked for: what it
    forgot is lost if whoever asked has not kept it."""

    name = "source"
    description = "A source that is polled"

    def __init__(self) -> None:
        super().__init__()
        self.made = 0
        self._waiting: list[dict[str, Any]] = []

    def produce(self, count: int) -> None:
        for _ in range(count):
            self._waiting.append({"n": self.made, "square": self.made**2})
            self.made += 1

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def routes(self) -> list[BaseRoute]:
        return [Route("/items", self._items)]

    async def _items(self, request: Request) -> Response:
        offset = int(request.query_params["offset"])
        self._waiting = [item for item in self._waiting if item["n"] >= offset]
        return JSONResponse({"items": self._waiting[:PAGE]})

    def state(self) -> dict[str, Any]:
        return {"made": self.made, "waiting": self.waiting}

    def greeting(self, url: str) -> str:
        return url

    async def stop(self) -> None:
        pass


class Provider(Twin):
    """Has effects, one for each request that it is not told to refuse.

    A parcel's `fate`: deliver; refuse (400, no effect); fault (500 after the effect); outage (503 without
    effect); vanish (the effect, then no answer).
    """

    name = "provider"
    description = "A provider that counts its effects"

    def __init__(self) -> None:
        super().__init__()
        self.effects: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.open = 0

    def routes(self) -> list[BaseRoute]:
        return [Route("/effects", self._effect, methods=["POST"])]

    async def _effect(self, request: Request) -> Response:
        parcel = await request.json()
        self.asked[parcel["ref"]] += 1
        self.open += 1
        try:
            await asyncio.sleep(parcel["before"])
            fate = parcel["fate"]
            if fate == "refuse":
                return JSONResponse({"error": "no"}, status_code=400)
            if fate == "outage":
                return JSONResponse({"error": "later"}, status_code=503)
            self.effects[parcel["ref"]] += 1
            await asyncio.sleep(parcel["after"])
            if fate == "vanish":
                return BrokenAnswer()
            status = 500 if fate == "fault" else 200
            return JSONResponse({"count": self.effects[parcel["ref"]]}, status_code=status)
        finally:
            self.open -= 1

    def state(self) -> dict[str, Any]:
        return dict(self.effects)

    def greeting(self, url: str) -> str:
        return url

    async def stop(self) -> None:
        pass
