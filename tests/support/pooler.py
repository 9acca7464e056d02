"""A stand-in for PgBouncer: as picky about how a connection begins, and it can pool transactions."""

import asyncio
import struct

from .streams import serving

KNOWN = {"user", "database", "client_encoding", "datestyle", "timezone", "application_name"}
"""What may be set as a connection begins, as with PgBouncer."""


class Pooler:
    """Each client gets a line to the server of its own, or, with `transactions`, all have one in turn.
    The server trusts whoever comes."""

    def __init__(self, port: int, *, transactions: bool) -> None:
        self._port = port
        self._transactions = transactions
        self._turn = asyncio.Lock()
        self._shared: tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes] | None = None
        self._serving = serving(self._serve)

    async def __aenter__(self) -> "Pooler":
        self.port = await self._serving.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._serving.__aexit__(None, None, None)
        if self._shared is not None:
            self._shared[1].close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = await reader.readexactly(4)
        start = size + await reader.readexactly(struct.unpack("!I", size)[0] - 4)
        if unknown := set(start[8:].decode().split("\0")[:-2:2]) - KNOWN:
            said = f"unsupported startup parameter: {min(unknown)}"
            fault = f"SFATAL\0VFATAL\0C08P01\0M{said}\0\0".encode()
            writer.write(b"E" + struct.pack("!I", len(fault) + 4) + fault)
            return
        if self._shared is None or not self._transactions:
            there, back = await asyncio.open_connection("127.0.0.1", self._port)
            back.write(start)
            self._shared = there, back, await _answer(there)
        there, back, greeting = self._shared
        writer.write(greeting)
        turn = self._turn if self._transactions else asyncio.Lock()
        said = asyncio.create_task(_message(reader))
        while True:
            await asyncio.wait({said})
            async with turn:
                ended = asyncio.create_task(_tell(there, writer))
                while not ended.done():
                    if said.done():
                        if said.result()[:1] == b"X":
                            ended.cancel()
                            return
                        back.write(said.result())
                        said = asyncio.create_task(_message(reader))
                    await asyncio.wait({said, ended}, return_when=asyncio.FIRST_COMPLETED)


async def _message(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)


async def _answer(reader: asyncio.StreamReader) -> bytes:
    """All that the server says until it is ready for more."""
    said = b""
    while True:
        message = await _message(reader)
        said += message
        if message[:1] == b"Z":
            return said


async def _tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Hands on what the server says until no transaction is open."""
    while True:
        message = await _message(reader)
        writer.write(message)
        if message[:1] == b"Z" and message[-1:] == b"I":
            return
