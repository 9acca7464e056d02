"""A real platform in the test's own event loop, served by a real server on loopback."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from app.config import Settings
from app.integrations.base import BaseIntegration
from app.integrations.registry import Registry
from app.main import Platform, bind, open_platform, url_of

from .storage import set_up, settings_for


@dataclass
class Running:
    """A served platform and a client with its admin key."""

    platform: Platform
    url: str
    key: str
    client: httpx2.AsyncClient
    _sent: int = field(default=0)

    async def connect(self, integration: str, *, tenant: str | None = None, **body: Any) -> dict[str, Any]:
        """Makes a connection and returns it."""
        headers = {"Trunkline-Tenant": tenant} if tenant else {}
        answer = await self.client.post(
            "/api/v1/connections", json={"integration": integration, **body}, headers=headers
        )
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def get(self, path: str, **options: Any) -> Any:
        answer = await self.client.get(path, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def feed(self, **params: Any) -> list[dict[str, Any]]:
        """The whole feed, page by page, as a consumer reads it."""
        events: list[dict[str, Any]] = []
        cursor = None
        while True:
            query = {"limit": 1000, **params} | ({"after": cursor} if cursor else {})
            page = await self.get("/api/v1/events", params=query)
            if page["next"] is None:
                return events
            events += page["items"]
            cursor = page["next"]

    async def feed_of(self, count: int, *, timeout: float = 15.0, **params: Any) -> list[dict[str, Any]]:
        """The feed once it has at least `count` events."""
        return await eventually(lambda: self.feed(**params), lambda e: len(e) >= count, timeout)

    async def webhooks(self, **params: Any) -> list[dict[str, Any]]:
        return (await self.get("/api/v1/webhooks", params={"limit": 1000, **params}))["items"]

    async def settled(self, *, timeout: float = 15.0) -> list[dict[str, Any]]:
        """All webhooks once none of them waits."""
        return await eventually(
            self.webhooks, lambda w: all(x["state"] in ("processed", "failed") for x in w), timeout
        )

    async def act(
        self, connection: str, action: str, payload: dict[str, Any], *, wait: int = 10, key: str | None = None
    ) -> dict[str, Any]:
        """Requests an action, waits for it to end and returns it."""
        headers = {"Prefer": f"wait={wait}"} | ({"Idempotency-Key": key} if key else {})
        answer = await self.client.post(
            f"/api/v1/connections/{connection}/actions",
            json={"type": action, "payload": payload},
            headers=headers,
        )
        assert answer.status_code in (200, 202), answer.text
        return answer.json()


async def eventually(look: Callable[[], Any], good: Callable[[Any], bool], timeout: float = 15.0) -> Any:
    """Looks until what is seen is good; fails with what was seen last."""
    deadline = asyncio.get_running_loop().time() + timeout
    while True:
        seen = await look()
        if good(seen):
            return seen
        assert asyncio.get_running_loop().time() < deadline, f"after {timeout} s still: {seen!r:.2000}"
        await asyncio.sleep(0.02)


def registry_of(*connectors: type[BaseIntegration]) -> Registry:
    registry = Registry()
    for connector in connectors:
        registry.register(connector, connector.__qualname__)
    return registry


@contextlib.asynccontextmanager
async def running_platform(
    folder: Path,
    *connectors: type[BaseIntegration],
    key_transport: httpx2.AsyncBaseTransport | None = None,
    **settings: Any,
) -> AsyncIterator[Running]:
    """Opens a platform over `folder` with just these connectors (or all discovered ones) and serves it.

    `public_url=True` stands for the address that it listens on; `key_transport` for the network from which
    providers' public keys are fetched.
    """
    listener = bind("127.0.0.1", 0)
    url = url_of(listener)
    if settings.get("public_url") is True:
        settings["public_url"] = url
    configuration = Settings(data_dir=folder, **{"stop_timeout": 2.0} | settings_for(folder) | settings)
    if configuration.database_url is None:
        set_up(configuration.database_path)
    registry = registry_of(*connectors) if connectors else None
    platform = await open_platform(configuration, lambda: url, registry, key_transport)
    server = uvicorn.Server(
        uvicorn.Config(platform.app, lifespan="off", log_config=None, access_log=False, ws="none")
    )
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    key = platform.admin_key or (folder / "admin.key").read_text().strip()
    try:
        async with httpx2.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=70,
            trust_env=False,
            limits=httpx2.Limits(max_connections=100),
        ) as client:
            yield Running(platform, url, key, client)
    finally:
        server.should_exit = True
        server.force_exit = True
        await serving
        await platform.close()
