"""Several nodes over one PostgreSQL, and what can be done to them."""

import asyncio
import contextlib
import json
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from tests.support.postgres import PostgresServer
from tests.support.process import PlatformProcess
from tests.support.storage import MASTER_KEY

from .altered import PROGRAM, VARIABLE

PROBE_PAUSE = 0.1
PATIENCE = 120.0
"""Seconds that a start may take: on a machine that is busy with others there are several at a time."""


@dataclass
class Answers:
    """What nodes answered while they could not do what was asked."""

    failed: Counter[int] = field(default_factory=Counter)
    """Answers of 500 and above, by status."""
    without_retry_after: int = 0

    def note(self, status: int, headers: Mapping[str, str]) -> None:
        if status >= 500:
            self.failed[status] += 1
            self.without_retry_after += int(headers.get("retry-after", "0")) < 1


class Fleet:
    """Nodes over one database: `doors` answer requests (and may work too), `workers` only work.

    It is its nodes' supervisor: whoever is killed comes back. A node that ends by itself is a fault.
    """

    def __init__(self, doors: Sequence[PlatformProcess], workers: Sequence[PlatformProcess]) -> None:
        self.doors = list(doors)
        self.workers = list(workers)
        self.answers = Answers()
        self.faults: list[str] = []
        self.kills = 0
        self.aimed = 0
        """Kills at the moment of an effect."""
        self.freezes = 0
        self._returning: set[asyncio.Task[None]] = set()
        self.tell: Callable[[str], None] = lambda what: None
        """Is told of everything that is done to a node."""
        self._turns = {node: asyncio.Lock() for node in self.all}
        self._database = asyncio.Event()
        """Set while there is one: no node starts without."""
        self._database.set()
        self._starting: set[PlatformProcess] = set()

    @property
    def all(self) -> list[PlatformProcess]:
        return [*self.doors, *self.workers]

    @property
    def urls(self) -> list[str]:
        return [node.url for node in self.doors]

    def client(self) -> httpx2.AsyncClient:
        """A client with the admin key that goes from node to node, as a load balancer would have it."""
        return self._client(self.urls)

    def client_of(self, node: PlatformProcess) -> httpx2.AsyncClient:
        """A client of that node alone."""
        return self._client([node.url])

    def _client(self, urls: Sequence[str]) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            base_url=urls[0],
            headers={"Authorization": f"Bearer {self.doors[0].admin_key}"},
            transport=_FromNodeToNode(urls, self.answers),
            timeout=30,
        )

    def idle(self, nodes: Sequence[PlatformProcess]) -> list[PlatformProcess]:
        """Those of them that nothing is being done to."""
        return [node for node in nodes if not self._turns[node].locked()]

    async def start(self) -> None:
        await self.doors[0].start()  # alone at first: it makes the admin key
        await asyncio.gather(*(node.start() for node in self.all[1:]))

    async def strike(self, node: PlatformProcess, down: float = 0.0) -> None:
        """kill -9, and after `down` seconds a start."""
        async with self._turns[node]:
            self._look(node)
            if node.running:
                node.kill()
                self.kills += 1
                self.tell(f"{name_of(node)}: kill -9")
            await asyncio.sleep(down)
            await self._database.wait()
            self._starting.add(node)
            try:
                await node.start()
            finally:
                self._starting.discard(node)
            self.tell(f"{name_of(node)}: back")

    async def strike_process(self, pid: int) -> None:
        """The same to the node that is this process, unless something is being done to it already. Does not
        wait for its return."""
        for node in self.idle(self.all):
            if node.running and node.pid == pid:
                self.aimed += 1
                returning = asyncio.create_task(self.strike(node))
                self._returning.add(returning)
                await asyncio.sleep(0)  # it has been killed

    async def freeze(self, node: PlatformProcess, seconds: float) -> None:
        """It stands still, and goes on as if nothing had been."""
        async with self._turns[node]:
            self._look(node)
            node.freeze()
            self.freezes += 1
            self.tell(f"{name_of(node)}: stopped for {seconds:.1f} s")
            await asyncio.sleep(seconds)
            node.thaw()
            self.tell(f"{name_of(node)}: goes on")

    @contextlib.asynccontextmanager
    async def without_database(self) -> AsyncIterator[None]:
        """The caller takes the database away and brings it back. Waits for nodes that are starting."""
        self._database.clear()
        while self._starting:
            await asyncio.sleep(PROBE_PAUSE)
        yield
        self._database.set()

    async def ready_again(self, timeout: float) -> float:
        """Waits until every node that runs can store; how long that took."""
        began = time.monotonic()
        for node in self.doors:
            while not self._turns[node].locked() and not await _is_ready(node):
                if time.monotonic() - began > timeout:
                    self.faults.append(f"{name_of(node)} is not ready {timeout:g} s after the database is")
                    return timeout
                await asyncio.sleep(PROBE_PAUSE)
        return time.monotonic() - began

    async def rest(self) -> None:
        """Waits until nothing is being done to any node. All have to be there then."""
        await asyncio.gather(*self._returning)
        for turn in self._turns.values():
            async with turn:
                pass
        for node in self.all:
            self._look(node)

    def _look(self, node: PlatformProcess) -> None:
        if not node.running:
            self.faults.append(f"{name_of(node)} ended by itself")

    def errors(self) -> list[str]:
        """What the nodes have logged as an error: all of what is done to them is to be expected."""
        found: Counter[str] = Counter()
        for node in self.all:
            for line in node.log_text().splitlines():
                with contextlib.suppress(ValueError):
                    said = json.loads(line)
                    if said.get("level") in ("error", "critical"):
                        found[f"{name_of(node)} logs an error: {said['event'].strip()}"] += 1
        return [f"{what}, {count} times" for what, count in found.items()]

    async def close(self) -> None:
        for task in self._returning:
            task.cancel()
        await asyncio.gather(*self._returning, return_exceptions=True)
        for node in self.all:
            if node.running:
                node.kill()


async def _is_ready(node: PlatformProcess) -> bool:
    async with httpx2.AsyncClient(trust_env=False, timeout=5) as client:
        with contextlib.suppress(httpx2.TransportError):
            return (await client.get(f"{node.url}/readyz")).status_code == 200
    return False


def name_of(node: PlatformProcess) -> str:
    return node.data_dir.name


@contextlib.asynccontextmanager
async def running_fleet(
    folder: Path,
    database_url: str,
    connectors: Path,
    *,
    node_timeout: float,
    doors: Sequence[str] = ("api", "all"),
    workers: int = 2,
    alterations: Sequence[str] = (),
    **settings: Any,
) -> AsyncIterator[Fleet]:
    """Nodes that are ready: one door for each of these roles, and workers. Nothing of them is left at the
    end."""
    shared = {
        "connectors": connectors,
        "database_url": database_url,
        "master_key": MASTER_KEY,
        "node_timeout": node_timeout,
        **settings,
    }
    if alterations:
        shared |= {"program": PROGRAM, "variables": {VARIABLE: ",".join(alterations)}}

    def node(name: str, **more: Any) -> PlatformProcess:
        made = PlatformProcess(folder / name, **shared | more)
        made.patience = PATIENCE
        return made

    made = Fleet(
        [node(f"{role}-{number}", role=role) for number, role in enumerate(doors, 1)],
        [node(f"worker-{number}", command="worker") for number in range(1, workers + 1)],
    )
    try:
        await made.start()
        yield made
    finally:
        await made.close()


@contextlib.contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A server that nobody else uses, so that it may be taken away."""
    server = PostgresServer()
    try:
        yield server
    finally:
        server.close()


class _FromNodeToNode(httpx2.AsyncBaseTransport):
    """Each request goes to the next node. One that provably did not arrive, or that only reads, goes on to
    another node before its sender hears of it."""

    def __init__(self, urls: Sequence[str], answers: Answers) -> None:
        self._turn = deque(httpx2.URL(url) for url in urls)
        self._answers = answers
        self._inner = httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self._turn.rotate(-1)
        nodes = list(self._turn)
        for last, node in [*((False, node) for node in nodes[:-1]), (True, nodes[-1])]:
            request.url = request.url.copy_with(host=node.host, port=node.port)
            request.headers["host"] = node.netloc.decode()
            try:
                answer = await self._inner.handle_async_request(request)
            except httpx2.TransportError as error:
                if last or not (request.method == "GET" or isinstance(error, httpx2.ConnectError)):
                    raise
                continue
            self._answers.note(answer.status_code, answer.headers)
            return answer
        raise AssertionError

    async def aclose(self) -> None:
        await self._inner.aclose()
