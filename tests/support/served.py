"""The platform as its users run it: `trunkline serve` in a process of its own."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from .specification import ROOT


@dataclass
class Served:
    """A running process and a client with its admin key."""

    process: asyncio.subprocess.Process
    url: str
    client: httpx2.AsyncClient

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)


@contextlib.asynccontextmanager
async def served(data_dir: Path, *, source: Path = ROOT, **environment: str) -> AsyncIterator[Served]:
    """Serves `data_dir` with the code in `source` until the end, then asks it to stop and waits for it."""
    clean = {n: v for n, v in os.environ.items() if not n.startswith("TRUNKLINE_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "serve", "--port", "0", "--data-dir", str(data_dir), "--json"),
        cwd=source,
        env={**clean, **environment},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            ready: dict[str, Any] = json.loads(await process.stdout.readline() or b"{}")
        assert "url" in ready, "it did not start: see standard error"
        key = ready["admin_key"] or (data_dir / "admin.key").read_text().strip()
        async with httpx2.AsyncClient(
            base_url=ready["url"], headers={"Authorization": f"Bearer {key}"}, timeout=30, trust_env=False
        ) as client:
            yield Served(process, ready["url"], client)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(30):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
                raise
