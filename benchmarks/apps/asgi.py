"""What the raw ASGI servers share: reading a body, answering 200, storing in between."""

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"2")],
}
_BODY: Message = {"type": "http.response.body", "body": b"{}"}


class Store(Protocol):
    """Stores bodies durably."""

    def store(self, body: bytes) -> Awaitable[None]:
        """Done once the body is committed."""

    async def close(self) -> None:
        """Nothing more will come."""


class StoringApp:
    """The bare server. A body that could not be stored is answered with 500 by uvicorn."""

    def __init__(self, open_store: Callable[[str], Awaitable[Store]]) -> None:
        self._open = open_store
        self._store: Store

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._store.store(await read_body(receive))
            await answer(send)
        else:
            await self._live(receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._store = await self._open(os.environ["BENCHMARK_DATABASE"])
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._store.close()
        await send({"type": "lifespan.shutdown.complete"})


async def read_body(receive: Receive) -> bytes:
    message = await receive()
    if not message.get("more_body"):
        return bytes(message["body"])
    chunks = [message["body"]]
    while message.get("more_body"):
        message = await receive()
        chunks.append(message.get("body", b""))
    return b"".join(chunks)


async def answer(send: Send) -> None:
    await send(_START)
    await send(_BODY)
