"""From SQLite to PostgreSQL: nothing is lost, nothing is done twice, and it goes on where it was."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import pytest

from tests.support.faults import action_faults, feed_faults, order_faults
from tests.support.platform import eventually
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


def environment(url: str | None) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("TRUNKLINE_")}
    return clean | ({"TRUNKLINE_DATABASE_URL": url} if url else {})


def begin(folder: Path, url: str | None, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "app", "migrate-data", "--data-dir", str(folder), *arguments],
        cwd=ROOT,
        env=environment(url),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def move(folder: Path, url: str | None, *arguments: str) -> tuple[int, str, str]:
    """Runs the command to its end: exit code, output, errors."""
    process = begin(folder, url, *arguments)
    out, errors = await asyncio.to_thread(process.communicate, timeout=90)
    assert PASSWORD not in out + errors
    return process.returncode, out, errors


async def moved(folder: Path, url: str, *arguments: str) -> dict[str, Any]:
    """Runs the command, which succeeds; its report."""
    code, out, errors = await move(folder, url, "--json", *arguments)
    assert code == 0, errors
    report: dict[str, Any] = json.loads(out)
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

        report = await moved(it.platform.data_dir, empty_postgres)
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


# Interrupted, and refused.


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of a platform that has received something, and was stopped."""
    folder = tmp_path_factory.mktemp("small") / "data"

    async def fill() -> None:
        async with platform_process(folder, connectors=ROOT / "tests/torture/connectors") as platform:
            async with platform.client() as client:
                made = await client.post("/api/v1/connections", json={"integration": "signed"})
                body = {"integration": "stalled", "settings": {"gate": str(folder / "none")}}
                url = (await client.post("/api/v1/connections", json=body)).json()["webhook_url"]
                assert made.status_code == 201
                for number in range(3):
                    await client.post(url, json={"id": f"n{number}"})

                async def events() -> int:
                    return len((await client.get("/api/v1/events")).json()["items"])

                await eventually(events, lambda count: count == 3)
            assert await platform.stop() == 0

    asyncio.run(fill())
    return folder


@pytest.fixture
def folder(small: Path, tmp_path: Path) -> Path:
    """A copy of it for this test."""
    import shutil

    return Path(shutil.copytree(small, tmp_path / "data"))


def serve(folder: Path, **settings: Any) -> PlatformProcess:
    return PlatformProcess(folder, connectors=ROOT / "tests/torture/connectors", **settings)


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


async def begun_and_held_up(folder: Path, url: str, link: Any) -> subprocess.Popen[str]:
    """A move that has copied some tables and waits at the events until `link` lets go."""
    await link.execute(HELD_UP)
    await link.execute("SELECT pg_advisory_lock(4242)")
    mover = begin(folder, url)

    async def waiting() -> int:
        return int(
            await link.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        )

    await eventually(waiting, lambda number: number == 1, PATIENCE)
    return mover


async def test_a_kill_in_the_middle_leaves_nothing_there_and_it_is_moved_again(
    folder: Path, postgres: PostgresServer
) -> None:
    url = postgres.create_database(template=postgres.migrated())
    link = await asyncpg.connect(url)
    mover = await begun_and_held_up(folder, url, link)
    mover.kill()
    mover.communicate()
    await refuses_to_start(serve(folder), "was begun at")
    await link.execute("SELECT pg_advisory_unlock(4242)")
    assert await eventually(lambda: count(url, "api_keys"), lambda number: number == 0) == 0
    await link.execute("DROP TRIGGER held_up ON events")
    report = await moved(folder, url)
    assert report["copied"]
    assert await count(url, "events") == 3
    await link.close()


async def test_a_kill_right_after_the_commit_is_found_out(folder: Path, postgres: PostgresServer) -> None:
    url = postgres.create_database(template=postgres.migrated())
    link = await asyncpg.connect(url)
    mover = await begun_and_held_up(folder, url, link)
    with closing(sqlite3.connect(folder / "trunkline.db", isolation_level=None)) as held:
        held.execute("BEGIN IMMEDIATE")  # so that it cannot note that it is done
        await link.execute("SELECT pg_advisory_unlock(4242)")
        await eventually(lambda: count(url, "events"), lambda number: number == 3)
        mover.kill()
        mover.communicate()
    await link.execute("DROP TRIGGER held_up ON events")
    await refuses_to_start(serve(folder), "was begun at")
    report = await moved(folder, url)
    assert (report["moved"], report["copied"]) == (True, False)
    await refuses_to_start(serve(folder), "was moved to")

    # Once a platform has been at work there, nothing is said to be the same any more.
    node = serve(folder, database_url=url, node_timeout=NODE_TIMEOUT)
    await node.start()
    assert await node.stop() == 0
    async with node_of(node) as client:
        assert client is not None
    await link.execute("DELETE FROM events WHERE seq = 2")
    code, _, errors = await move(folder, url)
    assert code == 1
    assert "have changed since" in errors
    await link.close()


def node_of(node: PlatformProcess) -> httpx2.AsyncClient:
    return node.client()


async def test_a_server_that_goes_away_leaves_the_file_as_it_was(folder: Path) -> None:
    server = PostgresServer()
    try:
        url = server.create_database(template=server.migrated())
        link = await asyncpg.connect(url)
        mover = await begun_and_held_up(folder, url, link)
        await asyncio.to_thread(server.stop)
        out, errors = await asyncio.to_thread(mover.communicate, timeout=60)
        assert mover.returncode == 1
        assert "Nothing was moved" in errors
        assert PASSWORD not in out + errors
        platform = serve(folder)
        await platform.start()
        assert await platform.stop() == 0
    finally:
        server.close()


async def test_a_platform_at_work_is_not_moved(folder: Path, empty_postgres: str) -> None:
    platform = serve(folder)
    await platform.start()
    code, _, errors = await move(folder, empty_postgres)
    assert await platform.stop() == 0
    assert code == 1
    assert f"Another process (pid {platform.pid}) already uses the data folder" in errors


async def test_a_file_that_was_moved_can_be_taken_up_again(folder: Path, empty_postgres: str) -> None:
    await moved(folder, empty_postgres)
    for command in (["migrate"], ["keys", "recover"]):
        done = subprocess.run(
            [sys.executable, "-m", "app", *command, "--data-dir", str(folder)],
            cwd=ROOT,
            env=environment(None),
            check=False,
            capture_output=True,
            text=True,
        )
        assert (done.returncode, "was moved to" in done.stderr) == (1, True), done.stderr
    code, out, _ = await move(folder, None, "--undo")
    assert code == 0
    assert "can be started again" in out
    assert "would be sent from both" in " ".join(out.split())
    code, out, _ = await move(folder, None, "--undo")
    assert "was not marked as moved" in out
    platform = serve(folder)
    await platform.start()
    async with platform.client() as client:
        assert len((await client.get("/api/v1/events")).json()["items"]) == 3
    assert await platform.stop() == 0


async def test_what_cannot_be_moved_to_is_said_and_nothing_changes(
    folder: Path, tmp_path: Path, postgres: PostgresServer, empty_postgres: str
) -> None:
    before = rows_of(folder / "trunkline.db")
    used = postgres.create_database(template=postgres.migrated())
    link = await asyncpg.connect(used)
    await link.execute("INSERT INTO tenants (name, created_at) VALUES ('somebody', 1)")
    await link.close()
    newer = postgres.create_database(template=postgres.migrated())
    link = await asyncpg.connect(newer)
    await link.execute("UPDATE alembic_version SET version_num = '9999'")
    await link.close()
    foreign = postgres.create_database()
    link = await asyncpg.connect(foreign)
    await link.execute("CREATE TABLE theirs (id integer)")
    await link.close()
    superuser = postgres.url(used.rpartition("/")[2].partition("?")[0], role="postgres")
    for url, words in (
        (None, "It is not said where to. Set TRUNKLINE_DATABASE_URL"),
        ("mysql://trunkline@127.0.0.1/x", "must name a PostgreSQL database"),
        (f"postgresql://trunkline:{PASSWORD}@127.0.0.1:1/x", "cannot be reached"),
        (postgres.url("absent"), "cannot be reached"),
        (used, "holds data already (in tenants). Name one that is empty"),
        (newer, "has schema 9999, which this version does not know: it is newer"),
        (foreign, "has tables, but none of Trunkline"),
        (superuser, "is a superuser"),
    ):
        code, _, errors = await move(folder, url)
        assert code == 1, url
        assert words in errors
        assert rows_of(folder / "trunkline.db") == before
    code, _, errors = await move(tmp_path / "nothing", empty_postgres)
    assert (code, "There is no database at" in errors) == (1, True)
    assert not (tmp_path / "nothing").exists()
    for url in (used, newer, foreign):
        postgres.drop_database(url)


async def test_a_file_of_another_version_or_without_its_key(folder: Path, empty_postgres: str) -> None:
    file = folder / "trunkline.db"
    (folder / "master.key").rename(folder / "elsewhere")
    code, _, errors = await move(folder, empty_postgres)
    assert (code, "its master key" in errors, "is gone" in errors) == (1, True, True)
    (folder / "master.key").write_text("A" * 43 + "=\n")
    code, _, errors = await move(folder, empty_postgres)
    assert (code, "not the one that this database was written with" in errors) == (1, True)
    (folder / "elsewhere").rename(folder / "master.key")
    with closing(sqlite3.connect(file)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    code, _, errors = await move(folder, empty_postgres)
    assert (code, "has schema 9999" in errors) == (1, True)
    link = await asyncpg.connect(empty_postgres)
    assert await link.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    await link.close()
    file.write_bytes(b"not a database, by far" * 100)
    code, _, errors = await move(folder, empty_postgres)
    assert (code, "cannot be opened" in errors) == (1, True)


async def test_an_older_file_and_an_older_database_are_brought_up_to_date(
    tmp_path: Path, empty_postgres: str
) -> None:
    """Each with the schema of a version before, in which nothing that is moved is lost."""
    folder = tmp_path / "data"
    folder.mkdir()
    older_file(folder / "trunkline.db", "0002")
    with closing(sqlite3.connect(folder / "trunkline.db")) as connection, connection:
        connection.execute("INSERT INTO tenants VALUES ('acme', 7)")
    report = await moved(folder, empty_postgres)
    assert {t["table"]: t["target_rows"] for t in report["tables"]}["tenants"] == 1


def older_file(path: Path, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    from app.infra.sqlite import writer_engine

    engine = writer_engine(path)
    with engine.connect() as connection:
        config = Config()
        config.set_main_option("script_location", str(ROOT / "app/infra/migrations"))
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        connection.commit()
    engine.dispose()
