"""The feed and the stream."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.connectors import OpenConnector
from tests.support.platform import Running, running_platform


async def send(running: Running, url: str, *contents: dict[str, Any]) -> None:
    for content in contents:
        answer = await running.client.post(url, content=json.dumps(content).encode())
        assert answer.status_code == 200


async def test_the_feed_goes_on_from_its_cursor(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        url = (await running.connect("open"))["webhook_url"]
        await send(running, url, *({"n": n} for n in range(5)))
        await running.feed_of(5)
        first = await running.get("/api/v1/events", params={"limit": 2})
        assert [e["payload"]["n"] for e in first["items"]] == [0, 1]
        assert first["next"] == first["items"][-1]["cursor"]
        rest = await running.get("/api/v1/events", params={"after": first["next"]})
        assert [e["payload"]["n"] for e in rest["items"]] == [2, 3, 4]
        nothing = await running.get("/api/v1/events", params={"after": rest["next"]})
        assert nothing == {"items": [], "next": None}
        await send(running, url, {"n": 5})
        await running.feed_of(6)
        more = await running.get("/api/v1/events", params={"after": rest["next"]})
        assert [e["payload"]["n"] for e in more["items"]] == [5]


async def test_the_feed_is_filtered_by_type_and_connection(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        connections = [await running.connect("open") for _ in range(2)]
        for n, connection in enumerate(connections):
            await send(running, connection["webhook_url"], {"n": n})
        await running.feed_of(2)
        [event] = await running.feed(connection=connections[1]["id"])
        assert event["payload"] == {"n": 1}
        assert len(await running.feed(type="open.thing.happened")) == 2
        assert await running.feed(type="another.type") == []
        assert await running.get(f"/api/v1/events/{event['id']}") == event


async def test_another_tenant_sees_nothing_of_it(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        connection = await running.connect("open", tenant="acme")
        await send(running, connection["webhook_url"], {"n": 1})
        headers = {"Trunkline-Tenant": "acme"}
        while not (page := await running.get("/api/v1/events", headers=headers))["items"]:
            await asyncio.sleep(0.01)
        assert await running.feed() == []
        answer = await running.client.get(f"/api/v1/events/{page['items'][0]['id']}")
        unknown = await running.client.get("/api/v1/events/evt_unknown")
        assert answer.status_code == unknown.status_code == 404
        assert answer.json()["code"] == unknown.json()["code"]


@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "9" * 30, "١"])
async def test_a_cursor_that_is_none_is_422(tmp_path: Path, cursor: str) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        for path in ("/api/v1/events", "/api/v1/webhooks", "/api/v1/events/stream"):
            answer = await running.client.get(path, params={"after": cursor})
            assert answer.status_code == 422
            assert answer.json()["problems"][0]["path"] == "after"


async def test_payloads_come_out_as_they_went_in(tmp_path: Path) -> None:
    content = {
        "text": 'žluťoučký 🐎 \u0000 \u2028 "quoted" \\ /',
        "big": 2**64 - 1,
        "negative": -(2**63),
        "float": 1.5e-7,
        "nested": {"list": [1, [2, {"three": None}], True, ""]},
        "": "an empty key",
    }
    async with running_platform(tmp_path, OpenConnector) as running:
        url = (await running.connect("open"))["webhook_url"]
        await send(running, url, content)
        [event] = await running.feed_of(1)
        assert event["payload"] == content


async def stream(running: Running, **options: Any) -> AsyncIterator[tuple[str, str, dict[str, Any]]]:
    """(id, event, data) of each server-sent event, as the standard has it."""
    async with running.client.stream("GET", "/api/v1/events/stream", **options) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        async for line in answer.aiter_lines():
            if line.startswith(":"):
                continue
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            elif "data" in fields:
                yield fields["id"], fields["event"], json.loads(fields["data"])
                fields = {}


async def test_the_stream_goes_on_from_the_last_event_id(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        url = (await running.connect("open"))["webhook_url"]
        await send(running, url, {"n": 0})
        [first] = await running.feed_of(1)

        async def follow(count: int, last: str) -> list[tuple[str, str, dict[str, Any]]]:
            seen = []
            async for item in stream(running, headers={"Last-Event-ID": last}):
                seen.append(item)
                if len(seen) == count:
                    break
            return seen

        following = asyncio.create_task(follow(3, first["cursor"]))
        await send(running, url, {"n": 1}, {"n": 2}, {"n": 3})
        seen = await asyncio.wait_for(following, 10)
        assert [data["payload"]["n"] for _, _, data in seen] == [1, 2, 3]
        assert {kind for _, kind, _ in seen} == {"open.thing.happened"}
        again = await asyncio.wait_for(follow(2, seen[0][0]), 10)
        assert [data["payload"]["n"] for _, _, data in again] == [2, 3]


async def test_a_stream_without_a_cursor_begins_now(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        url = (await running.connect("open"))["webhook_url"]
        await send(running, url, {"n": 0})
        await running.feed_of(1)
        opened = asyncio.Event()

        async def first() -> dict[str, Any]:
            async with running.client.stream("GET", "/api/v1/events/stream") as answer:
                opened.set()
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        return json.loads(line.removeprefix("data: "))
            raise AssertionError("the stream ended")

        following = asyncio.create_task(first())
        await opened.wait()
        await send(running, url, {"n": 1})
        assert (await asyncio.wait_for(following, 10))["payload"] == {"n": 1}


async def test_a_stream_ends_when_its_key_is_revoked(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        url = (await running.connect("open"))["webhook_url"]
        key = (await running.client.post("/api/v1/keys", json={"name": "reader"})).json()
        headers = {"Authorization": f"Bearer {key['key']}"}
        opened = asyncio.Event()

        async def follow() -> list[str]:
            async with running.client.stream("GET", "/api/v1/events/stream", headers=headers) as answer:
                opened.set()
                return [line async for line in answer.aiter_lines()]

        following = asyncio.create_task(follow())
        await opened.wait()
        assert (await running.client.delete(f"/api/v1/keys/{key['id']}")).status_code == 204
        await send(running, url, {"n": 1})
        told = await asyncio.wait_for(following, 10)
        assert told
        assert not any(line.startswith("data: ") for line in told)
