"""Traffic on several nodes that knows nothing of their kills, and what it kept account of."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.support.faults import feed_faults, order_faults
from tests.support.platform import eventually
from tests.support.process import PlatformProcess, walk
from tests.support.senders import BROKEN, Ledger, Sender
from tests.torture.source import Source

SENDERS = 6
MOST_WAITING = 200
PAUSE_WHILE_DOWN = 0.02


@dataclass
class Traffic:
    """Senders and a source that know nothing of the kills, and what they kept account of."""

    webhooks: Ledger = field(default_factory=Ledger)
    source: Source = field(default_factory=Source)
    pause: float = 0.0
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def begin(self, free_url: str, ordered_url: str, chance: random.Random) -> None:
        for number in range(SENDERS):
            sender = Sender(free_url, f"s{number}", self.webhooks)
            self._begin(self._send(sender, chance, persistent=number % 2 == 0))
        self._begin(self._send(Sender(ordered_url, "ordered", self.webhooks), chance, persistent=True))
        self._begin(self._produce(chance))

    def begin_sender(self, url: str, name: str, chance: random.Random) -> None:
        self._begin(self._send(Sender(url, name, self.webhooks), chance, persistent=True))

    def _begin(self, work: Any) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def end(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(outcome, asyncio.CancelledError):
                raise AssertionError("traffic ended by itself") from outcome

    async def _send(self, sender: Sender, chance: random.Random, *, persistent: bool) -> None:
        """One thing after the other. A persistent sender repeats what was not acknowledged, as providers do;
        the others go on to the next and never learn what became of it."""
        again = False
        try:
            while True:
                try:
                    if again:
                        acknowledged = await sender.repeat()
                    else:
                        acknowledged = await sender.send_next("x" * chance.randrange(4000))
                except BROKEN:
                    acknowledged = False
                    await asyncio.sleep(PAUSE_WHILE_DOWN)
                again = persistent and not acknowledged
                if self.pause:
                    await asyncio.sleep(self.pause)
        finally:
            sender.close()

    async def _produce(self, chance: random.Random) -> None:
        while True:
            if self.source.waiting < MOST_WAITING:
                self.source.produce(chance.randrange(1, 4))
            await asyncio.sleep(0.005)


@dataclass
class Scene:
    """A platform under traffic that may be killed, and how to look at what it kept."""

    platform: PlatformProcess
    client: httpx2.AsyncClient
    traffic: Traffic

    async def kill_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.platform.kill()

    async def settle(self) -> None:
        """Waits until nothing is on its way any more: neither webhooks nor items."""

        async def on_its_way() -> int:
            waiting = await self.client.get("/api/v1/webhooks", params={"state": "received", "limit": 1})
            return len(waiting.json()["items"]) + self.traffic.source.waiting

        await eventually(on_its_way, lambda count: count == 0, 30)

    async def faults(self) -> list[str]:
        """What is wrong with the feed."""
        feed = await walk(self.client, "/api/v1/events")
        told = [e["payload"] for e in feed if e["integration"] == "signed"]
        polled = [e["payload"] for e in feed if e["integration"] == "polled"]
        made = {str(n): {"n": n, "square": n * n} for n in range(self.traffic.source.made)}
        ledger = self.traffic.webhooks
        return [
            *feed_faults(ledger.sent, ledger.acknowledged, [(p["id"], p) for p in told]),
            *feed_faults(made, made.keys(), [(str(p["n"]), p) for p in polled]),
            *order_faults([p["n"] for p in told if p["sender"] == "ordered"]),
            *order_faults([p["n"] for p in polled]),
            *[f"answered {status}" for status, _ in ledger.other],
        ]
