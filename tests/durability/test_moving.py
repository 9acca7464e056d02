"""From SQLite to PostgreSQL: nothing is lost, nothing is done twice, and it goes on where it was."""

import asyncio
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest

from app.config import Settings
from app.errors import StartupError
from app.main import open_platform
from tests.cli.conftest import Ran, Trunkline
from tests.support.connectors import OpenConnector
from tests.support.faults import action_faults, feed_faults, order_faults
from tests.support.platform import eventually, registry_of, running_platform
from tests.support.postgres import PASSWORD, PostgresServer
from tests.support.process import PlatformProcess, platform_process, walk
from tests.support.specification import ROOT

from .populated import AWKWARD, NEW_SECRET, SECRET, Populated, populated

pytestmark = pytest.mark.timeout(180)

NODE_TIMEOUT = 2.0
PATIENCE = 40.0
STAYING = {"alembic_version", "work", "moved", "sqlite_sequence"}
"""Tables of the file that are not copied as they are."""


# The command.


def begin(folder: Path, url: str, *arguments: str) -> subprocess.Popen[str]:
    """In a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "app", "migrate-data", "--data-dir", str(folder), *arguments],
        cwd=ROOT,
        env=os.environ | {"TRUNKLINE_DATABASE_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def move(folder: Path, url: str, *arguments: str) -> Ran:
    """In this process, which is quicker."""
    command = Trunkline({"TRUNKLINE_DATABASE_URL": url})
    ran = await asyncio.to_thread(command, "migrate-data", "--data-dir", str(folder), *arguments)
    assert PASSWORD not in ran.stdout + ran.stderr
    return ran


async def moved(folder: Path, url: str) -> dict[str, Any]:
    """Its report, once it has succeeded."""
    report: dict[str, Any] = (await move(folder, url, "--json")).json
    assert {table["different"] for table in report["tables"]} == {0}
    return report


# What stands in both, looked at without the command.


def rows_of(file: Path) -> dict[str, list[tuple[Any, ...]]]:
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as source:
        names = [row[0] for row in source.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: _sorted(source.execute(f"SELECT * FROM {name}")) for name in names}


async def rows_there(url: str, file: Path) -> dict[str, list[tuple[Any, ...]]]:
    """The same tables with their columns in the same order."""
    link = await asyncpg.connect(url)
    try:
        found = {}
        for name, columns in _columns(file).items():
            if name not in STAYING:
                found[name] = _sorted(await link.fetch(f"SELECT {', '.join(columns)} FROM {name}"))
        return found
    finally:
        await link.close()


def _columns(file: Path) -> dict[str, list[str]]:
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as source:
        return {
            name: [f'"{column[1]}"' for column in source.execute(f"PRAGMA table_info({name})")]
            for (name,) in source.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        }


def _sorted(rows: Any) -> list[tuple[Any, ...]]:
    # SQLite's booleans are numbers.
    plain = [tuple(int(v) if isinstance(v, bool) else v for v in row) for row in rows]
    return sorted(plain, key=repr)


async def wake_ups_there(url: str) -> list[tuple[str, str, int]]:
    link = await asyncpg.connect(url)
    try:
        rows = await link.fetch("SELECT entrypoint, payload, execute_after, status FROM pgqueuer")
    finally:
        await link.close()
    assert {row["status"] for row in rows} <= {"queued"}
    return sorted(
        (r["entrypoint"], r["payload"].decode(), round(r["execute_after"].timestamp() * 1000)) for r in rows
    )


# The whole way.


async def test_a_populated_platform_is_moved_and_goes_on_where_it_was(
    tmp_path: Path, empty_postgres: str
) -> None:
    async with populated(tmp_path) as it:
        file = it.platform.data_dir / "trunkline.db"
        before = rows_of(file)
        assert_every_state_is_there(before)

        mover = begin(it.platform.data_dir, empty_postgres, "--json")
        out, errors = await asyncio.to_thread(mover.communicate, timeout=60)
        assert mover.returncode == 0, errors
        assert PASSWORD not in out + errors
        report = json.loads(out)
        assert report["moved"]
        assert report["master_key"] == str(it.platform.data_dir / "master.key")

        after = await rows_there(empty_postgres, file)
        assert after == {name: rows for name, rows in before.items() if name not in STAYING}
        assert {t["table"]: t["target_rows"] for t in report["tables"] if t["table"] in after} == {
            name: len(rows) for name, rows in after.items()
        }
        waiting = sorted((kind, ref, not_before) for _, kind, ref, not_before, *_ in before["work"])
        assert await wake_ups_there(empty_postgres) == waiting
        assert {n: r for n, r in rows_of(file).items() if n != "moved"} == before, "the file is what it was"

        connectors = it.platform.environment["TRUNKLINE_CONNECTORS_PATH"]
        await refuses_to_start(it.platform, "was moved to postgresql://trunkline:***@")
        it.gate.unlink()
        async with (
            platform_process(
                it.platform.data_dir,
                connectors=Path(connectors),
                database_url=empty_postgres,
                node_timeout=NODE_TIMEOUT,
                action_concurrency=40,
            ) as platform,
            platform.client() as client,
        ):
            it.go_on_at(platform, client)
            await goes_on(it)


def assert_every_state_is_there(tables: dict[str, list[tuple[Any, ...]]]) -> None:
    """What is moved is worth moving."""
    empty = {name for name, rows in tables.items() if not rows}
    assert empty == {"nodes", "leases"}, "what an embedded platform has none of"
    values = {name: {value for row in rows for value in row} for name, rows in tables.items()}
    assert values["webhooks"] >= {"received", "answering", "processed", "failed", "webhook", "poll"}
    assert values["actions"] >= {"queued", "running", "succeeded", "failed", "unknown", "cancelled"}
    assert values["actions"] >= {"time", "slot", "once", "idempotent", "checkable"}
    assert values["attempts"] >= {"open", "succeeded", "failed", "unknown"}
    assert values["work"] >= {"action.run"}


async def refuses_to_start(platform: PlatformProcess, words: str) -> None:
    platform.spawn()
    assert await platform.ended() == 1
    last = platform.log_text().rpartition("error: ")[2]
    assert words in last
    assert "migrate-data --undo" in last
    assert PASSWORD not in last


async def goes_on(it: Populated) -> None:
    scheduled = "in an hour"

    async def open_ends() -> list[str]:
        ends = [w["id"] for w in await it.webhooks() if w["state"] in ("received", "answering")]
        return ends + [
            a.ref for a in await it.actions() if a.state in ("queued", "running") and a.ref != scheduled
        ]

    it.source.produce(5)
    await it.until(open_ends, lambda left: left == [])
    await it.until(_waiting(it), lambda waiting: waiting == 0)

    # Actions: all of them ended as what they are, and none happened twice.
    done = {action.ref: action for action in await it.actions()}
    assert done.pop(scheduled).state == "queued"
    acknowledged = {ref for ref in it.ids if ref != scheduled}
    assert action_faults(acknowledged, done.values(), it.provider.effects) == []
    states = {ref: action.state for ref, action in done.items()}
    ended = {"good", "found", "again", "idempotent", "checkable", "retried", "soon", "a bit later"}
    ended |= {f"for the slot {number}" for number in range(3)}
    interrupted = {"once, no effect yet", "once, no answer yet", "in the slot", "vanished"}
    assert states == (
        dict.fromkeys(ended, "succeeded")
        | dict.fromkeys(interrupted, "unknown")
        | {"refused": "failed", "cancelled": "cancelled"}
    )
    assert it.provider.asked["once, no answer yet"] == 1, "it is never sent twice"
    late = await it.action("a bit later")
    assert late["attempts"][0]["started_at"] >= late["run_at"]

    # The same key is the same action.
    number = len(it.ids)
    for ref in ("good", scheduled):
        known = it.ids[ref]
        body = {"type": "deliver", "payload": {"ref": ref}}
        later = (await it.action(ref))["run_at"]
        if ref == scheduled:
            body["run_at"] = later
        again = await it.client.post(
            it.path("courier", "/actions"), json=body, headers={"Idempotency-Key": f"key-{ref}"}
        )
        assert (again.status_code in (200, 202), again.json().get("id")) == (True, known), again.text
    assert len(await it.actions()) == number
    assert (await it.call("POST", f"/api/v1/actions/{it.ids[scheduled]}/cancel"))["state"] == "cancelled"

    await webhooks_go_on(it)
    await access_goes_on(it)


def _waiting(it: Populated) -> Any:
    async def waiting() -> int:
        return it.source.waiting

    return waiting


async def webhooks_go_on(it: Populated) -> None:
    # What comes again is known, by both the old and the new URL, the old and the new secret.
    former = it.connections["signed"]["former_url"]
    for secret, url in ((SECRET, None), (NEW_SECRET, former), (NEW_SECRET, None)):
        assert await it.webhook("signed", it.sent["s3"], secret=secret, url=url) == 200
    assert await it.webhook("signed", it.sent["s3"], secret="guessed") == 401
    assert await it.webhook("disabled", it.sent["s3"]) == 404
    assert await it.webhook("deleted", it.sent["s3"]) == 404
    await it.send("stalled", "new", text=AWKWARD[2])

    async def read_everything() -> set[Any]:
        while await it.read_on(3):
            pass
        return {event["payload"].get("id") for event in it.read}

    await it.until(read_everything, lambda seen: "new" in seen)
    assert order_faults([int(event["cursor"]) for event in it.read]) == []
    assert [e["id"] for e in await walk(it.client, "/api/v1/events")] == [e["id"] for e in it.read]
    told = [e for e in it.read if e["integration"] != "polled" and not e["conflicting"]]
    assert feed_faults(it.sent, it.acknowledged, [(e["payload"]["id"], e["payload"]) for e in told]) == []
    assert [e["payload"]["id"] for e in it.read if e["conflicting"]] == ["s1"]
    stalled = [e["payload"]["id"] for e in told if e["integration"] == "stalled"]
    assert stalled == [*(f"stalled {n}" for n in range(4)), "new"]
    assert [e["payload"]["id"] for e in told if e["integration"] == "waiter"] == ["waiter"]
    polled = [e["payload"]["n"] for e in it.read if e["integration"] == "polled"]
    assert polled == list(range(it.source.made)), "the poll went on from its cursor"
    [failed] = [w for w in await it.webhooks() if w["state"] == "failed"]
    assert (await it.call("POST", f"/api/v1/webhooks/{failed['id']}/replay"))["id"] == failed["id"]


async def access_goes_on(it: Populated) -> None:
    async def status(path: str, key: str) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx2.AsyncClient(trust_env=False) as client:
            return (await client.get(f"{it.platform.url}/api/v1{path}", headers=headers)).status_code

    assert await status("/events", it.keys["tenant"]) == 200
    assert await status("/tenants", it.keys["tenant"]) == 403
    assert await status("/events", it.keys["revoked"]) == 401
    for name in ("signed", "narrow", "disabled"):
        shown = await it.call("GET", it.path(name))
        assert shown["name"] == it.connections[name]["name"]
        assert shown["state"] == ("disabled" if name == "disabled" else "ready")
    limits = await it.call("GET", it.path("narrow", "/limits"))
    assert limits["limits"] == {"concurrency": 1, "rate": 90, "per": 0.5}
    versions = await it.call("GET", it.path("signed", "/secrets"))
    assert [(s["name"], s["version"]) for s in versions["items"]] == [("signing_secret", 2)]


# Interrupted.


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """The data folder of a platform that has received three things, and was stopped."""
    data = tmp_path / "data"
    async with running_platform(data, OpenConnector) as running:
        url = (await running.connect("open"))["webhook_url"]
        for number in range(3):
            assert (await running.client.post(url, json={"id": f"n{number}"})).status_code == 200
        await running.feed_of(3)
    return data


async def refuses_to_open(folder: Path, words: str) -> None:
    with pytest.raises(StartupError, match=words) as refused:
        await open_platform(Settings(data_dir=folder), lambda: "http://127.0.0.1", registry_of(OpenConnector))
    assert "migrate-data --undo" in refused.value.remedy


async def count(url: str, table: str) -> int:
    link = await asyncpg.connect(url)
    try:
        return int(await link.fetchval(f"SELECT count(*) FROM {table}"))
    finally:
        await link.close()


HELD_UP = """
    CREATE FUNCTION held_up() RETURNS TRIGGER AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock(4242);
        RETURN NEW;
    END;
    $$ LANGUAGE plpgsql;
    CREATE TRIGGER held_up BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION held_up();
"""


@dataclass
class HeldUp:
    """A move that has copied some tables and waits at the events, until it is let go."""

    mover: subprocess.Popen[str]
    link: Any

    @classmethod
    async def begin(cls, folder: Path, url: str) -> "HeldUp":
        link = await asyncpg.connect(url)
        await link.execute(HELD_UP)
        await link.execute("SELECT pg_advisory_lock(4242)")
        mover = begin(folder, url)

        async def waiting() -> int:
            there = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            return int(await link.fetchval(there))

        await eventually(waiting, lambda number: number == 1, PATIENCE)
        return cls(mover, link)

    def kill(self) -> None:
        self.mover.kill()
        self.mover.communicate()

    async def let_go(self) -> None:
        await self.link.execute("SELECT pg_advisory_unlock(4242)")

    async def clear(self) -> None:
        """The database as it was before, but for what was moved."""
        await self.link.execute("DROP TRIGGER held_up ON events")
        await self.link.close()


async def test_a_kill_in_the_middle_leaves_nothing_there_and_it_is_moved_again(
    folder: Path, migrated_postgres: str
) -> None:
    held_up = await HeldUp.begin(folder, migrated_postgres)
    held_up.kill()
    await refuses_to_open(folder, "was begun at")
    await held_up.let_go()
    await held_up.clear()  # waits for its locks
    assert await count(migrated_postgres, "api_keys") == 0
    assert (await moved(folder, migrated_postgres))["copied"]
    assert await count(migrated_postgres, "events") == 3


async def test_a_kill_right_after_the_commit_is_found_out(folder: Path, migrated_postgres: str) -> None:
    held_up = await HeldUp.begin(folder, migrated_postgres)
    with closing(sqlite3.connect(folder / "trunkline.db", isolation_level=None)) as file:
        file.execute("BEGIN IMMEDIATE")  # so that it cannot note that it is done
        await held_up.let_go()
        await eventually(lambda: count(migrated_postgres, "events"), lambda number: number == 3, PATIENCE)
        held_up.kill()
    await held_up.clear()
    await refuses_to_open(folder, "was begun at")
    report = await moved(folder, migrated_postgres)
    assert (report["moved"], report["copied"]) == (True, False)
    await refuses_to_open(folder, "was moved to")

    # Once a platform has been at work there, it is not taken for an interrupted move.
    key = (folder / "master.key").read_text()
    options = {"database_url": migrated_postgres, "master_key": key, "node_timeout": NODE_TIMEOUT}
    async with running_platform(folder, OpenConnector, **options) as running:
        await running.connect("open")
    again = await move(folder, migrated_postgres)
    assert again.exit_code == 1
    assert "have changed since" in again.stderr
    assert await count(migrated_postgres, "connections") == 2


async def test_nobody_uses_the_database_until_all_of_it_is_there(
    folder: Path, tmp_path: Path, migrated_postgres: str
) -> None:
    """Neither a node that is started too early, nor another move."""
    held_up = await HeldUp.begin(folder, migrated_postgres)
    key = (folder / "master.key").read_text()
    options = {"database_url": migrated_postgres, "master_key": key, "node_timeout": NODE_TIMEOUT}

    async def start_too_early() -> tuple[list[str], list[Any]]:
        async with running_platform(folder, OpenConnector, **options) as running:
            return [key["name"] for key in (await running.get("/api/v1/keys"))["items"]], await running.feed()

    other = Path(shutil.copytree(folder, tmp_path / "other"))
    (other / "trunkline.lock").unlink()
    with closing(sqlite3.connect(other / "trunkline.db")) as file, file:
        file.execute("DROP TABLE moved")  # the copy was made after the mark
    early, second = (
        asyncio.create_task(start_too_early()),
        asyncio.create_task(move(other, migrated_postgres)),
    )
    there = "SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'relation' AND NOT granted"
    await eventually(lambda: held_up.link.fetchval(there), lambda number: number == 2, PATIENCE)
    await held_up.let_go()
    names, events = await early
    assert (names, len(events)) == (["admin"], 3), "it has no key but what was moved"
    refused = await second
    assert (refused.exit_code, "holds data already" in refused.stderr) == (1, True), refused.stderr
    await asyncio.to_thread(held_up.mover.communicate)
    assert held_up.mover.returncode == 0
    await held_up.link.close()


async def test_a_server_that_goes_away_leaves_the_file_as_it_was(folder: Path) -> None:
    server = PostgresServer()
    try:
        held_up = await HeldUp.begin(folder, server.create_database(template=server.migrated()))
        await asyncio.to_thread(server.stop)
        out, errors = await asyncio.to_thread(held_up.mover.communicate, timeout=60)
        assert held_up.mover.returncode == 1
        assert "Nothing was moved" in errors
        assert PASSWORD not in out + errors
    finally:
        server.close()
    async with running_platform(folder, OpenConnector) as running:
        assert len(await running.feed()) == 3
