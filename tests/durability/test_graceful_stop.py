"""SIGTERM: what is begun is finished or told honestly, the rest is done by the next start."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.support.faults import Done, action_faults, feed_faults
from tests.support.platform import eventually
from tests.support.process import PlatformProcess, connect, platform_process, walk
from tests.support.senders import BROKEN, SECRET, Ledger, Sender, Wire, signed
from tests.support.specification import ROOT
from tests.torture.provider import Provider, running

STOP_TIMEOUT = 2.0
SLACK = 1.0
"""Seconds beyond the timeout that ending the process itself may take."""


async def stop(platform: PlatformProcess) -> float:
    """Asks it to stop; returns the seconds that it took to end well."""
    began = time.monotonic()
    platform.terminate()
    assert await platform.ended() == 0, platform.tail()
    return time.monotonic() - began


@contextlib.asynccontextmanager
async def stage(
    tmp_path: Path, connectors: Path, **settings: Any
) -> AsyncIterator[tuple[PlatformProcess, httpx2.AsyncClient]]:
    options = {"stop_timeout": STOP_TIMEOUT, **settings}
    async with (
        platform_process(tmp_path / "data", connectors=connectors, **options) as platform,
        platform.client() as client,
    ):
        yield platform, client


async def test_webhooks_on_their_way_are_answered_and_then_it_ends(tmp_path: Path, connectors: Path) -> None:
    async with stage(tmp_path, connectors) as (platform, client):
        url = (await connect(client, "signed", secrets={"signing_secret": SECRET}))["webhook_url"]
        bodies = [json.dumps({"id": f"half-{n}"}).encode() for n in range(10)]
        wires = [Wire(url) for _ in bodies]
        for wire, body in zip(wires, bodies, strict=True):
            await wire.send(wire.head(len(body), signed(body)) + body[:5])
        await asyncio.sleep(0.1)
        platform.terminate()
        await asyncio.sleep(0.3)
        for wire, body in zip(wires, bodies, strict=True):
            await wire.send(body[5:])
            assert (await wire.answer())[0] == 200
            wire.close()
        assert await platform.ended() == 0
        await platform.start()
        events = await eventually(lambda: walk(client, "/api/v1/events"), lambda e: len(e) == len(bodies))
        assert {e["external_id"] for e in events} == {f"half-{n}" for n in range(10)}


async def test_under_fire_each_request_is_stored_or_broken_off(tmp_path: Path, connectors: Path) -> None:
    ledger = Ledger()
    async with stage(tmp_path, connectors) as (platform, client):
        url = (await connect(client, "signed", secrets={"signing_secret": SECRET}))["webhook_url"]

        async def fire(name: str) -> None:
            sender = Sender(url, name, ledger)
            with contextlib.suppress(*BROKEN):
                while True:
                    await sender.send_next()
            sender.close()

        firing = [asyncio.create_task(fire(f"s{n}")) for n in range(16)]
        await asyncio.sleep(0.7)
        assert await stop(platform) < STOP_TIMEOUT + SLACK
        await asyncio.gather(*firing)
        assert ledger.other == []
        await platform.start()

        async def waiting() -> int:
            answer = await client.get("/api/v1/webhooks", params={"state": "received", "limit": 1})
            return len(answer.json()["items"])

        await eventually(waiting, lambda count: count == 0, 30)
        feed = [(e["payload"]["id"], e["payload"]) for e in await walk(client, "/api/v1/events")]
        assert feed_faults(ledger.sent, ledger.acknowledged, feed) == []
        assert len(ledger.acknowledged) > 100


async def test_running_actions_finish_or_end_unknown_and_the_rest_runs_later(
    tmp_path: Path, connectors: Path
) -> None:
    provider = Provider()
    async with (
        running(provider) as provider_url,
        stage(tmp_path, connectors, action_concurrency=4) as (platform, client),
    ):
        connection = (await connect(client, "courier", settings={"base_url": provider_url}))["id"]
        refs: dict[str, str] = {}

        async def request(ref: str, type: str = "deliver", **more: float) -> None:
            answer = await client.post(
                f"/api/v1/connections/{connection}/actions",
                json={"type": type, "payload": {"ref": ref, **more}},
            )
            assert answer.status_code in (200, 202)
            refs[answer.json()["id"]] = ref

        for number in range(2):
            await request(f"short-{number}", before=0.5, after=0.5)
        await request("long", before=0.2, after=8.0)
        await request("repeatable", type="put", before=0.2, after=8.0)
        await eventually(lambda: asyncio.sleep(0, provider.open), lambda n: n == 4)
        for number in range(6):
            await request(f"later-{number}")
        took = await stop(platform)
        assert took < STOP_TIMEOUT + SLACK
        assert set(provider.asked) == {"short-0", "short-1", "long", "repeatable"}
        await platform.start()

        async def actions() -> list[dict[str, Any]]:
            return await walk(client, "/api/v1/actions")

        found = await eventually(
            actions, lambda a: all(x["state"] not in ("queued", "running") for x in a), 30
        )
        done = [Done(refs[a["id"]], a["state"], a["effect"]) for a in found]
        assert action_faults(refs.values(), done, provider.effects) == []
        states = {d.ref: d.state for d in done}
        assert states.pop("long") == "unknown"
        assert states.pop("repeatable") in ("succeeded", "unknown")
        assert set(states.values()) == {"succeeded"}
        [long] = [a for a in found if refs[a["id"]] == "long"]
        assert long["error"]["code"] == "interrupted"


STUBBORN = """
import asyncio

from pydantic import BaseModel

from app.integrations.base import BaseIntegration
from app.integrations.specs import ActionSpec


class Nothing(BaseModel):
    pass


class StubbornConnector(BaseIntegration):
    name = "Stubborn"
    key = "stubborn"
    actions = [ActionSpec("hang", "Hangs, and does not want to end", Nothing, "hang")]

    async def hang(self, data: Nothing) -> None:
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                pass

    async def aclose(self) -> None:
        await asyncio.sleep(0)
"""


async def test_a_handler_that_ignores_its_end_does_not_hold_it_up(tmp_path: Path) -> None:
    folder = tmp_path / "connectors" / "stubborn"
    folder.mkdir(parents=True)
    (folder / "connector.py").write_text(STUBBORN)
    async with stage(tmp_path, folder.parent, stop_timeout=0.5) as (platform, client):
        connection = (await connect(client, "stubborn"))["id"]
        answer = await client.post(f"/api/v1/connections/{connection}/actions", json={"type": "hang"})
        path = f"/api/v1/actions/{answer.json()['id']}"

        async def action() -> dict[str, Any]:
            return (await client.get(path)).json()

        await eventually(action, lambda a: a["state"] == "running")
        # Two last words: of the handler, and of what is left when the platform has stopped.
        assert await stop(platform) < 0.5 + 2 * SLACK + SLACK
        await platform.start()
        assert ((await action())["state"], (await action())["error"]["code"]) == ("unknown", "interrupted")


@pytest.mark.parametrize("stop_timeout", [STOP_TIMEOUT, 0.5, 0])
async def test_who_only_waits_does_not_hold_it_up(
    tmp_path: Path, connectors: Path, stop_timeout: float
) -> None:
    provider = Provider()
    async with (
        running(provider) as provider_url,
        stage(tmp_path, connectors, stop_timeout=stop_timeout) as (platform, client),
    ):
        connection = (await connect(client, "courier", settings={"base_url": provider_url}))["id"]
        signed_url = (await connect(client, "signed", secrets={"signing_secret": SECRET}))["webhook_url"]

        async def wait_for_action() -> None:
            await client.post(
                f"/api/v1/connections/{connection}/actions",
                json={"type": "deliver", "payload": {"ref": "a", "after": 20.0}},
                headers={"Prefer": "wait=60"},
            )

        async def follow() -> None:
            async with client.stream("GET", "/api/v1/events/stream", timeout=None) as stream:
                async for _ in stream.aiter_lines():
                    pass

        waiting = [asyncio.create_task(wait_for_action()), asyncio.create_task(follow())]
        stalled, idle = Wire(signed_url), Wire(signed_url)
        await stalled.send(stalled.head(100) + b"{")  # and no more of it ever comes
        await idle.post(b"")
        await eventually(lambda: asyncio.sleep(0, provider.effects["a"]), lambda n: n == 1)
        assert await stop(platform) < stop_timeout + SLACK
        await asyncio.gather(*waiting, return_exceptions=True)
        stalled.close()
        idle.close()


async def test_the_folder_belongs_to_one_process_until_that_is_gone(tmp_path: Path, connectors: Path) -> None:
    async with stage(tmp_path, connectors) as (platform, client):

        def start_another() -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "app", "serve", "--port", "0"]
            return subprocess.run(
                [*command, "--data-dir", str(platform.data_dir)],
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )

        another = await asyncio.to_thread(start_another)
        assert another.returncode == 1
        assert another.stdout == ""
        [line] = another.stderr.splitlines()
        assert f"pid {platform.pid}" in line
        assert (await client.get("/readyz")).status_code == 200
        platform.kill()
        await platform.start()
        assert (await client.get("/readyz")).status_code == 200
