"""Senders of signed webhooks: as little client as can be, so that the server is what is busy."""

import asyncio
import hashlib
import hmac
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

SECRET = "what both sides know"

BROKEN = (ConnectionError, asyncio.IncompleteReadError, OSError)
"""What a sender sees of a server that was killed."""


@dataclass
class Ledger:
    """What was sent, by key, and what was acknowledged."""

    sent: dict[str, Any] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    other: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Answers other than 200: status and headers."""


class Wire:
    """One keep-alive connection for POST requests. After an error it is opened anew by the next."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port, self._path = parts.hostname, parts.port, parts.path
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str]]:
        """Status and headers of the answer. Raises one of BROKEN."""
        await self.send(self.head(len(body), headers) + body)
        return await self.answer()

    def head(self, length: int, headers: dict[str, str] | None = None) -> bytes:
        lines = [f"POST {self._path} HTTP/1.1", f"host: {self._host}", f"content-length: {length}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def send(self, data: bytes) -> None:
        try:
            if self._writer is None:
                self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
            self._writer.write(data)
            await self._writer.drain()
        except BROKEN:
            self.close()
            raise

    async def answer(self) -> tuple[int, dict[str, str]]:
        try:
            assert self._reader is not None
            head = await self._reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")[:-2]
            headers = {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}
            await self._reader.readexactly(int(headers.get("content-length", "0")))
        except BROKEN:
            self.close()
            raise
        if headers.get("connection") == "close":
            self.close()
        return int(first.split()[1]), headers

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class Sender:
    """Sends numbered things to one webhook URL, one after the other, and keeps account. Of several nodes'
    URLs the next one is used when one does not take a thing."""

    def __init__(self, url: str | Sequence[str], name: str, ledger: Ledger) -> None:
        self._wires = deque(map(Wire, [url] if isinstance(url, str) else url))
        self._name = name
        self._ledger = ledger
        self._last: dict[str, Any] = {"n": 0}

    async def send_next(self, padding: str = "") -> bool:
        """Sends the next thing once; whether it was acknowledged. Raises one of BROKEN."""
        number = self._last["n"] + 1
        self._last = {"id": f"{self._name}-{number}", "sender": self._name, "n": number, "padding": padding}
        return await self.repeat()

    async def repeat(self) -> bool:
        """Sends the last thing again."""
        key, body = self._last["id"], json.dumps(self._last).encode()
        self._ledger.sent[key] = self._last
        try:
            status, headers = await self._wires[0].post(body, signed(body))
        except BROKEN:
            self._wires.rotate(-1)
            raise
        if status == 200:
            self._ledger.acknowledged.add(key)
            return True
        self._ledger.other.append((status, headers))
        self._wires.rotate(-1)
        return False

    def close(self) -> None:
        for wire in self._wires:
            wire.close()


def signed(body: bytes) -> dict[str, str]:
    return {"X-Signature": "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()}
