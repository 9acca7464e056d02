"""Power cuts: what was never synced is gone, as kill -9 never shows, because the kernel keeps it."""

import asyncio
from dataclasses import dataclass

from .bench import Bench, Scale, Verdict
from .disk import BLOCK, ForgetfulDisk, integrity_faults, slow_disk
from .traffic import ACTION_SETTINGS, CLIENTS, ActionTraffic, WebhookTraffic


@dataclass(frozen=True)
class Size:
    """How often the power is cut, and the seconds that the platform gets to come to an end after that."""

    cuts: int
    patience: float = 90.0


SIZES: dict[Scale, Size] = {"tiny": Size(2, 20), "short": Size(7), "long": Size(40)}

WHOLE = "After a power cut the database is whole, and the platform starts"

SLOW_MS: dict[Scale, int] = {"tiny": 150, "short": 150, "long": 400}


async def cut_the_power(bench: Bench) -> list[Verdict]:
    """Webhooks, polls and actions on a disk that forgets what was not synced."""
    size, chance = bench.size(SIZES), bench.chance("cuts")
    disk = ForgetfulDisk(bench.folder / "data", bench.folder / "image")
    readable = Verdict(WHOLE, f"{size.cuts} power cuts")
    async with (
        bench.platform(variables=disk.variables(), **ACTION_SETTINGS) as platform,
        WebhookTraffic.to(
            platform, bench.chance("webhooks"), senders=4, most_padding=20_000, pause=0.005
        ) as webhooks,
        ActionTraffic.to(
            platform,
            bench.chance("actions"),
            bench.folder / "effects.jsonl",
            clients=bench.size(CLIENTS),
        ) as actions,
    ):
        lost = 0
        try:
            for _ in range(size.cuts):
                await asyncio.sleep(chance.uniform(0.5, 1.5))
                await disk.wait_for_writes()
                platform.kill()
                lost += disk.cut(chance)
                await platform.start()
            await asyncio.sleep(0.2)
            await webhooks.settle(size.patience)
            done = await actions.settle(size.patience)
            tried = f"{size.cuts} power cuts that lost {lost:,} blocks of {BLOCK} bytes"
            verdicts = [*await webhooks.verdicts(tried), *actions.verdicts(done, tried)]
        except Exception as error:
            # What is not whole shows itself in any way.
            readable.faults.append(f"{type(error).__name__}: {error!s:.300}")
            return [readable]
        platform.kill()
        readable.faults += integrity_faults(disk.data / "trunkline.db")
        readable.figures |= {"cuts": size.cuts, "blocks lost": lost}
        if not disk.in_effect:
            readable.faults.append("the disk of this test is not in effect: nothing was ever synced to it")
        return [readable, *verdicts]


async def slow_down_the_disk(bench: Bench) -> list[Verdict]:
    """Every fsync takes long: no acknowledgement may come earlier than that, none may be lost."""
    delay = bench.size(SLOW_MS)
    async with (
        bench.platform(variables=slow_disk(delay)) as platform,
        WebhookTraffic.to(platform, bench.chance("webhooks"), senders=8, pause=0.01) as traffic,
    ):
        await asyncio.sleep(1.0)
        platform.kill()
        await platform.start()
        await asyncio.sleep(1.5)
        await traffic.settle()
        tried = f"every fsync takes {delay} ms longer; 1 kill -9"
        latencies = sorted(traffic.latencies)
        early = [latency for latency in latencies if latency < delay / 1000]
        faults = (
            [f"{n} acknowledgements came too early, the first after {early[0]:.3f} s"]
            if (n := len(early))
            else []
        )
        sync = Verdict(
            "No acknowledgement before the fsync",
            tried,
            faults if latencies else ["nothing was acknowledged"],
            {
                "acknowledged": len(latencies),
                "before the fsync": len(early),
                "fastest ms": round(latencies[0] * 1000) if latencies else 0,
            },
        )
        return [sync, *await traffic.verdicts(tried)]
