"""A crash at each named point: before and after every commit, and between an effect and its record."""

import asyncio
from dataclasses import dataclass

from app.infra.failpoints import ARMED, GUARD, NAME, POINTS
from tests.support.process import PlatformProcess

from .bench import Bench, Scale, Verdict
from .traffic import ACTION_SETTINGS, CLIENTS, ActionTraffic, WebhookTraffic

PATIENCE = 60.0
"""Seconds in which an armed platform has to come to its point."""

FREQUENT = "sqlite."
"""Points that the start passes many times."""


@dataclass(frozen=True)
class Size:
    """How many of the points, how often each."""

    points: int
    rounds: int


SIZES: dict[Scale, Size] = {
    "tiny": Size(2, 1),
    "short": Size(len(POINTS), 1),
    "long": Size(len(POINTS), 5),
}


async def crash_at_each_point(bench: Bench) -> list[Verdict]:
    """Webhooks, polls and actions; the platform dies at one point after the other."""
    size, chance = bench.size(SIZES), bench.chance("points")
    never = []
    async with (
        bench.platform(**ACTION_SETTINGS) as platform,
        WebhookTraffic.to(platform, bench.chance("webhooks"), senders=3, pause=0.01) as webhooks,
        ActionTraffic.to(
            platform,
            bench.chance("actions"),
            bench.folder / "effects.jsonl",
            clients=bench.size(CLIENTS),
        ) as actions,
    ):
        points = sorted(POINTS)
        if size.points < len(points):
            points = chance.sample(points, size.points)
        plain = dict(platform.environment)
        platform.kill()
        for round_ in range(size.rounds):
            for point in points:
                # In later rounds also while it starts.
                nth = (
                    chance.randint(20, 60)
                    if point.startswith(FREQUENT) and not round_
                    else chance.randint(1, 9)
                )
                platform.environment = plain | {GUARD: ARMED, NAME: f"{point}:{nth}"}
                if not await _dies(platform):
                    never.append(point)
        platform.environment = plain
        await platform.start()
        await webhooks.settle()
        done = await actions.settle()
        tried = f"{size.rounds * len(points) - len(never)} crashes, at {len(points)} points"
        reached = Verdict(
            "The platform survives a crash at every named point",
            ", ".join(points),
            [f"never reached: {point}" for point in never],
            {"points": len(points), "crashes": size.rounds * len(points) - len(never)},
        )
        return [reached, *await webhooks.verdicts(tried), *actions.verdicts(done, tried)]


async def _dies(platform: PlatformProcess) -> bool:
    """Starts it and waits until it has died of itself."""
    platform.spawn()
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while platform.running:
        if asyncio.get_running_loop().time() > deadline:
            platform.kill()
            return False
        await asyncio.sleep(0.01)
    return True
