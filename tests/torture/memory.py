"""A backlog that does not fit: the platform's memory stays bounded, whatever waits."""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from tests.support.platform import eventually
from tests.support.process import connect, each, peak_memory
from tests.support.senders import Wire

from .bench import Bench, Scale, Verdict
from .disk import MEGABYTE
from .provider import Provider, running

CONNECTIONS = 32
"""As many as are processed at the same time."""
BODY = 64 * 1024
WEBHOOK_BOUND = 160 * MEGABYTE
"""What the platform may need beyond a start without data: the page caches of the writer (32 MB) and of the
readers (8 MB); at most 8 MB of bodies, and beyond that one portion and a small one for each connection,
each of them held as bytes, as decoded JSON and as the event's text, and once more on its way into and out of
the database (5 x 16 MB here); what is being received. How much waits, and for how many, changes nothing."""

ACTION_BOUND = 80 * MEGABYTE
"""The same for actions: page caches, and what at most `action_concurrency` tasks hold."""

ACTION_CONCURRENCY = 32
CLIENTS = 4


@dataclass(frozen=True)
class Size:
    """How much waits: megabytes of webhooks, and actions."""

    megabytes: int
    actions: int


SIZES: dict[Scale, Size] = {"tiny": Size(120, 300), "short": Size(100, 10_000), "long": Size(1024, 100_000)}


async def pile_up_webhooks(bench: Bench) -> list[Verdict]:
    """Nothing gets on while webhooks come in; then kill -9, a start over the backlog, and it goes on."""
    size = bench.size(SIZES)
    gate = bench.folder / "gate"
    gate.touch()
    total = size.megabytes * MEGABYTE // BODY
    async with bench.platform(handler_timeout=3600) as platform, platform.client() as client:
        idle = peak_memory(platform.pid)
        settings = {"gate": str(gate)}
        urls = [
            (await connect(client, "stalled", settings=settings))["webhook_url"] for _ in range(CONNECTIONS)
        ]
        await asyncio.gather(*(_pile(url, total // CONNECTIONS) for url in urls))
        filling = peak_memory(platform.pid)
        platform.kill()
        await platform.start()
        await asyncio.sleep(1.0)
        gate.unlink()
        done = await _drained(bench, client, total)
        draining = peak_memory(platform.pid)
    return [
        Verdict(
            "Memory is bounded, whatever backlog of webhooks waits",
            f"{size.megabytes:,} MB of webhooks while nothing gets on, kill -9, all of it after the start",
            _beyond("receiving it", filling - idle, WEBHOOK_BOUND)
            + _beyond("processing it", draining - idle, WEBHOOK_BOUND)
            + [f"{total - done} webhooks became no event"] * (done != total),
            {
                "webhooks": total,
                "idle MB": idle // MEGABYTE,
                "receiving MB": filling // MEGABYTE,
                "processing MB": draining // MEGABYTE,
                "bound MB": (idle + WEBHOOK_BOUND) // MEGABYTE,
            },
        )
    ]


async def _pile(url: str, count: int) -> None:
    wire = Wire(url)
    padding = "x" * BODY
    for number in range(count):
        status, _ = await wire.post(json.dumps({"id": f"w{number}", "padding": padding}).encode())
        assert status == 200, status
    wire.close()


async def _drained(bench: Bench, client: Any, total: int) -> int:
    """How many webhooks were processed, once none waits."""

    async def waiting() -> int:
        answer = await client.get("/api/v1/webhooks", params={"state": "received", "limit": 1})
        return len(answer.json()["items"])

    await eventually(waiting, lambda n: n == 0, 60 + total / 20)
    done = 0
    # Pages of whole events would be what needs the memory.
    async for _ in each(client, "/api/v1/webhooks", state="processed", limit=500):
        done += 1
    return done


async def pile_up_actions(bench: Bench) -> list[Verdict]:
    """All but one wait for a slot; then kill -9, a start over the queue, and no limit but the platform's."""
    size = bench.size(SIZES)
    provider = Provider()
    async with (
        running(provider) as provider_url,
        bench.platform(action_concurrency=ACTION_CONCURRENCY, action_timeout=3600) as platform,
        platform.client() as client,
    ):
        idle = peak_memory(platform.pid)
        connection = (await connect(client, "courier", settings={"base_url": provider_url}))["id"]
        path = f"/api/v1/connections/{connection}"
        await client.put(f"{path}/limits", json={"concurrency": 1})
        first = {"type": "deliver", "payload": {"ref": "first", "before": 3600.0}}
        assert (await client.post(f"{path}/actions", json=first)).status_code == 202
        share = size.actions // CLIENTS
        headers = {"authorization": f"Bearer {platform.admin_key}", "content-type": "application/json"}
        await asyncio.gather(
            *(_request(f"{platform.url}{path}/actions", f"r{n}", share, headers) for n in range(CLIENTS))
        )
        waiting = (await client.get(f"{path}/limits")).json()["queued"]
        filling = peak_memory(platform.pid)
        platform.kill()
        await platform.start()
        stuck = provider.open
        provider.most_open = 0
        await client.put(f"{path}/limits", json={"concurrency": 10_000})
        ended = await _ended(client, path, size.actions)
        draining = peak_memory(platform.pid)
    at_most = provider.most_open - stuck
    twice = [ref for ref, times in provider.effects.items() if times > 1]
    return [
        Verdict(
            "Memory is bounded, however many actions are queued",
            f"{waiting:,} actions queued, kill -9, and all of them after the start",
            _beyond("queueing them", filling - idle, ACTION_BOUND)
            + _beyond("carrying them out", draining - idle, ACTION_BOUND)
            + [f"{len(twice)} effects happened twice"] * bool(twice)
            + [f"{size.actions - ended} did not end"] * (ended != size.actions)
            + [f"{size.actions - waiting} were not queued"] * (waiting != size.actions),
            {
                "idle MB": idle // MEGABYTE,
                "queueing MB": filling // MEGABYTE,
                "carrying out MB": draining // MEGABYTE,
                "bound MB": (idle + ACTION_BOUND) // MEGABYTE,
            },
        ),
        Verdict(
            "No more actions run at the same time than may",
            f"{waiting:,} actions, all due",
            [f"{at_most} at the same time"] * (at_most > ACTION_CONCURRENCY),
            {"at most": at_most, "allowed": ACTION_CONCURRENCY},
        ),
    ]


async def _request(url: str, name: str, count: int, headers: dict[str, str]) -> None:
    wire = Wire(url)
    for number in range(count):
        parcel = {"ref": f"{name}-{number}", "before": 0.02}
        body = json.dumps({"type": "deliver", "payload": parcel}).encode()
        status, _ = await wire.post(body, headers)
        assert status == 202, status
    wire.close()


async def _ended(client: Any, path: str, total: int) -> int:
    """How many actions have ended well, once none is left."""

    async def left() -> int:
        await asyncio.sleep(0.2)
        gate = (await client.get(f"{path}/limits")).json()
        return int(gate["queued"] + gate["running"])

    await eventually(left, lambda n: n == 0, 60 + total / 20)
    return len([a async for a in each(client, "/api/v1/actions", state="succeeded")])


def _beyond(doing: str, needed: int, bound: int) -> list[str]:
    if needed <= bound:
        return []
    return [
        f"{doing} took {needed // MEGABYTE} MB beyond the idle platform, {bound // MEGABYTE} MB are allowed"
    ]
