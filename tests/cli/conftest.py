"""A real platform in a process of its own, and the command line in this one."""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from app.cli.root import app

CONNECTORS = Path(__file__).parent / "connectors"
PATIENCE = 20.0

TRUNKLINE = [sys.executable, "-m", "app"]


class Process:
    """A command of the platform that runs until it is stopped."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        environment: dict[str, str] | None = None,
        stdin: Any = None,
        program: Sequence[str] = TRUNKLINE,
    ) -> None:
        self.log = folder / f"{arguments[0]}.stderr"
        with self.log.open("ab") as errors:
            self.popen = subprocess.Popen(
                [*program, *arguments],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=os.environ | (environment or {}),
            )
        self._read = b""

    def line(self, timeout: float = PATIENCE) -> str:
        """The next line of its output; empty if it ends without one."""
        output = self.popen.stdout
        assert output
        while b"\n" not in self._read:
            assert select.select([output], [], [], timeout)[0], f"no line; {self.log.read_text()}"
            more = os.read(output.fileno(), 1 << 16)
            if not more:
                return ""
            self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def wait_for_log(self, text: str) -> None:
        eventually(lambda: text in self.log.read_text())

    def stop(self) -> int:
        self.popen.terminate()
        code = self.popen.wait(PATIENCE)
        assert self.popen.stdout
        self.popen.stdout.close()
        return code

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()
        assert self.popen.stdout
        self.popen.stdout.close()


@dataclass
class Served:
    """A platform that is ready, as it announced itself."""

    process: Process
    url: str
    data_dir: Path
    admin_key: str | None


Serve = Callable[..., Served]


def start(folder: Path, *arguments: str) -> Served:
    options = ["--port", "0", "--data-dir", str(folder / "data"), "--connectors-path", str(CONNECTORS)]
    process = Process(folder, "serve", "--json", *options, *arguments)
    try:
        ready = json.loads(process.line())
    except ValueError:
        process.kill()
        raise AssertionError(process.log.read_text()) from None
    return Served(process, ready["url"], Path(ready["data_dir"]), ready["admin_key"])


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts platforms of this test's own; those still running at its end are stopped."""
    started: list[Served] = []

    def serve(*arguments: str, folder: Path = tmp_path) -> Served:
        served = start(folder, *arguments)
        started.append(served)
        return served

    yield serve
    for served in started:
        if served.process.popen.poll() is None:
            served.process.stop()


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One platform for all tests that only talk to it."""
    # Some actions never end.
    served = start(tmp_path_factory.mktemp("platform"), "--stop-timeout", "0.5")
    yield served
    assert served.process.stop() == 0


@dataclass
class Ran:
    """A command that has ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        assert self.exit_code == 0, self.stderr
        return json.loads(self.stdout)


class Trunkline:
    """The command line, in this process, for one platform."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def __call__(self, *arguments: str, stdin: str | None = None, **environment: str | None) -> Ran:
        result = CliRunner().invoke(
            app, arguments, input=stdin, env=self.environment | environment, prog_name="trunkline"
        )
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def cli(platform: Served) -> Trunkline:
    """The command line with the shared platform's address and key."""
    assert platform.admin_key
    return Trunkline({"TRUNKLINE_URL": platform.url, "TRUNKLINE_API_KEY": platform.admin_key})


@pytest.fixture
def local() -> Trunkline:
    """The command line without a platform."""
    return Trunkline({})


@pytest.fixture
def connection(cli: Trunkline) -> dict[str, Any]:
    """A connection of this test's own."""
    return cli("connections", "create", "desk", "--secret", "api_key=good", "--json").json


@pytest.fixture
def webhook() -> Callable[..., None]:
    """Sends a webhook to a connection, as its provider would."""

    def send(connection: dict[str, Any], **payload: Any) -> None:
        answer = httpx2.post(connection["webhook_url"], json=payload)
        assert answer.status_code == 200, answer.text

    return send


def eventually(probe: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """What `probe` gives once that is true."""
    deadline = time.monotonic() + timeout
    while not (found := probe()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return found


def run(*arguments: str, environment: dict[str, str] | None = None, **options: Any) -> Ran:
    """The command line in a process of its own."""
    done = subprocess.run(
        [*TRUNKLINE, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | (environment or {}),
        timeout=60,
        check=False,
        **options,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


__all__: Sequence[str] = ("Ran", "Served", "Trunkline", "eventually", "run", "start")
