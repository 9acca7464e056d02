"""`trunkline serve`, and what depends on its data folder."""

import base64
import json
import os
import signal
import socket
import sqlite3
import stat
import sys
from pathlib import Path

import httpx2
import pytest

from app.cli.exits import ExitCode

from .conftest import Process, Ran, Serve, Trunkline, run


def serve_briefly(folder: Path, *arguments: str, **environment: str) -> Ran:
    """A start that is expected to be refused."""
    return run("serve", "--port", "0", "--data-dir", str(folder), *arguments, environment=environment)


def one_line(ran: Ran) -> str:
    """The error: the last line, after what the log says."""
    assert ran.exit_code == ExitCode.FAILED
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr
    error = ran.stderr.splitlines()[-1]
    assert error.startswith("error: ")
    return error


def test_the_first_start_announces_the_admin_key_once(serve: Serve) -> None:
    first = serve()
    assert first.admin_key
    assert first.admin_key.startswith("tl_")
    file = first.data_dir / "admin.key"
    assert file.read_text().strip() == first.admin_key
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert httpx2.get(f"{first.url}/readyz").status_code == 200
    assert first.process.stop() == 0
    assert all(json.loads(line) for line in first.process.log.read_text().splitlines())
    second = serve()
    assert second.admin_key is None
    cli = Trunkline({"TRUNKLINE_URL": second.url, "TRUNKLINE_DATA_DIR": str(second.data_dir)})
    assert cli("tenants", "list", "--json").exit_code == 0


def test_people_are_told_the_address_the_folder_the_key_and_what_is_broken(tmp_path: Path) -> None:
    connectors = Path(__file__).parent / "connectors"
    process = Process(
        tmp_path, "serve", "--port", "0", "--data-dir", f"{tmp_path}/d", "--connectors-path", str(connectors)
    )
    try:
        lines = [process.line() for _ in range(5)]
    finally:
        process.popen.send_signal(signal.SIGINT)
        assert process.stop() == 0
    assert lines[0].startswith("Trunkline listens on http://127.0.0.1:")
    assert lines[1] == f"Data is in {tmp_path}/d"
    assert lines[2].startswith("Admin key: tl_")
    assert f"{tmp_path}/d/admin.key" in lines[3]
    assert "app.integrations.connectors.broken: It cannot be imported" in lines[4]


def test_it_stops_when_standard_input_ends(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as stdin:
        process = Process(
            tmp_path, "serve", "--port", "0", "--data-dir", f"{tmp_path}/d", "--stop-with-stdin", stdin=stdin
        )
    process.line()
    assert process.popen.poll() is None
    os.close(writing)
    assert process.popen.wait(20) == 0
    process.kill()


TELLING = """
import gc, json, sys
from app.__main__ import main
try:
    main()
except SystemExit:
    full_collections = gc.get_stats()[-1]["collections"]
    print(json.dumps([sorted(sys.modules), full_collections, gc.get_freeze_count()]))
"""
"""The command, and then what it has imported and what the garbage collector did."""

UNNEEDED = (
    *("app.checks", "app.scaffold", "app.integrations.twin", "app.infra.postgres", "app.infra.pgqueue"),
    *("alembic", "asyncpg", "pgqueuer", "sqlalchemy.ext.asyncio"),
    *("opentelemetry.sdk", "opentelemetry.exporter"),
    *("aiosmtplib", "imap_tools", "imaplib", "smtplib"),
    *("cryptography.x509", "cryptography.hazmat.primitives.serialization"),
)
"""What a platform on an up-to-date SQLite file does without, while it has no connections and no traces."""


def test_a_start_loads_nothing_that_it_does_not_need(tmp_path: Path, local: Trunkline) -> None:
    folder = str(tmp_path / "d")
    assert local("migrate", "--data-dir", folder).exit_code == 0
    off = {name: "" for name in os.environ if name.startswith("OTEL_")}
    process = Process(
        tmp_path,
        *("serve", "--json", "--port", "0", "--data-dir", folder),
        environment=off,
        program=[sys.executable, "-c", TELLING],
    )
    try:
        assert json.loads(process.line())["broken"] == []
        process.popen.terminate()
        modules, full_collections, frozen = json.loads(process.line())
    finally:
        process.kill()
    assert "app.integrations.connectors.email.connector" in modules, "it has looked for connectors"
    assert [name for name in modules if name.startswith(UNNEEDED)] == []
    assert (full_collections, frozen > 100_000) == (0, True)


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = one_line(serve_briefly(tmp_path / "d", "--port", str(port)))
    assert f"Cannot listen on 127.0.0.1:{port}" in error
    assert "TRUNKLINE_PORT or --port" in error


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = one_line(serve_briefly(tmp_path / "file"))
    assert f"The data folder {tmp_path}/file cannot be written" in error


def test_a_second_process_on_the_folder_is_refused(serve: Serve, local: Trunkline) -> None:
    first = serve()
    for ran in (
        serve_briefly(first.data_dir),
        local("migrate", "--data-dir", str(first.data_dir)),
        local("keys", "recover", "--data-dir", str(first.data_dir)),
    ):
        assert f"Another process (pid {first.process.popen.pid}) already uses" in one_line(ran)


def test_a_wrong_master_key_is_refused(serve: Serve) -> None:
    first = serve()
    first.process.stop()
    other = base64.b64encode(bytes(32)).decode()
    error = one_line(serve_briefly(first.data_dir, TRUNKLINE_MASTER_KEY=other))
    assert "master key" in error
    assert other not in error


def test_a_newer_schema_is_refused(tmp_path: Path, local: Trunkline) -> None:
    folder = str(tmp_path / "d")
    assert local("migrate", "--data-dir", folder).exit_code == 0
    with sqlite3.connect(tmp_path / "d" / "trunkline.db") as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    assert "schema 9999" in one_line(serve_briefly(tmp_path / "d"))
    assert "schema 9999" in one_line(local("migrate", "--data-dir", folder))


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--port", "x"),
        ("--port", "70000"),
        ("--dedupe-days", "1"),
        ("--log-level", "loud"),
        ("--public-url", "x"),
    ],
)
def test_a_wrong_setting_is_named(local: Trunkline, flag: str, value: str) -> None:
    error = one_line(local("serve", flag, value))
    assert f"The setting {flag[2:].replace('-', '_')} is wrong" in error
    assert flag in error


def test_the_master_key_is_no_flag(local: Trunkline) -> None:
    assert local("serve", "--master-key", "x").exit_code == ExitCode.USAGE


def test_following_goes_on_where_it_was_after_the_platform_was_killed(serve: Serve, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    served = serve("--port", port)
    environment = {"TRUNKLINE_URL": served.url, "TRUNKLINE_DATA_DIR": str(served.data_dir)}
    cli = Trunkline(environment)
    made = cli("connections", "create", "desk", "--secret", "api_key=good", "--json").json
    follower = Process(tmp_path, "events", "follow", "--json", "--limit", "2", environment=environment)
    follower.wait_for_log("Waiting for events")
    served.process.kill()
    again = serve("--port", port)
    for number in ("1", "2"):
        answer = httpx2.post(made["webhook_url"], json={"id": number, "text": f"ticket {number}"})
        assert answer.status_code == 200
    assert [json.loads(follower.line())["external_id"] for _ in range(2)] == ["1", "2"]
    assert follower.popen.wait(20) == 0
    follower.kill()
    assert again.process.stop() == 0
