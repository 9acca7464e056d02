"""No room left: nothing is acknowledged that is not stored, and when there is room again all goes on."""

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import text

from app.infra import sqlite
from tests.support.connectors import OpenConnector
from tests.support.faults import feed_faults
from tests.support.platform import eventually, running_platform
from tests.support.process import PlatformProcess, connect, platform_process, walk
from tests.support.senders import SECRET, Ledger, Sender
from tests.torture.provider import Provider, running

MEGABYTE = 1 << 20
SENDERS = 8


def limit_files(platform: PlatformProcess, size: int) -> None:
    """Lets no file of the running process grow beyond `size` bytes: as on a full disk, its writes fail."""
    resource.prlimit(platform.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def unlimit_files(platform: PlatformProcess) -> None:
    limit_files(platform, resource.RLIM_INFINITY)


@contextlib.asynccontextmanager
async def platform_and_client(
    tmp_path: Path, connectors: Path
) -> AsyncIterator[tuple[PlatformProcess, httpx2.AsyncClient]]:
    async with (
        platform_process(tmp_path / "data", connectors=connectors) as platform,
        platform.client() as client,
    ):
        yield platform, client


async def feed_keys(client: httpx2.AsyncClient) -> list[tuple[str, Any]]:
    """The feed, once nothing waits to become part of it."""

    async def waiting() -> int:
        answer = await client.get("/api/v1/webhooks", params={"state": "received", "limit": 1})
        return len(answer.json()["items"])

    await eventually(waiting, lambda count: count == 0, 30)
    return [(e["payload"]["id"], e["payload"]) for e in await walk(client, "/api/v1/events")]


def stored(ledger: Ledger) -> dict[str, Any]:
    """All that may be in the feed: what was acknowledged, and nothing that was turned away."""
    return {key: content for key, content in ledger.sent.items() if key in ledger.acknowledged}


async def test_with_no_room_at_all_it_reads_and_waits(tmp_path: Path, connectors: Path) -> None:
    ledger, provider = Ledger(), Provider()
    async with (
        platform_and_client(tmp_path, connectors) as (platform, client),
        running(provider) as provider_url,
    ):
        made = await connect(client, "signed", secrets={"signing_secret": SECRET})
        courier = await connect(client, "courier", settings={"base_url": provider_url})
        sender = Sender(made["webhook_url"], "s", ledger)
        assert await sender.send_next()
        assert len(await feed_keys(client)) == 1
        action = {"type": "deliver", "payload": {"ref": "a", "after": 0.5}}
        path = f"/api/v1/connections/{courier['id']}/actions"
        action_id = (await client.post(path, json=action)).json()["id"]
        await eventually(lambda: asyncio.sleep(0, provider.effects["a"]), lambda count: count == 1)

        limit_files(platform, 1)  # not even a log line fits
        await asyncio.sleep(1.0)  # the answer comes, and what it says cannot be stored
        assert not await sender.send_next()
        turned_away = await client.post("/api/v1/connections", json={"integration": "signed"})
        assert (turned_away.status_code, turned_away.json()["code"]) == (503, "storage_unavailable")
        assert int(turned_away.headers["retry-after"]) > 0
        assert (await client.post(path, json=action)).status_code == 503
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/healthz")).status_code == 200
        assert len(await walk(client, "/api/v1/events")) == 1
        assert (await client.get(f"/api/v1/actions/{action_id}")).json()["state"] == "running"

        unlimit_files(platform)
        assert (await client.get("/readyz")).status_code == 200
        assert await sender.send_next()
        assert feed_faults(stored(ledger), ledger.acknowledged, await feed_keys(client)) == []

        async def state() -> str:
            return (await client.get(f"/api/v1/actions/{action_id}")).json()["state"]

        assert await eventually(state, lambda s: s != "running") == "succeeded"
        assert provider.effects == {"a": 1}
        assert len(await walk(client, "/api/v1/connections")) == 2
        assert len(await walk(client, "/api/v1/actions")) == 1
        assert platform.starts == 1
        assert platform.running
        sender.close()


async def test_with_no_room_it_stops_all_the_same(tmp_path: Path, connectors: Path) -> None:
    provider = Provider()
    async with (
        running(provider) as provider_url,
        platform_process(tmp_path / "data", connectors=connectors, stop_timeout=1) as platform,
        platform.client() as client,
    ):
        courier = await connect(client, "courier", settings={"base_url": provider_url})
        path = f"/api/v1/connections/{courier['id']}/actions"
        for ref, after in (("short", 0.3), ("long", 5.0)):
            await client.post(path, json={"type": "deliver", "payload": {"ref": ref, "after": after}})
        await eventually(lambda: asyncio.sleep(0, provider.effects.total()), lambda count: count == 2)
        limit_files(platform, 1)
        await asyncio.sleep(0.6)  # the short one's outcome waits for storage, the long one runs
        platform.terminate()
        assert await platform.ended(5) == 0
        await platform.start()
        actions = await walk(client, "/api/v1/actions")
        assert {(a["state"], a["error"]["code"]) for a in actions} == {("unknown", "interrupted")}
        assert provider.effects == {"short": 1, "long": 1}


async def test_a_full_database_is_503_until_it_may_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own "full", at which it gives the whole transaction up by itself."""
    monkeypatch.setattr(sqlite, "_WRITER_PRAGMAS", (*sqlite._WRITER_PRAGMAS, "PRAGMA max_page_count=150"))
    async with running_platform(tmp_path, OpenConnector) as it:
        url = (await it.connect("open"))["webhook_url"]
        answers: list[tuple[str, httpx2.Response]] = []

        async def fill(name: str) -> None:
            for number in range(50):
                key = f"{name}-{number}"
                answer = await it.client.post(url, json={"id": key, "padding": "x" * 3000})
                answers.append((key, answer))
                if answer.status_code != 200:
                    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
                    return

        await asyncio.gather(*(fill(f"s{n}") for n in range(SENDERS)))
        good = {key for key, answer in answers if answer.status_code == 200}
        assert 0 < len(good) < len(answers)
        await it.platform.database.write(
            lambda session: session.execute(text("PRAGMA max_page_count=100000"))
        )
        answer = await it.client.post(url, json={"id": "after", "padding": ""})
        assert answer.status_code == 200
        await it.settled(timeout=30)
        assert {event["external_id"] for event in await it.feed()} == good | {"after"}
        assert len(await it.webhooks()) == len(good) + 1
