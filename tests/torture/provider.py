"""A provider that can fail in every way and never lies about it: its ledger of effects is fsynced before
anybody hears of one.

    POST /effects        has an effect, unless the try's fate or a known Idempotency-Key says otherwise
    GET  /effects/{ref}  how often it happened, and whether a request for it is still being handled

Runs in a test's own event loop (`running`), or as a process of its own that may be killed and started again
over its ledger: `python -m tests.torture.provider PORT LEDGER`.
"""

import asyncio
import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.support.process import free_port
from tests.support.specification import ROOT

FATES = {
    "deliver": "the effect, and its answer",
    "refuse": "400 and no effect",
    "limit": "429 with Retry-After and no effect",
    "outage": "503 and no effect",
    "reset": "the connection is reset before the effect",
    "fault": "500 after the effect",
    "vanish": "the connection is reset after the effect",
    "hang": "no answer after the effect",
    "crash_before": "whoever asked is killed before the effect, which never comes",
    "crash_after": "whoever asked is killed after the effect, before the answer",
}

CRASH = "crash"
"""What the process prints when the platform is to be killed, with the number of the process that asked."""

ASKER = "x-process"
"""Header that tells that number."""

HANG_SECONDS = 30.0


class _Reset(Exception):
    """The connection is to be reset."""


class Ledger:
    """The effects, in memory and, with a file, on disk before `note` returns."""

    def __init__(self, path: Path | None = None) -> None:
        self.effects: Counter[str] = Counter()
        self.keys: set[str] = set()
        self._file: int | None = None
        if path is None:
            return
        whole = path.read_bytes() if path.exists() else b""
        whole = whole[: whole.rfind(b"\n") + 1]  # what was torn by a kill was told to nobody
        for line in whole.splitlines():
            self._count(**json.loads(line))
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.ftruncate(self._file, len(whole))

    def note(self, ref: str, key: str | None) -> None:
        if self._file is not None:
            os.write(self._file, json.dumps({"ref": ref, "key": key}).encode() + b"\n")
            os.fsync(self._file)
        self._count(ref, key)

    def _count(self, ref: str, key: str | None) -> None:
        self.effects[ref] += 1
        if key:
            self.keys.add(key)


class Provider:
    """The stand-in. `asked` counts tries by ref; `open` are those that are being handled, `most_open` the
    most that ever were at the same time."""

    def __init__(self, ledger: Ledger | None = None) -> None:
        self._ledger = ledger or Ledger()
        self.asked: Counter[str] = Counter()
        self._handling: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self.most_open = 0

    @property
    def effects(self) -> Counter[str]:
        return self._ledger.effects

    @property
    def open(self) -> int:
        return self._handling.total()

    async def serve(self, port: int) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", port)

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                status, content, more = await self._respond(reader)
                body = json.dumps(content).encode()
                writer.write(
                    f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{more}\r\n".encode() + body
                )
                await writer.drain()
        except _Reset:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _respond(self, reader: asyncio.StreamReader) -> tuple[int, Any, str]:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        method, path, _ = first.split()
        if method == "GET":
            ref = path.rpartition("/")[2]
            return 200, {"count": self.effects[ref], "open": self._handling[ref]}, ""
        parcel = json.loads(body)
        self._handling[parcel["ref"]] += 1
        self.most_open = max(self.most_open, self.open)
        try:
            return await self._handle(parcel, headers, reader)
        finally:
            self._handling[parcel["ref"]] -= 1

    async def _handle(
        self, parcel: dict[str, Any], headers: dict[str, str], reader: asyncio.StreamReader
    ) -> tuple[int, Any, str]:
        key, asker = headers.get("idempotency-key"), headers.get(ASKER, "0")
        ref, fates = parcel["ref"], parcel["fates"]
        fate = fates[self.asked[ref]] if self.asked[ref] < len(fates) else "deliver"
        self.asked[ref] += 1
        await asyncio.sleep(parcel["before"])
        match fate:
            case "refuse":
                return 400, {"error": "no"}, ""
            case "limit":
                return 429, {"error": "later"}, "retry-after: 1\r\n"
            case "outage":
                return 503, {"error": "down"}, ""
            case "reset":
                raise _Reset
            case "crash_before":
                print(CRASH, asker, flush=True)
                await _until_gone(reader)
        if key is None or key not in self._ledger.keys:
            self._ledger.note(ref, key)
        await asyncio.sleep(parcel["after"])
        match fate:
            case "vanish":
                raise _Reset
            case "hang":
                await _until_gone(reader)
            case "crash_after":
                print(CRASH, asker, flush=True)
                await _until_gone(reader)
        return 500 if fate == "fault" else 200, {"count": self.effects[ref]}, ""


async def _until_gone(reader: asyncio.StreamReader) -> None:
    """Waits until whoever asked gives up, and gives up too."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(reader.read(1), HANG_SECONDS)
    raise _Reset


@contextlib.asynccontextmanager
async def running(provider: Provider) -> AsyncIterator[str]:
    """Serves it in this event loop; its address."""
    server = await provider.serve(0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await provider.close()


class ProviderProcess:
    """The stand-in in a process of its own, always at the same address and over the same ledger."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.starts = 0
        self._popen: asyncio.subprocess.Process | None = None
        self._crashes: asyncio.Queue[int] = asyncio.Queue()

    async def start(self) -> None:
        self.starts += 1
        self._popen = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.torture.provider", str(self._port), str(self._ledger)),
            cwd=ROOT,
            stdin=subprocess.PIPE,  # it stops when this process ends, however that happens
            stdout=subprocess.PIPE,
        )
        assert self._popen.stdout is not None
        assert await self._popen.stdout.readline() == b"ready\n"
        self._listening = asyncio.create_task(self._listen(self._popen.stdout))

    async def _listen(self, told: asyncio.StreamReader) -> None:
        while (words := (await told.readline()).decode().split())[:1] == [CRASH]:
            self._crashes.put_nowait(int(words[1]))

    async def crash_wanted(self) -> int:
        """Waits until it wants the platform killed; the process that has asked it."""
        return await self._crashes.get()

    async def kill(self) -> None:
        if self._popen is not None and self._popen.returncode is None:
            self._popen.kill()
            await self._popen.wait()

    def effects(self) -> Counter[str]:
        """What its ledger says."""
        return Ledger(self._ledger).effects


async def main(port: int, ledger: Path) -> None:
    async with await Provider(Ledger(ledger)).serve(port):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.buffer.read)
        os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
