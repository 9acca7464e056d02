"""kill -9 while actions are being carried out: what the platform says of their effects is true."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.integrations.twin import running
from tests.support.platform import eventually
from tests.support.process import PlatformProcess, connect, platform_process, walk

from .checks import Done, action_faults
from .standins import Provider

KILLS = 6
CLIENTS = 4
FATES = ("deliver", "deliver", "deliver", "deliver", "refuse", "fault", "outage", "vanish")


@dataclass
class Scene:
    """A platform, a provider, and clients that request actions until each is acknowledged."""

    platform: PlatformProcess
    client: httpx2.AsyncClient
    provider: Provider
    connection: str
    chance: random.Random
    requested: dict[str, str] = field(default_factory=dict)
    """Ids of acknowledged actions, by their Idempotency-Key, which is the ref of their effect."""
    contradictions: list[str] = field(default_factory=list)

    ending: bool = False

    async def request_many(self, name: str) -> None:
        """One after the other, the last one to its acknowledgement."""
        for number in count():
            if self.ending:
                return
            parcel = {
                "ref": f"{name}-{number}",
                "fate": self.chance.choice(FATES),
                "before": self.chance.uniform(0, 0.4),
                "after": self.chance.uniform(0, 0.4),
            }
            await self.request(self.chance.choice(("deliver", "deliver", "put")), parcel)
            await asyncio.sleep(0.02)

    async def request(self, type: str, parcel: dict[str, Any]) -> None:
        """Repeats the request with the same key until there is an answer, and now and then after it."""
        ref = parcel["ref"]
        times = 2 if self.chance.random() < 0.1 else 1
        while times:
            try:
                answer = await self.client.post(
                    f"/api/v1/connections/{self.connection}/actions",
                    json={"type": type, "payload": parcel},
                    headers={"Idempotency-Key": ref},
                )
            except httpx2.TransportError:
                await asyncio.sleep(0.02)
                continue
            assert answer.status_code in (200, 202), answer.text
            times -= 1
            known = self.requested.setdefault(ref, answer.json()["id"])
            if known != answer.json()["id"]:
                self.contradictions.append(f"{ref} was {known} and then {answer.json()['id']}")

    async def actions(self) -> list[dict[str, Any]]:
        """All actions, once each has ended and nothing is on its way to the provider."""

        async def look() -> tuple[int, list[dict[str, Any]]]:
            return self.provider.open, await walk(self.client, "/api/v1/actions")

        def quiet(seen: tuple[int, list[dict[str, Any]]]) -> bool:
            return seen[0] == 0 and all(a["state"] not in ("queued", "running") for a in seen[1])

        found: list[dict[str, Any]] = (await eventually(look, quiet, 40))[1]
        return found

    def faults(self, actions: list[dict[str, Any]]) -> list[str]:
        refs = {action_id: ref for ref, action_id in self.requested.items()}
        done = [Done(refs.get(a["id"], a["id"]), a["state"], a["effect"]) for a in actions]
        return self.contradictions + action_faults(self.requested.keys(), done, self.provider.effects)


@contextlib.asynccontextmanager
async def scene(
    tmp_path: Path, connectors: Path, chance: random.Random, program: str = "app"
) -> AsyncIterator[Scene]:
    provider = Provider()
    async with (
        running(provider) as provider_url,
        platform_process(
            tmp_path / "data", connectors=connectors, program=program, action_concurrency=16
        ) as platform,
        platform.client() as client,
    ):
        connection = await connect(client, "courier", settings={"base_url": provider_url})
        yield Scene(platform, client, provider, connection["id"], chance)


@contextlib.asynccontextmanager
async def requests(it: Scene) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(it.request_many(f"c{n}")) for n in range(CLIENTS)]
    try:
        yield
        it.ending = True
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("every_storage")
async def test_no_effect_happens_twice_and_every_outcome_is_true(
    tmp_path: Path,
    connectors: Path,
    chance: random.Random,
    record_property: Callable[[str, object], None],
) -> None:
    async with scene(tmp_path, connectors, chance) as it:
        open_at_kills = []
        async with requests(it):
            for _ in range(KILLS):
                await asyncio.sleep(chance.uniform(0.4, 1.2))
                open_at_kills.append(it.provider.open)
                it.platform.kill()
                await it.platform.start()
            await asyncio.sleep(0.5)
        actions = await it.actions()
        assert it.faults(actions) == [], it.platform.tail()
        assert len(actions) == len(it.requested)

        states = Counter((a["effect"], a["state"]) for a in actions)
        interrupted = [a for a in actions if a["error"] and a["error"]["code"] == "interrupted"]
        record_property("actions", dict(states))
        record_property("interrupted", len(interrupted))
        record_property("open_at_kills", open_at_kills)
        assert sum(open_at_kills) > 0
        assert interrupted, "no attempt was open at a kill"
        assert all(a["effect"] == "once" and a["state"] == "unknown" for a in interrupted)
        assert all(len(a["attempts"]) == 1 for a in actions if a["effect"] == "once")
        repeated = [a for a in actions if len(a["attempts"]) > 1]
        assert repeated, "no idempotent attempt was open at a kill"
        assert all(a["attempts"][0]["error"]["code"] == "interrupted" for a in repeated)


@pytest.mark.timeout(120)
async def test_repeating_after_a_crash_would_be_found_out(
    tmp_path: Path, connectors: Path, chance: random.Random
) -> None:
    async with scene(tmp_path, connectors, chance, program="tests.durability.retries_unknown") as it:
        for number in range(10):
            await it.request("deliver", {"ref": f"r{number}", "before": 0.0, "after": 1.0})
        await eventually(lambda: asyncio.sleep(0, it.provider.effects.total()), lambda n: n == 10)
        it.platform.kill()
        await it.platform.start()
        faults = it.faults(await it.actions())
        assert any(fault.startswith("happened twice") for fault in faults), faults


@pytest.mark.usefixtures("every_storage")
async def test_what_is_queued_runs_after_the_restart(
    tmp_path: Path, connectors: Path, chance: random.Random
) -> None:
    async with scene(tmp_path, connectors, chance) as it:
        refs = [f"r{number}" for number in range(60)]
        # At once, and each long enough that not all of them can have begun when the first has.
        parcels = [{"ref": ref, "before": 1.0, "after": 0.3} for ref in refs]
        await asyncio.gather(*(it.request("deliver", parcel) for parcel in parcels))
        await eventually(lambda: asyncio.sleep(0, it.provider.open), lambda n: n > 0)
        it.platform.kill()
        begun = set(it.provider.asked)
        assert len(begun) < len(refs)
        await it.platform.start()
        actions = await it.actions()
        assert it.faults(actions) == []
        state = {ref: next(a["state"] for a in actions if a["id"] == it.requested[ref]) for ref in refs}
        assert {state[ref] for ref in refs if ref not in begun} == {"succeeded"}
        assert "unknown" in {state[ref] for ref in begun}


@pytest.mark.usefixtures("every_storage")
async def test_an_idempotency_key_means_the_same_action_after_a_restart(
    tmp_path: Path, connectors: Path, chance: random.Random
) -> None:
    async with scene(tmp_path, connectors, chance) as it:
        path = f"/api/v1/connections/{it.connection}/actions"

        async def ask(ref: str, **more: Any) -> httpx2.Response:
            return await it.client.post(
                path,
                json={"type": "deliver", "payload": {"ref": ref, "after": 1.0, **more}},
                headers={"Idempotency-Key": "one"},
            )

        first = await ask("a")
        assert first.status_code == 202
        await eventually(lambda: asyncio.sleep(0, it.provider.effects["a"]), lambda effects: effects == 1)
        it.platform.kill()
        await it.platform.start()
        # It has ended: at the start, or once the other nodes would have taken the killed one for dead.
        second = await eventually(lambda: ask("a"), lambda answer: answer.status_code == 200)
        assert second.json()["id"] == first.json()["id"]
        assert second.json()["state"] == "unknown"
        other = await ask("b")
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        await it.actions()
        assert it.provider.effects == {"a": 1}
