"""The platform in a process of its own that tests may stop, kill and start again over the same data."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx2

from .specification import ROOT
from .storage import settings_for

PATIENCE = 30.0
"""Seconds that it gets to become ready, and to end."""

WORKS = '"node"'
"""What a worker, which answers nobody, writes once it works."""

LOG_TAIL = 3000
"""Characters of the log that a failure message shows."""


class PlatformProcess:
    """`trunkline serve` (or worker) over one data folder, always at the same address.

    settings   as keyword arguments, named like the platform's own (`stop_timeout=2`); `public_url=True`
               stands for the address that it listens on
    program    the module that is run: the platform's, or one that changes something and then runs it
    command    what it is to do: serve, or worker
    source     the folder that the code is in
    variables  of the environment, beside the settings
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        connectors: Path | None = None,
        program: str = "app",
        command: str = "serve",
        source: Path = ROOT,
        variables: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.data_dir = data_dir
        self.log = data_dir.with_name(data_dir.name + ".log")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.starts = 0
        self.patience = PATIENCE
        self._source = source
        if connectors is not None:
            settings["connectors_path"] = connectors
        if settings.get("public_url") is True:
            settings["public_url"] = self.url
        settings = settings_for(data_dir) | settings
        own = {f"TRUNKLINE_{name.upper()}": str(value) for name, value in settings.items()}
        inherited = {n: v for n, v in os.environ.items() if not n.startswith("TRUNKLINE_")}
        self.environment = inherited | own | dict(variables or {})
        """Of the next start."""
        self._answers = command == "serve"
        self._arguments = [sys.executable, "-m", program, command, "--json", "--stop-with-stdin"]
        self._arguments += ["--port", str(self.port), "--data-dir", str(data_dir)]
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._popen is not None, "it was never started"
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def urls(self) -> list[str]:
        """Where its requests are answered."""
        return [self.url]

    @property
    def admin_key(self) -> str:
        return (self.data_dir / "admin.key").read_text().strip()

    def spawn(self) -> None:
        """Starts the process without waiting for it to become ready."""
        assert not self.running, "it runs already"
        self._let_go()
        self.starts += 1
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self._arguments,
                cwd=self._source,
                env=self.environment,
                stdin=subprocess.PIPE,  # it stops when this process ends, however that happens
                stdout=log,
                stderr=log,
            )

    async def ready(self) -> None:
        """Waits until it says that it can store."""
        deadline = time.monotonic() + self.patience
        async with httpx2.AsyncClient(trust_env=False, timeout=5) as client:
            while True:
                with contextlib.suppress(httpx2.TransportError):
                    if (await client.get(f"{self.url}/readyz")).status_code == 200:
                        return
                assert self.running, f"it ended before it was ready: {self.tail()}"
                assert time.monotonic() < deadline, f"not ready after {self.patience} s: {self.tail()}"
                await asyncio.sleep(0.01)

    async def start(self) -> None:
        said = self.log_text().count(WORKS)
        self.spawn()
        if self._answers:
            await self.ready()
            return
        deadline = time.monotonic() + self.patience
        while self.log_text().count(WORKS) == said:
            assert self.running, f"it ended before it worked: {self.tail()}"
            assert time.monotonic() < deadline, f"not at work after {self.patience} s: {self.tail()}"
            await asyncio.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL: it gets no chance to do anything more."""
        assert self._popen is not None
        self._popen.kill()
        self._popen.wait()
        self._let_go()

    def freeze(self) -> None:
        """SIGSTOP: it stands still, as on a machine that is suspended."""
        assert self._popen is not None
        self._popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._popen is not None
        self._popen.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """SIGTERM: it is asked to stop. See `ended`."""
        assert self._popen is not None
        self._popen.send_signal(signal.SIGTERM)

    async def ended(self, timeout: float = PATIENCE) -> int:
        """Its exit code, once it has ended."""
        assert self._popen is not None
        deadline = time.monotonic() + timeout
        while self._popen.poll() is None:
            assert time.monotonic() < deadline, f"still running after {timeout} s: {self.tail()}"
            await asyncio.sleep(0.01)
        self._let_go()
        return self._popen.returncode

    async def stop(self) -> int:
        self.terminate()
        return await self.ended()

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def tail(self) -> str:
        """The end of its log, for failure messages."""
        return "…" + self.log_text()[-LOG_TAIL:]

    def client(self, **options: Any) -> httpx2.AsyncClient:
        """A client with the admin key, good for every later start too."""
        return httpx2.AsyncClient(
            base_url=self.url,
            headers={"Authorization": f"Bearer {self.admin_key}"},
            trust_env=False,
            **{"timeout": 30} | options,
        )

    def _let_go(self) -> None:
        if self._popen is not None and self._popen.stdin is not None:
            with contextlib.suppress(OSError):
                self._popen.stdin.close()


@contextlib.asynccontextmanager
async def platform_process(data_dir: Path, **options: Any) -> AsyncIterator[PlatformProcess]:
    """A platform that is ready; whatever happens, its process is gone at the end."""
    process = PlatformProcess(data_dir, **options)
    try:
        await process.start()
        yield process
    finally:
        if process.running:
            process.kill()


async def connect(client: httpx2.AsyncClient, integration: str, **body: Any) -> dict[str, Any]:
    """Makes a connection and returns it."""
    answer = await client.post("/api/v1/connections", json={"integration": integration, **body})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def each(client: httpx2.AsyncClient, path: str, **params: Any) -> AsyncIterator[dict[str, Any]]:
    """A whole list, page by page."""
    query = {"limit": 1000, **params}
    while True:
        answer = await client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        for item in page["items"]:
            yield item
        if page["next"] is None:
            return
        query["after"] = page["next"]


async def walk(client: httpx2.AsyncClient, path: str, **params: Any) -> list[dict[str, Any]]:
    """A whole list."""
    return [item async for item in each(client, path, **params)]


def peak_memory(pid: int) -> int:
    """The most bytes that the process has had resident since its start, by the kernel's own account."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not tell")


def free_port() -> int:
    """A port that no client is given by chance while the platform is down, so that it can come back."""
    for port in random.sample(range(20_000, 32_000), 50):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port found")
