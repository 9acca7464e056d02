"""A small HTTP server beside the work of a process."""

import asyncio
import socket
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import uvicorn

from .listener import url_of

STOP_SECONDS = 1
"""What an answer that is being given gets when the server stops."""


class SideServer:
    """Serves an ASGI application on a socket. Signals are left to whoever does the work."""

    def __init__(self, application: Any, listener: socket.socket) -> None:
        self.url = url_of(listener)
        self._listener = listener
        self._server = _Server(
            uvicorn.Config(
                application,
                http="httptools",
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=STOP_SECONDS,
            )
        )
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
