"""A TCP server that speaks just as much HTTP as a test tells it to, and misbehaves as told."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from .streams import serving

Behaviour = Callable[["Exchange"], Awaitable[None]]


@dataclass
class Exchange:
    """One accepted connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    _server: "WireServer"

    async def request(self) -> bytes:
        """Reads one whole request and notes it."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = next(
            (
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            ),
            0,
        )
        whole = head + await self.reader.readexactly(length)
        self._server.requests.append(whole)
        return whole

    async def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Status", f"content-length: {len(body)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await self.writer.drain()

    def reset(self) -> None:
        """Ends the connection with RST instead of FIN."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def hang(self) -> None:
        """Waits until the other side goes away."""
        with contextlib.suppress(ConnectionError):
            await self.reader.read()


@dataclass
class WireServer:
    """Where it listens, and the requests that it has read."""

    url: str
    requests: list[bytes] = field(default_factory=list)
    accepted: int = 0


@contextlib.asynccontextmanager
async def wire_server(behaviour: Behaviour) -> AsyncIterator[WireServer]:
    """Serves every connection with `behaviour`, until the end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire.accepted += 1
        await behaviour(Exchange(reader, writer, wire))

    async with serving(serve) as port:
        wire = WireServer(f"http://127.0.0.1:{port}")
        yield wire


def refused_url() -> str:
    """An address at which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{sock.getsockname()[1]}"
