"""kill -9 and a restart: what was queued runs, and an idempotency key still means the same action."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.support.faults import Done, action_faults
from tests.support.platform import eventually
from tests.support.process import PlatformProcess, connect, platform_process, walk
from tests.torture.provider import Provider, running

CONCURRENCY = 16


@dataclass
class Scene:
    """A platform and a provider."""

    platform: PlatformProcess
    client: httpx2.AsyncClient
    provider: Provider
    path: str
    refs: dict[str, str] = field(default_factory=dict)

    async def request(self, ref: str, key: str | None = None, **more: Any) -> httpx2.Response:
        answer = await self.client.post(
            self.path,
            json={"type": "deliver", "payload": {"ref": ref, **more}},
            headers={"Idempotency-Key": key or ref},
        )
        if answer.is_success:
            self.refs[answer.json()["id"]] = ref
        return answer

    async def ended(self) -> list[Done]:
        """What became of all actions, once each has ended."""

        async def look() -> list[dict[str, Any]]:
            return await walk(self.client, "/api/v1/actions")

        actions = await eventually(
            look, lambda a: all(x["state"] not in ("queued", "running") for x in a), 40
        )
        return [Done(self.refs[a["id"]], a["state"], a["effect"]) for a in actions]

    async def interrupted(self) -> set[str]:
        """Those with a try that the kill cut short."""
        return {
            self.refs[action["id"]]
            for action in await walk(self.client, "/api/v1/actions")
            for tried in action["attempts"]
            if (tried["error"] or {}).get("code") == "interrupted"
        }

    async def begun(self) -> None:
        """Waits until something is on its way to the provider."""

        async def look() -> int:
            return self.provider.open

        await eventually(look, lambda n: n > 0)


@contextlib.asynccontextmanager
async def scene(tmp_path: Path, connectors: Path) -> AsyncIterator[Scene]:
    provider = Provider()
    async with (
        running(provider) as provider_url,
        platform_process(
            tmp_path / "data", connectors=connectors, action_concurrency=CONCURRENCY
        ) as platform,
        platform.client() as client,
    ):
        connection = await connect(client, "courier", settings={"base_url": provider_url})
        yield Scene(platform, client, provider, f"/api/v1/connections/{connection['id']}/actions")


async def test_what_is_queued_runs_after_the_restart(tmp_path: Path, connectors: Path) -> None:
    async with scene(tmp_path, connectors) as it:
        refs = [f"r{number}" for number in range(60)]
        for ref in refs:
            assert (await it.request(ref, before=0.3, after=0.3)).status_code == 202
        await it.begun()
        it.platform.kill()
        assert len(it.provider.asked) < len(refs)
        await it.platform.start()
        done = await it.ended()
        assert action_faults(refs, done, it.provider.effects) == []
        # What had been opened may not have got as far as the provider.
        opened = await it.interrupted()
        assert 0 < len(opened) <= CONCURRENCY
        assert {d.state for d in done if d.ref in opened} == {"unknown"}
        assert {d.state for d in done if d.ref not in opened} == {"succeeded"}


async def test_an_idempotency_key_means_the_same_action_after_a_restart(
    tmp_path: Path, connectors: Path
) -> None:
    async with scene(tmp_path, connectors) as it:
        first = await it.request("a", key="one", after=1.0)
        assert first.status_code == 202
        await it.begun()
        it.platform.kill()
        await it.platform.start()
        second = await it.request("a", key="one", after=1.0)
        assert second.status_code == 200  # it has ended
        assert second.json()["id"] == first.json()["id"]
        assert second.json()["state"] == "unknown"
        other = await it.request("b", key="one", after=1.0)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        await it.ended()
        assert it.provider.effects == {"a": 1}
