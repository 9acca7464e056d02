"""Several nodes over one PostgreSQL: what they have to share, and what each knows of the others. What becomes
of the work when they fail is in tests/torture/cluster.py."""

import asyncio
import hmac
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.platform import eventually
from tests.support.postgres import PostgresServer, database_of
from tests.support.process import PlatformProcess, connect, platform_process
from tests.support.senders import SECRET, signed
from tests.support.storage import MASTER_KEY
from tests.torture.altered import CLOCK_VARIABLE, PROGRAM, VARIABLE
from tests.torture.fleet import running_fleet
from tests.torture.provider import Provider, running

NODE_TIMEOUT = 2.0


@pytest.mark.timeout(120)
async def test_a_change_on_one_node_is_known_on_the_others_at_once(
    empty_postgres: str, tmp_path: Path, connectors: Path
) -> None:
    async with (
        running_fleet(tmp_path, empty_postgres, connectors, node_timeout=NODE_TIMEOUT, workers=0) as nodes,
        nodes.client_of(nodes.doors[0]) as client,
        httpx2.AsyncClient(trust_env=False) as plain,
    ):
        made = await connect(client, "signed", secrets={"signing_secret": SECRET})
        there = made["webhook_url"].replace(*nodes.urls)
        assert (await plain.post(there, content=b"{}")).status_code == 401

        async def answered() -> int:
            return (await plain.post(there, content=b"{}")).status_code

        for enabled, status in ((False, 404), (True, 401), (False, 404)):
            path = f"/api/v1/connections/{made['id']}"
            assert (await client.patch(path, json={"enabled": enabled})).status_code == 200
            await eventually(answered, lambda seen, status=status: seen == status, 2)

        key = (await client.post("/api/v1/keys", json={"name": "of a guest"})).json()
        mine = {"Authorization": f"Bearer {key['key']}"}

        async def welcome() -> int:
            return (await plain.get(f"{nodes.urls[1]}/api/v1/connections", headers=mine)).status_code

        assert await welcome() == 200
        assert (await client.delete(f"/api/v1/keys/{key['id']}")).status_code == 204
        await eventually(welcome, lambda seen: seen == 401, 2)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("type", ["deliver", "lodge"])
async def test_a_node_that_was_taken_for_dead_sends_nothing_any_more(
    empty_postgres: str, tmp_path: Path, connectors: Path, type: str
) -> None:
    """It stands still between the record of its attempt and the first byte, and then goes on."""
    hold, provider = tmp_path / "hold", Provider()
    async with (
        running(provider) as provider_url,
        running_fleet(
            tmp_path, empty_postgres, connectors, node_timeout=NODE_TIMEOUT, doors=["api"], workers=2
        ) as nodes,
        nodes.client() as client,
    ):
        made = await connect(client, "courier", settings={"base_url": provider_url})
        asked = {"type": type, "payload": {"ref": "it", "hold": str(hold)}}
        answer = await client.post(f"/api/v1/connections/{made['id']}/actions", json=asked)
        path = f"/api/v1/actions/{answer.json()['id']}"

        async def who_waits() -> str:
            return hold.read_text() if hold.exists() else ""

        async def state() -> str:
            return str((await client.get(path)).json()["state"])

        async def first_try() -> str:
            error = (await client.get(path)).json()["attempts"][0]["error"]
            return str(error and error["code"])

        frozen = await eventually(who_waits, bool)
        node = next(node for node in nodes.workers if str(node.pid) == frozen)
        node.freeze()
        if type == "deliver":  # nobody repeats it unasked
            await eventually(state, lambda seen: seen == "unknown")
            assert (await client.post(f"{path}/retry")).is_success
        await eventually(who_waits, lambda seen: seen not in ("", frozen))
        hold.unlink()
        await eventually(state, lambda seen: seen == "succeeded")
        node.thaw()
        await eventually(first_try, lambda seen: seen == "not_sent")
    assert provider.effects == {"it": 1}


@pytest.mark.timeout(120)
async def test_a_node_whose_clock_is_wrong_goes_by_the_databases(
    empty_postgres: str, tmp_path: Path, connectors: Path
) -> None:
    """By its own clock everything that there is would be older than the retention, and past its deadline."""
    clock, provider, day = tmp_path / "clock", Provider(), timedelta(days=1)
    clock.write_text(str(100 * day.total_seconds()))
    shared = {"connectors": connectors, "database_url": empty_postgres, "master_key": MASTER_KEY}
    shared |= {"node_timeout": NODE_TIMEOUT}
    right, wrong = (
        PlatformProcess(tmp_path / "right", **shared),
        PlatformProcess(
            tmp_path / "wrong",
            **shared,
            program=PROGRAM,
            variables={VARIABLE: "clock", CLOCK_VARIABLE: str(clock)},
        ),
    )

    async def ask(client: httpx2.AsyncClient, ref: str, **more: Any) -> dict[str, Any]:
        asked = {"type": "deliver", "payload": {"ref": ref}, **more}
        path = f"/api/v1/connections/{made['id']}/actions"
        answer = await client.post(path, json=asked, headers={"Prefer": "wait=0" if more else "wait=20"})
        return dict(answer.json())

    try:
        async with running(provider) as provider_url:
            await right.start()
            async with right.client() as client:
                made = await connect(client, "courier", settings={"base_url": provider_url})
                tomorrow = (datetime.now(UTC) + day).isoformat()
                before, later = await ask(client, "before"), await ask(client, "later", run_at=tomorrow)
            await right.stop()
            (tmp_path / "wrong").mkdir()
            (tmp_path / "wrong" / "admin.key").write_text(right.admin_key)
            await wrong.start()
            async with wrong.client() as client:
                after = await ask(client, "after")
                assert after["state"] == "succeeded"
                made_at = datetime.fromisoformat(after["created_at"])
                assert abs(datetime.now(UTC) - made_at) < day / 24
                states = [
                    (await client.get(f"/api/v1/actions/{action['id']}")).json().get("state")
                    for action in (before, later)
                ]
                assert states == ["succeeded", "queued"]
            assert "clock_differs" in wrong.log_text()
            clock.write_text("0")

            async def said() -> bool:
                return "clock_agrees" in wrong.log_text()

            await eventually(said, bool)
    finally:
        for node in (right, wrong):
            if node.running:
                node.kill()
    assert provider.effects == {"before": 1, "after": 1}


@pytest.mark.timeout(120)
async def test_a_node_that_only_answers_says_when_nobody_works(
    migrated_postgres: str, tmp_path: Path, connectors: Path
) -> None:
    async with running_fleet(
        tmp_path, migrated_postgres, connectors, node_timeout=NODE_TIMEOUT, doors=["api"], workers=1
    ) as nodes:
        [door], [worker] = nodes.doors, nodes.workers

        async def said() -> str:
            return door.log_text()

        await worker.stop()
        await eventually(said, lambda log: "no_worker" in log)
        await worker.start()
        await eventually(said, lambda log: "workers_found" in log)


@pytest.mark.timeout(120)
async def test_webhooks_wait_for_a_worker_that_has_their_connector(
    migrated_postgres: str, tmp_path: Path, connectors: Path
) -> None:
    """As while a new version is being rolled out: an old worker fails nothing, and goes on with the rest."""
    (tmp_path / "none").mkdir()
    async with (
        running_fleet(
            tmp_path, migrated_postgres, connectors, node_timeout=NODE_TIMEOUT, doors=["api"], workers=1
        ) as nodes,
        nodes.client() as client,
        httpx2.AsyncClient(trust_env=False) as plain,
    ):
        [worker] = nodes.workers
        await worker.stop()
        old = PlatformProcess(
            tmp_path / "old",
            command="worker",
            connectors=tmp_path / "none",
            database_url=migrated_postgres,
            master_key=MASTER_KEY,
            node_timeout=NODE_TIMEOUT,
        )
        try:
            await old.start()
            made = await connect(client, "signed", secrets={"signing_secret": SECRET})
            body = b'{"id": "m1"}'
            for _ in range(2):
                sent = await plain.post(made["webhook_url"], content=body, headers=signed(body))
                assert sent.status_code == 200

            async def left() -> str:
                return old.log_text()

            async def states() -> set[str]:
                found = (await client.get("/api/v1/webhooks")).json()["items"]
                return {webhook["state"] for webhook in found}

            await eventually(left, lambda log: "webhooks_left" in log)
            assert await states() == {"received"}
            await worker.start()
            await eventually(states, lambda seen: seen == {"processed"}, 20)
        finally:
            if old.running:
                old.kill()


async def test_several_processes_need_a_database_that_they_can_share(tmp_path: Path) -> None:
    for options in ({"role": "api"}, {"command": "worker"}):
        process = PlatformProcess(tmp_path / "data", **options)
        process.spawn()
        assert await process.ended() == 1
        assert "TRUNKLINE_DATABASE_URL" in process.log_text()


async def test_nodes_need_a_master_key_in_common(empty_postgres: str, tmp_path: Path) -> None:
    process = PlatformProcess(tmp_path / "data", database_url=empty_postgres)
    process.spawn()
    assert await process.ended() == 1
    assert "openssl rand -base64 32" in process.log_text()


async def test_a_start_without_enough_connections_says_what_to_raise(
    postgres: PostgresServer, migrated_postgres: str, tmp_path: Path
) -> None:
    name = database_of(migrated_postgres)
    for limit in (1, 2):
        postgres.psql(f"ALTER DATABASE {name} CONNECTION LIMIT {limit}")
        process = PlatformProcess(
            tmp_path / f"data-{limit}", database_url=migrated_postgres, master_key=MASTER_KEY
        )
        process.spawn()
        assert await process.ended() == 1
        said = process.log_text()
        assert "too many connections" in said
        assert ("CONNECTION LIMIT" if limit == 1 else "gets all of its connections") in said
        assert "Retry-After" not in said
        assert "Traceback" not in said


async def test_webhooks_are_stored_although_there_are_not_connections_for_everything(
    postgres: PostgresServer, migrated_postgres: str, tmp_path: Path, connectors: Path
) -> None:
    name = database_of(migrated_postgres)
    postgres.psql(f"ALTER DATABASE {name} CONNECTION LIMIT 8")
    settings = {"connectors": connectors, "database_url": migrated_postgres, "master_key": MASTER_KEY}
    async with (
        platform_process(tmp_path / "data", **settings) as node,
        node.client() as client,
    ):
        assert "connections_limited" in node.log_text()
        made = await connect(client, "signed", secrets={"signing_secret": SECRET})
        paths = ["/readyz", "/api/v1/connections"] * 20
        taken = await asyncio.gather(*(client.get(path) for path in paths))
        assert 503 in {answer.status_code for answer in taken}
        body = b'{"id": "1"}'
        signature = hmac.new(SECRET.encode(), body, "sha256").hexdigest()
        headers = {"X-Signature": f"sha256={signature}"}
        answer = await client.post(made["webhook_url"], content=body, headers=headers)
        assert answer.status_code == 200
