"""Several nodes over one PostgreSQL: any of them may be killed or stand still, and the rest go on."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.integrations.twin import running
from tests.support.platform import eventually
from tests.support.postgres import PostgresServer
from tests.support.process import PlatformProcess, connect, walk
from tests.support.senders import SECRET
from tests.support.storage import MASTER_KEY

from .fleet_traffic import Scene, Traffic

NODE_TIMEOUT = 2.0
ROUNDS = 8
PAUSE = 0.02
"""Seconds between two requests of a sender: the nodes share two cores with everybody else."""


@dataclass
class Fleet:
    """Nodes of all kinds over one database."""

    api: PlatformProcess
    both: PlatformProcess
    workers: list[PlatformProcess]

    @property
    def all(self) -> list[PlatformProcess]:
        return [self.api, self.both, *self.workers]

    async def start(self, node: PlatformProcess) -> None:
        if node in self.workers:
            before = node.log_text().count('"node"')
            node.spawn()
            await eventually(lambda: asyncio.sleep(0, node.log_text().count('"node"') > before), bool, 30)
        else:
            await node.start()


@contextlib.asynccontextmanager
async def fleet(folder: Path, url: str, connectors: Path) -> AsyncIterator[Fleet]:
    def node(name: str, **settings: Any) -> PlatformProcess:
        return PlatformProcess(
            folder / name,
            connectors=connectors,
            **{"database_url": url, "master_key": MASTER_KEY, "node_timeout": NODE_TIMEOUT} | settings,
        )

    made = Fleet(
        node("api", role="api"),
        node("both"),
        [node("worker-1", command="worker"), node("worker-2", command="worker")],
    )
    try:
        await made.start(made.api)  # alone at first: it makes the admin key
        await asyncio.gather(*(made.start(n) for n in made.all[1:]))
        yield made
    finally:
        for process in made.all:
            if process.running:
                process.kill()


@pytest.mark.timeout(300)
async def test_what_was_acknowledged_survives_the_deaths_of_nodes(
    postgres: PostgresServer,
    empty_postgres: str,
    tmp_path: Path,
    connectors: Path,
    chance: random.Random,
    record_property: Callable[[str, object], None],
) -> None:
    traffic, other = Traffic(), Traffic()
    async with (
        running(traffic.source) as source_url,
        fleet(tmp_path, empty_postgres, connectors) as nodes,
        nodes.api.client() as client,
        httpx2.AsyncClient(
            base_url=nodes.both.url,
            headers={"Authorization": f"Bearer {nodes.api.admin_key}"},
            trust_env=False,
        ) as elsewhere,
    ):
        secrets = {"signing_secret": SECRET}
        free = (await connect(client, "signed", secrets=secrets))["webhook_url"]
        ordered = (await connect(client, "signed", secrets=secrets))["webhook_url"]
        third = (await connect(client, "signed", secrets=secrets))["webhook_url"]
        await connect(client, "polled", settings={"base_url": source_url})
        here, there = nodes.api.url, nodes.both.url
        traffic.pause = other.pause = PAUSE
        traffic.begin(free, ordered.replace(here, there), chance)
        other.webhooks = traffic.webhooks
        for number in range(4):
            other.begin_sender(third.replace(here, there) if number % 2 else third, f"t{number}", chance)
        try:
            for number in range(ROUNDS):
                victim = nodes.all[1 + number % 3]
                await asyncio.sleep(chance.uniform(0.5, 1.5))
                if number % 4 == 3:
                    victim.freeze()
                    await asyncio.sleep(NODE_TIMEOUT * chance.uniform(1.2, 2.0))
                    victim.thaw()
                else:
                    victim.kill()
                    await asyncio.sleep(chance.uniform(0.0, NODE_TIMEOUT))
                    await nodes.start(victim)
        finally:
            await traffic.end()
            await other.end()
        scene = Scene(nodes.api, client, traffic)
        await scene.settle()
        seen = await walk(elsewhere, "/api/v1/events")
        assert seen == await walk(client, "/api/v1/events"), "every node shows the same"
        faults = await scene.faults()
        assert [fault for fault in faults if not fault.startswith("answered 503")] == []
        figures = {
            "acknowledged": len(traffic.webhooks.acknowledged),
            "polled": traffic.source.made,
            "answered 503": len([s for s, _ in traffic.webhooks.other if s == 503]),
        }
        for name, figure in figures.items():
            record_property(name, figure)
        assert figures["acknowledged"] > 50 * ROUNDS, figures
        assert figures["polled"] > 5 * ROUNDS, figures


@pytest.mark.timeout(120)
async def test_a_change_on_one_node_is_known_on_the_others_at_once(
    empty_postgres: str, tmp_path: Path, connectors: Path
) -> None:
    async with (
        fleet(tmp_path, empty_postgres, connectors) as nodes,
        nodes.api.client() as client,
        httpx2.AsyncClient(trust_env=False) as plain,
    ):
        made = await connect(client, "signed", secrets={"signing_secret": SECRET})
        there = made["webhook_url"].replace(nodes.api.url, nodes.both.url)
        assert (await plain.post(there, content=b"{}")).status_code == 401

        async def answered() -> int:
            return (await plain.post(there, content=b"{}")).status_code

        for enabled, status in ((False, 404), (True, 401), (False, 404)):
            path = f"/api/v1/connections/{made['id']}"
            assert (await client.patch(path, json={"enabled": enabled})).status_code == 200
            await eventually(answered, lambda seen, status=status: seen == status, 2)


async def test_several_processes_need_a_database_that_they_can_share(tmp_path: Path) -> None:
    for options in ({"role": "api"}, {"command": "worker"}):
        process = PlatformProcess(tmp_path / "data", **options)
        process.spawn()
        assert await process.ended() == 1
        assert "TRUNKLINE_DATABASE_URL" in process.log_text()


async def test_nodes_need_a_master_key_in_common(empty_postgres: str, tmp_path: Path) -> None:
    process = PlatformProcess(tmp_path / "data", database_url=empty_postgres)
    process.spawn()
    assert await process.ended() == 1
    assert "openssl rand -base64 32" in process.log_text()
