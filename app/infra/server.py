"""How everything here is served over HTTP, and a small server beside the work of a process."""

import asyncio
import socket
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import uvicorn

from .listener import url_of

STOP_SECONDS = 1
"""What an answer that is being given gets when the server stops."""


def server_config(application: Any, stop_seconds: float) -> uvicorn.Config:
    """Requests only, over HTTP/1.1, and nothing said of them but by the application. A stop gives the answers
    that are being given so many seconds."""
    return uvicorn.Config(
        application,
        http="httptools",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        # Declared as whole seconds and used as any number of them; None would be no limit.
        timeout_graceful_shutdown=stop_seconds,  # type: ignore[arg-type]
    )


class SideServer:
    """Serves an ASGI application on a socket. Signals are left to whoever does the work."""

    def __init__(self, application: Any, listener: socket.socket) -> None:
        self.url = url_of(listener)
        self._listener = listener
        self._server = _Server(server_config(application, STOP_SECONDS))
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._listener]), name="side-server")

    async def close(self) -> None:
        if self._serving is not None:
            self._server.should_exit = True
            await self._serving
        self._listener.close()


class _Server(uvicorn.Server):
    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        return nullcontext()
