"""A full disk: 503 and nothing else, until there is room; then all goes on, without repair."""

import asyncio
from collections import Counter
from dataclasses import dataclass

import httpx2

from tests.support.faults import feed_faults
from tests.support.platform import eventually
from tests.support.process import PlatformProcess, connect, each
from tests.support.senders import BROKEN, SECRET, Ledger, Sender

from .bench import Bench, Scale, Verdict
from .disk import MEGABYTE, integrity_faults, small_disk


@dataclass(frozen=True)
class Size:
    """How often the disk is full, and how often it is killed at that."""

    rounds: int


SIZES: dict[Scale, Size] = {"tiny": Size(2), "short": Size(6), "long": Size(30)}
SENDERS = 8
TURNED_AWAY = 3
"""Answers of 503 that each sender wants to see before there is room again."""

PADDING = "x" * 30_000
MEGABYTES = 256
PATIENCE = 10.0
"""Seconds until every sender has to be acknowledged again."""


async def fill_the_disk(bench: Bench) -> list[Verdict]:
    """Senders until the disk is full and beyond; every other time it is killed while it is full."""
    size = bench.size(SIZES)
    ledger, others = Ledger(), Counter[str]()
    restarts = 0
    with small_disk(bench.folder / "disk", MEGABYTES) as disk:
        async with bench.platform(data_dir=disk.folder / "data") as platform, platform.client() as client:
            made = await connect(client, "signed", secrets={"signing_secret": SECRET})
            senders = [Sender(made["webhook_url"], f"s{n}", ledger) for n in range(SENDERS)]
            for number in range(size.rounds):
                disk.fill(platform, MEGABYTE)
                wanted = len(ledger.other) + SENDERS * TURNED_AWAY
                await asyncio.gather(*(_send_until(ledger, wanted, sender) for sender in senders))
                for path, good in (("/readyz", 503), ("/healthz", 200)):
                    status = (await client.get(path)).status_code
                    # A small write may still find room.
                    if status not in (good, 200):
                        others[f"{path} {status}"] += 1
                if number % 2:
                    platform.kill()
                    disk.free(platform)
                    await platform.start()
                    restarts += 1
                else:
                    disk.free(platform)
                await _all_acknowledged(platform, ledger, senders)
            await _settled(client)
            told = [
                (key, ledger.sent[key] if ledger.sent.get(key) == e["payload"] else e["payload"])
                async for e in each(client, "/api/v1/events")
                if (key := e["payload"]["id"])
            ]
            repaired = [] if platform.starts == 1 + restarts else ["it did not stay up by itself"]
            for sender in senders:
                sender.close()
        broken = integrity_faults(disk.folder / "data" / "trunkline.db")
    statuses = Counter(status for status, _ in ledger.other)
    unretried = sum(1 for _, headers in ledger.other if int(headers.get("retry-after", "0")) < 1)
    tried = f"the disk full {size.rounds} times ({disk.kind}), {restarts} kill -9 while it was"
    return [
        Verdict(
            "A full disk is 503 with Retry-After, and nothing else",
            tried,
            [f"answered {status}: {n} times" for status, n in statuses.items() if status != 503]
            + [f"answered {what}: {n} times" for what, n in others.items()]
            + [f"{unretried} answers without Retry-After"] * bool(unretried),
            {"503": statuses[503], "others": len(ledger.other) - statuses[503] + others.total()},
        ),
        Verdict(
            "With room again it goes on without repair, and nothing acknowledged is lost",
            tried,
            feed_faults(ledger.sent, ledger.acknowledged, told) + broken + repaired,
            {"acknowledged": len(ledger.acknowledged), "integrity": "bad" if broken else "ok"},
        ),
    ]


async def _send_until(ledger: Ledger, wanted: int, sender: Sender) -> None:
    for _ in range(200):  # no more than the disk itself has room for
        if len(ledger.other) >= wanted:
            return
        await sender.send_next(PADDING)


async def _all_acknowledged(platform: PlatformProcess, ledger: Ledger, senders: list[Sender]) -> None:
    """Every sender is acknowledged again before long."""
    for sender in senders:
        seen: Counter[str] = Counter()
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while True:
            try:
                if await sender.send_next("y"):
                    break
                seen[f"status {ledger.other[-1][0]}"] += 1
            except BROKEN as error:  # it has been started anew
                seen[repr(error)] += 1
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"no acknowledgement although there is room: {seen}; {platform.tail()}")
            await asyncio.sleep(0.05)


async def _settled(client: httpx2.AsyncClient) -> None:
    async def waiting() -> int:
        answer = await client.get("/api/v1/webhooks", params={"state": "received", "limit": 1})
        return len(answer.json()["items"])

    await eventually(waiting, lambda count: count == 0, 60)
