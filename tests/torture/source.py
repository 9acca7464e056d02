"""A source that is polled, for tests: it keeps its own account of what it made."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from app.integrations.twin import Twin

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
