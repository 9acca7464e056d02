"""The time of day jumps, forwards and back, as after a dead battery or a correction by NTP."""

import asyncio

from .altered import CLOCK_VARIABLE
from .bench import Bench, Scale, Verdict
from .traffic import ACTION_SETTINGS, CLIENTS, ActionTraffic, WebhookTraffic

HOUR, DAY = 3600.0, 86_400.0
JUMPS: dict[Scale, tuple[float, ...]] = {
    "tiny": (-HOUR, HOUR),
    "short": (5.0, -HOUR, HOUR, -7 * DAY, DAY),
    "long": (5.0, -5.0, -HOUR, HOUR, -7 * DAY, DAY, -DAY, 2 * DAY, -20 * DAY, 7 * DAY),
}
"""Seconds by which the clock is off, one after the other. The last is the latest, so that all is due then.
None is beyond the retention: what is older than that by the clock is deleted, as it is meant to be."""


async def move_the_clock(bench: Bench) -> list[Verdict]:
    """Webhooks, polls and actions, a kill after every other jump."""
    jumps = JUMPS[bench.scale]
    file = bench.folder / "clock"
    file.write_text("0")
    async with (
        bench.platform(
            alterations=["clock"], variables={CLOCK_VARIABLE: str(file)}, **ACTION_SETTINGS
        ) as platform,
        WebhookTraffic.to(platform, bench.chance("webhooks"), senders=3, pause=0.01) as webhooks,
        ActionTraffic.to(
            platform,
            bench.chance("actions"),
            bench.folder / "effects.jsonl",
            clients=bench.size(CLIENTS),
        ) as actions,
    ):
        for number, jump in enumerate(jumps):
            await asyncio.sleep(0.7)
            # In one step: the platform reads it at any moment.
            following = file.with_suffix(".new")
            following.write_text(str(jump))
            following.rename(file)
            await asyncio.sleep(0.5)
            if number % 2:
                platform.kill()
                await platform.start()
        await webhooks.settle()
        done = await actions.settle()
        tried = (
            f"{len(jumps)} jumps of the clock, from {min(jumps) / DAY:+.3g} to {max(jumps) / DAY:+.3g} days"
        )
        return [*await webhooks.verdicts(tried), *actions.verdicts(done, tried)]
