"""A server under test: how to start it, where to send the load, how to see what it stored."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from benchmarks.databases import Place
from benchmarks.load import HOST, LoadResult
from benchmarks.machine import pin

ROOT = Path(__file__).resolve().parents[2]
_START_SECONDS = 30.0
_STOP_SECONDS = 30.0
_LOG_LINES = 15


class BenchmarkError(Exception):
    """A measurement that cannot be made or whose result is wrong; the message says what happened."""


class Server:
    """One server with a place of its own, which is empty at the start.

    A subclass says how to start it; what else it overrides depends on what the server can do.
    """

    name: ClassVar[str]

    def __init__(self, place: Place) -> None:
        self.place = place
        self.port = free_port()
        self.startup_seconds = 0.0
        self.pid = 0
        self.log = place.folder / f"{self.name}-{self.port}.log"

    def command(self) -> list[str]:
        """What to run."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """The variables that the server gets besides those of this process."""
        return {}

    def is_ready(self) -> bool:
        """Whether it would answer a request now. The default: whether it listens."""
        try:
            socket.create_connection((HOST, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def webhook_path(self) -> str:
        """Where the load goes. Called once after the start, and may set up what the load needs."""
        return "/webhooks"

    def wait_readable(self, run: str, load: LoadResult) -> float | None:
        """Waits until consumers have read all that `run` got acknowledged; returns the time.monotonic().

        Raises BenchmarkError if anything is missing or there twice. None: the server offers no reading.
        """
        return None

    @contextmanager
    def running(self, core: int | None) -> Iterator[None]:
        """Starts the server on `core`, waits until it is ready, and stops it at the end."""
        # Variables of the platform that are set for other purposes must not lead a benchmark to real data.
        inherited = {k: v for k, v in os.environ.items() if not k.upper().startswith("TRUNKLINE_")}
        with self.log.open("wb") as output:
            started = time.monotonic()
            process = subprocess.Popen(
                self.command(),
                cwd=ROOT,
                env={**inherited, "PYTHONUNBUFFERED": "1", **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            self.pid = process.pid
            # Python has started no thread yet, so that all of them will inherit this.
            pin(process.pid, core)
            try:
                self._wait_ready(process, started)
                yield
            except Exception as error:
                error.add_note(f"Its log ends with: {_tail(self.log)}")
                raise
            finally:
                _stop(process)

    def _wait_ready(self, process: subprocess.Popen[bytes], started: float) -> None:
        while not self.is_ready():
            if process.poll() is not None:
                raise BenchmarkError("It ended instead of getting ready.")
            if time.monotonic() - started > _START_SECONDS:
                raise BenchmarkError(f"It is not ready after {_START_SECONDS:g} s.")
            time.sleep(0.005)
        self.startup_seconds = time.monotonic() - started


def uvicorn(module: str, port: int) -> list[str]:
    """The command that serves `module`:app by uvicorn, tuned."""
    options = (
        f"--host {HOST} --port {port} --loop uvloop --http httptools --no-access-log --log-level warning"
    )
    return [sys.executable, "-m", "uvicorn", f"{module}:app", *options.split()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return "\n".join(lines[-_LOG_LINES:]) or "(nothing)"
