"""Nodes over one database: leases go to one at a time, and those of the dead to others."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.errors import StorageUnavailable
from app.infra.migrate import upgrade_postgres
from app.infra.nodes import TOPIC, Fleet, SoleNode
from app.infra.postgres import PostgresDatabase
from tests.support.postgres import PostgresServer

DEAD_AFTER = 1.0


class Cluster:
    """Nodes that are opened and ended at will."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._opened: list[tuple[PostgresDatabase, Fleet]] = []

    async def node(self, role: str = "all") -> Fleet:
        database = await PostgresDatabase.open(self.url)
        fleet = await Fleet.join(database, role, DEAD_AFTER)
        self._opened.append((database, fleet))
        return fleet

    def freeze(self, node: Fleet) -> None:
        """It does nothing more, as if its process stood still."""
        assert node._task is not None
        node._task.cancel()

    async def close(self) -> None:
        for database, fleet in self._opened:
            await fleet.close()
            await database.close()


@pytest.fixture
async def cluster(empty_postgres: str) -> AsyncIterator[Cluster]:
    await upgrade_postgres(empty_postgres, allow_superuser=False)
    made = Cluster(empty_postgres)
    yield made
    await made.close()


@pytest.fixture
def grown_up(postgres: PostgresServer) -> None:
    """The server has run for longer than the time in which nobody is dead yet."""
    postgres.psql(f"SELECT pg_sleep(greatest(0, {DEAD_AFTER + 0.1} - "
                  "extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())))")  # fmt: skip


async def living(node: Fleet) -> set[str]:
    return await node._database.read(node.living)


async def test_a_lease_has_one_holder_until_it_is_given_back(cluster: Cluster) -> None:
    first, second = await cluster.node(), await cluster.node()
    assert await first.acquire(["a", "b"]) == {"a", "b"}
    assert await second.acquire(["b", "c"]) == {"c"}
    assert await first.acquire(["a", "b", "c"]) == {"a", "b"}
    assert (first.holds("b"), second.holds("b")) == (True, False)
    await first.release(["b"])
    assert not first.holds("b")
    await asyncio.sleep(1.05)  # it is not asked again at once
    assert await second.acquire(["b"]) == {"b"}
    assert await living(first) == await living(second) == {first.id, second.id}


async def test_of_many_that_want_the_same_each_gets_what_no_other_has(cluster: Cluster) -> None:
    nodes = [await cluster.node() for _ in range(4)]
    names = [f"lease {n}" for n in range(50)]
    taken = await asyncio.gather(*(node.acquire(names[n:] + names[:n]) for n, node in enumerate(nodes)))
    assert sum(map(len, taken)) == 50
    assert set.union(*taken) == set(names)


async def test_heartbeats_keep_leases_and_a_node_that_leaves_frees_them_at_once(cluster: Cluster) -> None:
    first, second = await cluster.node(), await cluster.node()
    await first.acquire(["a"])
    await asyncio.sleep(DEAD_AFTER * 2)
    assert first.holds("a")
    assert await second.acquire(["a"]) == set()
    with second._database.signals.subscribe(TOPIC) as news:
        await first.close()
        assert await news.wait(5)
    await asyncio.sleep(1.05)
    assert await second.acquire(["a"]) == {"a"}
    assert await living(second) == {second.id}


@pytest.mark.usefixtures("grown_up")
async def test_the_leases_of_a_dead_node_are_taken_over(cluster: Cluster) -> None:
    first, second = await cluster.node(), await cluster.node("api")
    await first.acquire(["a"])
    cluster.freeze(first)
    with second._database.signals.subscribe(TOPIC) as news:
        await asyncio.sleep(DEAD_AFTER * 0.5)
        assert first.id in await living(second)
        assert await news.wait(DEAD_AFTER * 4), "those who wait for leases are told"
    assert not first.holds("a"), "it knows without asking that it may be taken for dead"
    assert await living(second) == {second.id}
    assert await second.acquire(["a"]) == {"a"}
    assert await first.acquire(["a", "b"]) == set(), "the dead take nothing"


@pytest.mark.usefixtures("grown_up")
async def test_a_node_that_was_taken_for_dead_goes_on_as_another(cluster: Cluster) -> None:
    first, second = await cluster.node(), await cluster.node()
    await first.acquire(["a"])
    before = first.id
    cluster.freeze(first)
    await asyncio.sleep(DEAD_AFTER * 1.3)
    assert await second.acquire(["a"]) == {"a"}
    with first._database.signals.subscribe(TOPIC) as news:
        await first._beat()
        assert await news.wait(0), "whoever works under its leases is told"
    assert first.id != before
    assert not first.holds("a")
    assert await first.acquire(["a"]) == set()
    assert before not in await living(second)


async def test_a_restart_of_the_server_kills_nobody(postgres: PostgresServer, cluster: Cluster) -> None:
    first, second = await cluster.node(), await cluster.node()
    await first.acquire(["a"])
    before = first.id, second.id
    postgres.stop()
    await asyncio.sleep(DEAD_AFTER * 1.5)
    assert not first.holds("a"), "others could have it by now"
    with pytest.raises(StorageUnavailable):
        await second.acquire(["b"])
    postgres.start()
    async with asyncio.timeout(10):
        while not first.holds("a"):
            await asyncio.sleep(0.05)
    assert (first.id, second.id) == before
    assert first.holds("a")


async def test_workers_are_counted(cluster: Cluster) -> None:
    first = await cluster.node()
    await cluster.node("worker")
    await cluster.node("api")
    async with asyncio.timeout(5):
        while first.workers != 2:
            await asyncio.sleep(0.05)


async def test_the_sole_node_has_everything() -> None:
    node = SoleNode()
    session: Any = None
    assert await node.acquire(["a", "b"]) == {"a", "b"}
    assert node.holds("c")
    assert node.living(session) == {node.id}
