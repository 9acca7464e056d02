"""A running platform with the relay connector, its connection and its provider."""

import asyncio
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.support.platform import eventually
from tests.support.process import PlatformProcess, connect, free_port, platform_process, walk
from tests.support.provider import Provider
from tests.support.storage import MASTER_KEY

CONNECTORS = Path(__file__).parent / "connectors"

TOKEN = "planted-token-1234567"
SIGNING = "planted-signing-7654321"
TEXT = "planted-payload-marker"
PLANTED = ("planted-token", "planted-signing", "planted-payload")


@dataclass
class Relay:
    """What a test sends through, and asks."""

    process: PlatformProcess
    client: httpx2.AsyncClient
    connection: dict[str, Any]
    worker: PlatformProcess | None = None
    """Who does the work, if `process` only answers."""

    async def webhook(self, secret: str = SIGNING, **payload: Any) -> str:
        """Sends one, and returns its id ("" if it was not stored) once it is settled."""
        body = json.dumps({"text": TEXT, **payload}).encode()
        signature = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        answer = await self.client.post(
            self.connection["webhook_url"], content=body, headers={"X-Signature": signature}
        )
        identifier: str = answer.headers.get("trunkline-webhook-id", "")
        if identifier:
            await eventually(
                lambda: self.get(f"/api/v1/webhooks/{identifier}"), lambda w: w["state"] != "received"
            )
        return identifier

    async def connected_to(self, base_url: str) -> str:
        """The id of another connection, whose provider is there."""
        secrets = {"token": TOKEN, "signing_secret": SIGNING}
        made = await connect(self.client, "relay", secrets=secrets, settings={"base_url": base_url})
        identifier: str = made["id"]
        return identifier

    async def act(
        self, type: str = "send_message", *, connection: str = "", wait: int = 20, **payload: Any
    ) -> dict[str, Any]:
        answer = await self.client.post(
            f"/api/v1/connections/{connection or self.connection['id']}/actions",
            json={"type": type, "payload": {"text": TEXT, **payload}},
            headers={"Prefer": f"wait={wait}"},
        )
        assert answer.status_code in (200, 202), answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def get(self, path: str) -> Any:
        answer = await self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def events_of(self, webhook_id: str) -> list[str]:
        events = await walk(self.client, "/api/v1/events")
        return [event["id"] for event in events if event["webhook"] == webhook_id]

    async def polled(self) -> str:
        """The id of the one item that polling brings."""
        found = await eventually(
            lambda: walk(self.client, "/api/v1/webhooks"), lambda w: any(x["source"] == "poll" for x in w)
        )
        identifier: str = next(w["id"] for w in found if w["source"] == "poll")
        return identifier


@contextlib.asynccontextmanager
async def relaying(folder: Path, **settings: Any) -> AsyncIterator[Relay]:
    """A platform in a process of its own; the provider is a stand-in."""
    async with (
        Provider.running() as provider,
        platform_process(folder / "data", connectors=CONNECTORS, stop_timeout=2, **settings) as process,
        process.client() as client,
    ):
        connection = await connect(
            client,
            "relay",
            secrets={"token": TOKEN, "signing_secret": SIGNING},
            settings={"base_url": provider.url},
        )
        yield Relay(process, client, connection)


@contextlib.asynccontextmanager
async def relaying_apart(folder: Path, database_url: str, **settings: Any) -> AsyncIterator[Relay]:
    """The same in two processes: one answers requests, one works. Traces tell them apart by their service."""

    def node(name: str, **own: Any) -> PlatformProcess:
        return PlatformProcess(
            folder / name,
            connectors=CONNECTORS,
            variables={"OTEL_SERVICE_NAME": name},
            **{"database_url": database_url, "master_key": MASTER_KEY, "stop_timeout": 2} | settings | own,
        )

    port = free_port()
    api, worker = node("api", role="api"), node("worker", command="worker", metrics_port=port)
    worker.url = f"http://127.0.0.1:{port}"
    async with Provider.running() as provider:
        try:
            await api.start()  # alone at first: it makes the admin key
            await worker.start()
            async with api.client() as client:
                connection = await connect(
                    client,
                    "relay",
                    secrets={"token": TOKEN, "signing_secret": SIGNING},
                    settings={"base_url": provider.url},
                )
                yield Relay(api, client, connection, worker)
        finally:
            for process in (api, worker):
                if process.running:
                    process.kill()


async def seconds_to_stop(process: PlatformProcess) -> float:
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await process.stop() == 0
    return loop.time() - began
