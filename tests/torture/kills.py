"""kill -9 at any moment, and the next start."""

import asyncio
import random
from dataclasses import dataclass
from itertools import count

from tests.support.process import PlatformProcess

from .bench import Bench, Scale, Verdict
from .traffic import ACTION_SETTINGS, ActionTraffic, WebhookTraffic


@dataclass(frozen=True)
class Size:
    """How often it is killed, and how much has to be acknowledged meanwhile."""

    kills: int
    acknowledged: int
    senders: int = 6
    pause: float = 0.0
    clients: int = 4
    most_crashes: int = 0


WEBHOOKS: dict[Scale, Size] = {
    "tiny": Size(2, 100, senders=4, pause=0.005),
    "short": Size(14, 5_000, senders=8),
    "long": Size(200, 100_000, senders=12),
}
ACTIONS: dict[Scale, Size] = {
    "tiny": Size(1, 30, most_crashes=1),
    "short": Size(10, 200, most_crashes=6),
    "long": Size(100, 2_000, clients=24, most_crashes=60),
}
WHILE_STARTING = 5
"""Every so manieth kill is followed by one while the platform starts."""


@dataclass
class Killer:
    """Kills a platform and starts it again; one at a time."""

    platform: PlatformProcess
    chance: random.Random
    kills: int = 0

    def __post_init__(self) -> None:
        self._lock = asyncio.Lock()

    async def strike(self, _: int = 0) -> None:
        """Kills it and waits until the next start is ready."""
        async with self._lock:
            if not self.platform.running:
                return
            self._kill()
            if self.kills % WHILE_STARTING == 0:
                self.platform.spawn()
                await asyncio.sleep(self.chance.uniform(0.0, 1.3))
                self._kill()
            await self.platform.start()

    def _kill(self) -> None:
        self.platform.kill()
        self.kills += 1


async def kill_under_webhooks(bench: Bench) -> list[Verdict]:
    """Webhooks, a polled source and a reader, all through the kills."""
    size, chance = bench.size(WEBHOOKS), bench.chance("kills")
    async with (
        bench.platform() as platform,
        WebhookTraffic.to(
            platform, bench.chance("webhooks"), senders=size.senders, pause=size.pause
        ) as traffic,
    ):
        killer = Killer(platform, chance)
        for number in count(1):
            await asyncio.sleep(chance.uniform(0.3, 0.9))
            await killer.strike()
            acknowledged = len(traffic.ledger.acknowledged)
            if number % 20 == 0:
                bench.progress(f"{killer.kills} kills, {acknowledged:,} webhooks acknowledged")
            if killer.kills >= size.kills and acknowledged >= size.acknowledged:
                break
        await asyncio.sleep(0.2)
        await traffic.settle(300)
        return await traffic.verdicts(f"{killer.kills} kill -9")


async def kill_under_actions(bench: Bench) -> list[Verdict]:
    """Actions of all effect classes, a provider that does its worst, and kills of both; some kills come at
    the very moment between an effect and its answer."""
    size, chance = bench.size(ACTIONS), bench.chance("kills")
    async with bench.platform(**ACTION_SETTINGS) as platform:
        killer = Killer(platform, chance)
        ledger = bench.folder / "effects.jsonl"
        async with ActionTraffic.to(
            platform,
            bench.chance("actions"),
            ledger,
            clients=size.clients,
            crash=killer.strike,
            most_crashes=size.most_crashes,
        ) as traffic:
            for number in count(1):
                await asyncio.sleep(chance.uniform(0.3, 1.2))
                if number % 4 == 0:
                    await traffic.restart_provider()
                else:
                    await killer.strike()
                if number % 20 == 0:
                    bench.progress(f"{killer.kills} kills, {len(traffic.requested):,} actions requested")
                if killer.kills >= size.kills and len(traffic.requested) >= size.acknowledged:
                    break
            actions = await traffic.settle()
            tried = (
                f"{killer.kills} kill -9, {traffic.crashes} of them before or after an effect; "
                f"provider killed {traffic.provider.starts - 1} times, "
                "answering 400, 429, 503 and 500, resetting, hanging"
            )
            return traffic.verdicts(actions, tried)
