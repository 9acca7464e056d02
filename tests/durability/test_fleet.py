"""Several nodes over one PostgreSQL: what they have to share, and what each knows of the others. What becomes
of the work when they fail is in tests/torture/cluster.py."""

from pathlib import Path

import httpx2
import pytest

from tests.support.platform import eventually
from tests.support.process import PlatformProcess, connect
from tests.support.senders import SECRET
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
async def test_a_node_that_was_taken_for_dead_sends_nothing_any_more(
    empty_postgres: str, tmp_path: Path, connectors: Path
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
        asked = {"type": "lodge", "payload": {"ref": "it", "hold": str(hold)}}
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
        await eventually(who_waits, lambda seen: seen not in ("", frozen))
        hold.unlink()
        await eventually(state, lambda seen: seen == "succeeded")
        node.thaw()
        await eventually(first_try, lambda seen: seen == "not_sent")
    assert provider.effects == {"it": 1}


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
