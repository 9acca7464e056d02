"""Everybody writes at once: nobody is told that the database is locked, and the feed is complete."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.connectors import OpenConnector
from tests.support.faults import feed_faults, order_faults, walk_faults
from tests.support.feed import FeedReader
from tests.support.platform import eventually, running_platform
from tests.support.process import connect, platform_process, walk
from tests.support.senders import SECRET, Ledger, Sender
from tests.torture.provider import Provider, running

SECONDS = 4.0
SENDERS = 64
WRITERS = 8
READERS = 3


class Until:
    """The end of the load, known to all who make it: after these seconds, and, on a busy machine, once there
    has been `enough` of it."""

    def __init__(self, seconds: float, enough: Callable[[], bool]) -> None:
        self._end = asyncio.get_running_loop().time() + seconds
        self._enough = enough

    def __bool__(self) -> bool:
        return asyncio.get_running_loop().time() < self._end or not self._enough()


async def send_all_the_time(sender: Sender, load: Until) -> None:
    while load:
        await sender.send_next()
    sender.close()


async def write_all_the_time(
    client: httpx2.AsyncClient, provider_url: str, load: Until, statuses: Counter[tuple[str, int]]
) -> None:
    """All kinds of ORM writes, one after the other."""

    async def call(what: str, method: str, path: str, **options: Any) -> Any:
        answer = await client.request(method, f"/api/v1{path}", **options)
        statuses[what, answer.status_code] += 1
        return answer.json()

    while load:
        body = {"integration": "courier", "settings": {"base_url": provider_url}}
        made = await call("create", "POST", "/connections", json=body)
        path = f"/connections/{made['id']}"
        await call("patch", "PATCH", path, json={"name": "another name"})
        await call("set secrets", "PUT", f"{path}/secrets", json={"secrets": {"token": "t" * 20}})
        action = {"type": "deliver", "payload": {"ref": made["id"]}}
        await call("act", "POST", f"{path}/actions", json=action)
        await call("rotate", "POST", f"{path}/rotate-url")
        webhooks = await call("list", "GET", "/webhooks", params={"state": "processed", "limit": 2})
        for webhook in webhooks["items"]:
            await call("replay", "POST", f"/webhooks/{webhook['id']}/replay")


async def follow(client: httpx2.AsyncClient, seen: list[int]) -> None:
    """The feed as a stream, into `seen`, until cancelled."""
    headers = {"Last-Event-ID": "0"}
    async with client.stream("GET", "/api/v1/events/stream", headers=headers, timeout=None) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data:"):
                event = json.loads(line.removeprefix("data:"))
                seen.append(int(event["cursor"]))


@pytest.mark.timeout(120)
@pytest.mark.usefixtures("every_storage")
async def test_sixty_four_senders_and_eight_writers_at_once(
    tmp_path: Path, connectors: Path, record_property: Callable[[str, object], None]
) -> None:
    ledger, statuses = Ledger(), Counter[tuple[str, int]]()
    async with (
        running(Provider()) as provider_url,
        platform_process(tmp_path / "data", connectors=connectors) as platform,
        platform.client(limits=httpx2.Limits(max_connections=50)) as client,
    ):
        urls = [
            (await connect(client, "signed", secrets={"signing_secret": SECRET}))["webhook_url"]
            for _ in range(4)
        ]
        senders = [Sender(urls[n % len(urls)], f"s{n}", ledger) for n in range(SENDERS)]
        readers = [FeedReader(client, limit) for limit in (7, 100, 1000)[:READERS]]
        streamed: list[int] = []
        settled = asyncio.Event()
        reading = [asyncio.create_task(reader.read_until(settled)) for reader in readers]
        following = asyncio.create_task(follow(client, streamed))
        load = Until(
            SECONDS,
            lambda: len(ledger.sent) > 10 * SENDERS and sum(statuses.values()) > 5 * WRITERS,
        )
        async with asyncio.TaskGroup() as group:
            for sender in senders:
                group.create_task(send_all_the_time(sender, load))
            for _ in range(WRITERS):
                group.create_task(write_all_the_time(client, provider_url, load, statuses))

        async def waiting() -> int:
            answer = await client.get("/api/v1/webhooks", params={"state": "received", "limit": 1})
            return len(answer.json()["items"])

        await eventually(waiting, lambda count: count == 0, 40)
        read_meanwhile = [len(reader.seen) for reader in readers]
        settled.set()
        feed = await walk(client, "/api/v1/events")
        cursors = [int(event["cursor"]) for event in feed]
        await asyncio.gather(*reading)
        await eventually(lambda: asyncio.sleep(0, len(streamed)), lambda count: count >= len(cursors))
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

        record_property("acknowledged", len(ledger.acknowledged))
        record_property("writes", {what: count for (what, _), count in sorted(statuses.items())})
        record_property("read_meanwhile", read_meanwhile)
        payloads = [event["payload"] for event in feed]
        assert feed_faults(ledger.sent, ledger.acknowledged, [(p["id"], p) for p in payloads]) == []
        assert len(ledger.acknowledged) == len(ledger.sent), ledger.other[:3]
        for number in range(SENDERS):
            assert order_faults([p["n"] for p in payloads if p["sender"] == f"s{number}"]) == []
        for seen in (*(reader.seen for reader in readers), streamed):
            assert walk_faults(seen, cursors) == []

        # A replay may meet a webhook that another writer has just sent on its way: 409.
        expected = {"create": {201}, "act": {202, 200}, "replay": {202, 409}}
        assert {s for s in statuses if s[1] not in expected.get(s[0], {200, 202})} == set()
        assert "locked" not in platform.log_text()
        assert '"level": "error"' not in platform.log_text(), platform.tail()
        assert sum(statuses.values()) > 5 * WRITERS, statuses
        assert len(ledger.sent) > 10 * SENDERS
        assert min(read_meanwhile) > 0


async def test_what_is_enabled_while_it_is_looked_up_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_platform(tmp_path, OpenConnector) as it:
        made = await it.connect("open", enabled=False)
        database = it.platform.database
        read = database.read

        async def overtaken(unit: Any) -> Any:
            monkeypatch.setattr(database, "read", read)
            found = await read(unit)
            await it.client.patch(f"/api/v1/connections/{made['id']}", json={"enabled": True})
            return found

        monkeypatch.setattr(database, "read", overtaken)
        assert (await it.client.post(made["webhook_url"], json={})).status_code == 404
        assert (await it.client.post(made["webhook_url"], json={})).status_code == 200
