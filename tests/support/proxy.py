"""A line to PostgreSQL that can be cut at a given word."""

import asyncio

from .streams import serving


class Proxy:
    """Carries bytes to the server and back, until a client sends a given word: then the line is cut, before
    or after the server has had it. With `after`, only a line that has sent that word before is cut."""

    def __init__(self, port: int, *, after: bytes = b"") -> None:
        self._port = port
        self._after = after
        self.cut_at: bytes | None = None
        self.deliver = False
        self.cuts = 0
        self._serving = serving(self._carry)

    async def __aenter__(self) -> "Proxy":
        self.port = await self._serving.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._serving.__aexit__(None, None, None)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        mute = armed = False

        async def to_server() -> None:
            nonlocal mute, armed
            while data := await reader.read(65536):
                armed = armed or self._after in data
                if armed and self.cut_at is not None and self.cut_at in data:
                    self.cuts += 1
                    if self.deliver:
                        mute = True
                        back.write(data)
                        await asyncio.sleep(0.2)
                    return
                back.write(data)

        async def to_client() -> None:
            while data := await there.read(65536):
                if not mute:
                    writer.write(data)

        pumps = {asyncio.create_task(to_server()), asyncio.create_task(to_client())}
        _, pending = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        writer.transport.abort()
        back.close()
