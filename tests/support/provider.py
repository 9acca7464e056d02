"""A provider's HTTP API on a real socket, which keeps a ledger of its effects and can fail in every way."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Provider:
    """Answers `POST /notes`. `fault` says how the next requests go wrong; see `_respond`."""

    url: str = ""
    fault: str = ""
    delay: float = 0.0
    effects: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls) -> AsyncIterator["Provider"]:
        provider = cls()
        provider._server = await asyncio.start_server(provider._serve, "127.0.0.1", 0)
        provider.url = f"http://127.0.0.1:{provider._server.sockets[0].getsockname()[1]}"
        try:
            yield provider
        finally:
            await provider.close()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._respond(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        headers = {
            name.lower(): value
            for name, value in (line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.headers.append(headers)
        if self.delay:
            await asyncio.sleep(self.delay)
        fault = headers.get("x-fault", self.fault)
        if fault == "reset before effect":
            writer.transport.abort()
            return False
        if fault in ("400", "401", "429"):
            self._answer(writer, int(fault), {"error": "no"}, "Retry-After: 7\r\n" if fault == "429" else "")
            return True
        self.effects.append(json.loads(body))
        if fault == "reset after effect":
            writer.transport.abort()
            return False
        status = 500 if fault == "500 after effect" else 200
        self._answer(writer, status, {"number": len(self.effects)})
        await writer.drain()
        return True

    def _answer(self, writer: asyncio.StreamWriter, status: int, content: Any, more: str = "") -> None:
        body = json.dumps(content).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{more}\r\n"
        writer.write(head.encode() + body)
