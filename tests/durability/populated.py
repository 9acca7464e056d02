"""A platform with everything in it, in every state that there is: made through its own API."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2

from app.integrations.twin import running as running_twin
from tests.support.faults import Done
from tests.support.platform import eventually
from tests.support.process import PlatformProcess, connect, walk
from tests.support.senders import SECRET
from tests.torture.bench import CONNECTORS
from tests.torture.provider import Provider, running
from tests.torture.source import Source

NEW_SECRET = "what both sides will know"
TENANT = {"Trunkline-Tenant": "acme"}
AWKWARD = ["🦆 Ünï", "\u0000", "\ud7ff\ue000\U0010ffff", "\r\n\t\\\"'", "٣٤", "a\u0301"]
"""Texts as people and machines send them."""

HOUR = timedelta(hours=1)


@dataclass
class Populated:
    """What was done on the platform, and who saw it."""

    platform: PlatformProcess
    client: httpx2.AsyncClient
    provider: Provider
    source: Source
    gate: Path
    connections: dict[str, dict[str, Any]] = field(default_factory=dict)
    sent: dict[str, Any] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)
    refs: dict[str, str] = field(default_factory=dict)
    """The refs of requested actions, by id."""
    ids: dict[str, str] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)
    read: list[dict[str, Any]] = field(default_factory=list)
    """What a consumer has read of the feed, up to `cursor`."""
    cursor: str = ""

    def path(self, name: str, rest: str = "") -> str:
        return f"/api/v1/connections/{self.connections[name]['id']}{rest}"

    async def call(self, method: str, path: str, **options: Any) -> Any:
        answer = await self.client.request(method, path, **options)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def webhook(
        self, name: str, thing: dict[str, Any], *, secret: str = SECRET, url: str | None = None
    ) -> int:
        body = json.dumps(thing).encode()
        path = httpx2.URL(url or self.connections[name]["webhook_url"]).path
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        answer = await self.client.post(path, content=body, headers={"X-Signature": f"sha256={digest}"})
        return answer.status_code

    async def send(self, name: str, key: str, **more: Any) -> None:
        """A webhook that is acknowledged."""
        thing = {"id": key, **more}
        assert await self.webhook(name, thing) == 200
        self.sent[key] = thing
        self.acknowledged.add(key)

    async def act(
        self,
        name: str,
        ref: str,
        kind: str = "deliver",
        *,
        run_at: datetime | None = None,
        wait: int = 0,
        **parcel: Any,
    ) -> dict[str, Any]:
        body: dict[str, Any] = {"type": kind, "payload": {"ref": ref, **parcel}}
        if run_at is not None:
            body["run_at"] = run_at.isoformat()
        headers = {"Idempotency-Key": f"key-{ref}"} | ({"Prefer": f"wait={wait}"} if wait else {})
        action = await self.call("POST", self.path(name, "/actions"), json=body, headers=headers)
        self.refs[action["id"]], self.ids[ref] = ref, action["id"]
        return dict(action)

    async def action(self, ref: str) -> dict[str, Any]:
        return dict(await self.call("GET", f"/api/v1/actions/{self.ids[ref]}"))

    async def until(self, look: Callable[[], Awaitable[Any]], good: Callable[[Any], bool]) -> Any:
        return await eventually(look, good, 40)

    async def actions(self) -> list[Done]:
        listed = await walk(self.client, "/api/v1/actions")
        return [Done(self.refs[a["id"]], a["state"], a["effect"]) for a in listed]

    async def webhooks(self) -> list[dict[str, Any]]:
        return await walk(self.client, "/api/v1/webhooks")

    async def read_on(self, limit: int) -> bool:
        """One more page for the consumer; whether there was one."""
        page = await self.call(
            "GET", "/api/v1/events", params={"limit": limit} | ({"after": self.cursor} if self.cursor else {})
        )
        self.read += page["items"]
        self.cursor = page["next"] or self.cursor
        return page["next"] is not None

    def go_on_at(self, platform: PlatformProcess, client: httpx2.AsyncClient) -> None:
        self.platform, self.client = platform, client


@contextlib.asynccontextmanager
async def populated(tmp_path: Path) -> AsyncIterator[Populated]:
    """A platform on SQLite in which something has happened everywhere, killed in the middle of its work."""
    connectors = tmp_path / "connectors"
    shutil.copytree(CONNECTORS, connectors)
    shutil.copytree(Path(__file__).parent / "connectors", connectors, dirs_exist_ok=True)
    gate = tmp_path / "gate"
    gate.touch()
    provider, source = Provider(), Source()
    platform = PlatformProcess(tmp_path / "data", connectors=connectors, action_concurrency=40)
    async with running(provider) as provider_url, running_twin(source) as source_url:
        try:
            await platform.start()
            async with platform.client() as client:
                it = Populated(platform, client, provider, source, gate)
                await _connections(it, provider_url, source_url)
                await _access(it)
                await _webhooks(it)
                await _actions(it)
                await it.read_on(7)
                await _work_in_progress(it)
                platform.kill()
            yield it
        finally:
            if platform.running:
                platform.kill()


async def _connections(it: Populated, provider_url: str, source_url: str) -> None:
    made: dict[str, tuple[str, dict[str, Any]]] = {
        "signed": ("signed", {"name": AWKWARD[0]}),
        "disabled": ("signed", {}),
        "deleted": ("signed", {}),
        "stalled": ("stalled", {"settings": {"gate": str(it.gate)}}),
        "waiter": ("waiter", {"settings": {"gate": str(it.gate)}}),
        "polled": ("polled", {"settings": {"base_url": source_url}}),
        "unreachable": ("polled", {"settings": {"base_url": "http://127.0.0.1:9"}}),
        "courier": ("courier", {"settings": {"base_url": provider_url}}),
        "narrow": ("courier", {"settings": {"base_url": provider_url}, "secrets": {"token": "t"}}),
    }
    for name, (integration, more) in made.items():
        secrets = {"secrets": {"signing_secret": SECRET}} if integration == "signed" else {}
        it.connections[name] = await connect(it.client, integration, **(secrets | more))
    other = {"integration": "signed", "name": "other", "secrets": {"signing_secret": SECRET}}
    it.connections["other"] = await it.call("POST", "/api/v1/connections", json=other, headers=TENANT)
    await it.call("PATCH", it.path("disabled"), json={"enabled": False})
    await it.call("DELETE", it.path("deleted"))
    await it.call("PUT", it.path("narrow", "/limits"), json={"concurrency": 1, "rate": 90, "per": 0.5})
    rotated = await it.call("POST", it.path("signed", "/rotate-url"))
    it.connections["signed"]["former_url"] = it.connections["signed"]["webhook_url"]
    it.connections["signed"]["webhook_url"] = rotated["webhook_url"]
    new = {"secrets": {"signing_secret": NEW_SECRET}, "keep_previous_for": 3600}
    await it.call("PUT", it.path("signed", "/secrets"), json=new)


async def _access(it: Populated) -> None:
    it.keys["tenant"] = (
        await it.call("POST", "/api/v1/keys", json={"name": "ci", "scope": "tenant"}, headers=TENANT)
    )["key"]
    revoked = await it.call("POST", "/api/v1/keys", json={"name": "old", "scope": "admin"})
    it.keys["revoked"] = revoked["key"]
    await it.call("DELETE", f"/api/v1/keys/{revoked['id']}")


async def _webhooks(it: Populated) -> None:
    for number, text in enumerate([*AWKWARD, *map(str, range(14))]):
        await it.send("signed", f"s{number}", n=number, text=text, big=2**53 + number)
    it.source.produce(9)
    await it.send("signed", "s0", **{k: v for k, v in it.sent["s0"].items() if k != "id"})  # a duplicate
    assert await it.webhook("signed", {"id": "s1", "text": "the same id, and something else"}) == 200
    assert await it.webhook("signed", {"no": "id"}) == 200
    assert await it.webhook("other", {"id": "of another tenant"}) == 200

    async def failed() -> list[dict[str, Any]]:
        return [w for w in await it.webhooks() if w["state"] == "failed"]

    [first] = await it.until(failed, lambda found: len(found) == 1)
    await it.call("POST", f"/api/v1/webhooks/{first['id']}/replay")

    async def polled() -> int:
        return it.source.waiting

    await it.until(polled, lambda waiting: waiting == 0)

    async def poll() -> Any:
        return (await it.call("GET", it.path("unreachable", "/polls")))["items"]

    await it.until(poll, lambda polls: polls and polls[0]["failures"] > 0)
    await it.until(failed, lambda found: len(found) == 1)


async def _actions(it: Populated) -> None:
    later = datetime.now(UTC) + HOUR
    assert (await it.act("courier", "good", wait=20))["state"] == "succeeded"
    assert (await it.act("courier", "refused", wait=20, fates=["refuse"]))["state"] == "failed"
    assert (await it.act("courier", "vanished", wait=20, fates=["vanish"]))["state"] == "unknown"
    assert (await it.act("courier", "found", wait=20, fates=["vanish"]))["state"] == "unknown"
    answer = {"state": "succeeded", "note": AWKWARD[0]}
    await it.call("POST", f"/api/v1/actions/{it.ids['found']}/resolve", json=answer)
    assert (await it.act("courier", "again", wait=20, fates=["refuse"]))["state"] == "failed"
    await it.call("POST", f"/api/v1/actions/{it.ids['again']}/retry")
    await it.act("courier", "cancelled", run_at=later)
    await it.call("POST", f"/api/v1/actions/{it.ids['cancelled']}/cancel")
    await it.act("courier", "in an hour", run_at=later)


async def _work_in_progress(it: Populated) -> None:
    """What the kill interrupts, and what waits."""
    for ref, kind, fate in (
        ("once, no effect yet", "deliver", "crash_before"),
        ("once, no answer yet", "deliver", "crash_after"),
        ("idempotent", "put", "crash_after"),
        ("checkable", "lodge", "crash_after"),
    ):
        await it.act("courier", ref, kind, fates=[fate])
    await it.act("narrow", "in the slot", fates=["crash_before"])

    async def asked() -> int:
        return it.provider.open

    await it.until(asked, lambda number: number == 5)
    for number in range(3):
        await it.act("narrow", f"for the slot {number}")
    await it.act("courier", "retried", "put", fates=["outage", "reset"])
    await it.act("courier", "soon", run_at=datetime.now(UTC) + timedelta(seconds=1))
    await it.act("courier", "a bit later", run_at=datetime.now(UTC) + timedelta(seconds=6))

    async def blocked() -> Any:
        return [(await it.action(f"for the slot {number}"))["waiting"] for number in range(3)]

    await it.until(blocked, lambda waiting: waiting == ["slot"] * 3)
    for number in range(4):
        await it.send("stalled", f"stalled {number}")
    it.sent["waiter"] = {"id": "waiter"}
    sender = asyncio.create_task(it.webhook("waiter", it.sent["waiter"]))

    async def states() -> set[str]:
        return {w["state"] for w in await it.webhooks()}

    await it.until(states, lambda seen: "answering" in seen)
    it.platform.kill()
    with contextlib.suppress(httpx2.TransportError):
        await sender
