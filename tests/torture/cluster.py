"""Several nodes over PostgreSQL: nodes are killed and frozen, the database is stopped and crashed."""

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.support.feed import FeedReader, Reader, StreamReader
from tests.support.postgres import PostgresServer
from tests.support.process import PlatformProcess, each

from .bench import CONNECTORS, Bench, Scale, Verdict
from .fleet import Fleet, running_fleet, running_postgres
from .traffic import ACTION_SETTINGS, ActionTraffic, WebhookTraffic

PATIENCE = 30.0
"""Seconds in which every node has to be ready once the database is."""

STOPS = {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}
"""What `pg_ctl restart -m` sends: connections are told; the server drops everything and has to recover."""


WITHOUT_DATABASE = ("/readyz 503", "/healthz 200")

PAGES_PAUSE = 0.1
"""Seconds between two pages of a reader: the machine is to be busy with failing, not with reading."""

AT_A_TIME = 2
"""Nodes that something is being done to at the same time."""

OFTEN = ("freeze", "door", "door", "worker", "worker", "worker")
"""How often chance does what."""

Strike = Coroutine[Any, Any, None]


@dataclass(frozen=True)
class Size:
    """Nodes, how long they are tried, how often the database goes away meanwhile and for how long, and how
    much traffic there is."""

    doors: tuple[str, ...]
    workers: int
    seconds: float
    outages: int
    away: float
    node_timeout: float
    senders: int
    clients: int
    most_crashes: int
    pause: float = 0.03
    certain: tuple[str, ...] = ("freeze", "door", "worker")
    """What happens in every run; after that it is left to chance."""


SIZES: dict[Scale, Size] = {
    "tiny": Size(
        doors=("api", "all"),
        workers=1,
        seconds=5,
        outages=2,
        away=0.5,
        node_timeout=2.0,
        senders=4,
        clients=2,
        most_crashes=1,
        pause=0.06,
        certain=("freeze", "door"),
    ),
    "short": Size(("api", "api"), 3, 60, 2, 3.0, 3.0, senders=6, clients=4, most_crashes=6),
    "long": Size(("api", "api"), 3, 600, 20, 3.0, 3.0, senders=6, clients=4, most_crashes=60),
}


async def kill_the_nodes(bench: Bench) -> list[Verdict]:
    """Webhooks, polls, actions and readers over all nodes, while there is always something that fails."""
    size = bench.size(SIZES)
    with running_postgres() as server:
        async with (
            running_fleet(
                bench.folder,
                server.create_database(),
                CONNECTORS,
                node_timeout=size.node_timeout,
                doors=size.doors,
                workers=size.workers,
                alterations=bench.alterations,
                **ACTION_SETTINGS,
            ) as fleet,
            WebhookTraffic.to(
                fleet,
                bench.chance("webhooks"),
                senders=size.senders,
                most_padding=1000,
                pause=size.pause,
                readers=lambda client: _readers(client, len(fleet.doors)),
            ) as webhooks,
            ActionTraffic.to(
                fleet,
                bench.chance("actions"),
                bench.folder / "effects.jsonl",
                clients=size.clients,
                pause=size.pause,
                crash=fleet.strike_process,
                most_crashes=size.most_crashes,
            ) as actions,
        ):
            trial = _Trial(bench, size, fleet, server, webhooks, actions)
            await trial.go_on(bench.seconds or size.seconds)
            trial.tell("no more is sent, and what is on its way gets its time")
            actions.end()
            await webhooks.settle()
            trial.tell("every webhook is processed")
            done = await actions.settle()
            trial.tell("every action has ended")
            await fleet.rest()
            tried = trial.tried()
            return [
                *await webhooks.verdicts(tried),
                *actions.verdicts(done, tried),
                await trial.same_everywhere(),
                trial.outage_verdict(),
                Verdict(
                    "A node that fails is replaced by the others, and nobody has to see to it",
                    "nothing is done but to start again whoever was killed",
                    fleet.faults + fleet.errors(),
                    {"nodes": len(fleet.all), "starts": sum(node.starts for node in fleet.all)},
                ),
            ]


def _readers(client: httpx2.AsyncClient, doors: int) -> list[Reader]:
    """As many of each kind as there are doors: a client sends its requests to one after the other."""
    pages = [FeedReader(client, limit, unavailable=True, pause=PAGES_PAUSE) for limit in (200, 100)[:doors]]
    return [*pages, *(StreamReader(client) for _ in range(doors))]


@dataclass
class _Trial:
    """What is done to the fleet, by chance, and what came of it."""

    bench: Bench
    size: Size
    fleet: Fleet
    server: PostgresServer
    webhooks: WebhookTraffic
    actions: ActionTraffic
    outages: Counter[str] = field(default_factory=Counter)
    probes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    _strikes: set[asyncio.Task[None]] = field(default_factory=set)
    _began: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._chance = self.bench.chance("faults")
        self.fleet.tell = self.tell

    def tell(self, what: str) -> None:
        acknowledged, requested = len(self.webhooks.ledger.acknowledged), len(self.actions.requested)
        self.bench.progress(
            f"{time.monotonic() - self._began:5.1f} s  {what}  ({acknowledged:,} webhooks acknowledged, "
            f"{requested:,} actions requested)"
        )

    async def go_on(self, seconds: float) -> None:
        """Strikes until the time is over, and then until every node is back."""
        outages = max(len(STOPS), round(self.size.outages * seconds / self.size.seconds))
        due = [seconds * number / (outages + 1) for number in range(1, outages + 1)]
        kinds = {
            "freeze": self._freeze_a_worker,
            "door": self._kill_a_door,
            "worker": self._kill_a_worker,
        }
        plan = list(self.size.certain)
        self._began = time.monotonic()
        while plan or due or time.monotonic() - self._began < seconds:
            await asyncio.sleep(self._chance.uniform(0.3, 1.2))
            if due and time.monotonic() - self._began >= due[0]:
                due.pop(0)
                await self._take_the_database_away(list(STOPS)[self.outages.total() % len(STOPS)])
            elif sum(not strike.done() for strike in self._strikes) < AT_A_TIME and (
                strike := kinds[plan[0] if plan else self._chance.choice(OFTEN)]()
            ):
                del plan[:1]
                task = asyncio.create_task(strike)
                self._strikes.add(task)
        await asyncio.gather(*self._strikes)
        await self._ready_again()

    def _kill_a_door(self) -> Strike | None:
        """One at a time: the clients have another one to go to."""
        if self.fleet.idle(self.fleet.doors) != self.fleet.doors:
            return None
        return self._kill(self._chance.choice(self.fleet.doors))

    def _kill_a_worker(self) -> Strike | None:
        free = self.fleet.idle(self.fleet.workers)
        return self._kill(self._chance.choice(free)) if free else None

    def _freeze_a_worker(self) -> Strike | None:
        free = self.fleet.idle(self.fleet.workers)
        seconds = self.size.node_timeout * self._chance.uniform(1.2, 2.0)
        return self.fleet.freeze(self._chance.choice(free), seconds) if free else None

    def _kill(self, node: PlatformProcess) -> Strike:
        return self.fleet.strike(node, self._chance.uniform(0.0, 1.5 * self.size.node_timeout))

    async def _take_the_database_away(self, how: str) -> None:
        async with self.fleet.without_database():
            self.tell(f"PostgreSQL: restart -m {how}")
            await asyncio.to_thread(self.server.stop, STOPS[how])
            self.outages[how] += 1
            back = time.monotonic() + self.size.away
            while True:
                await self._probe()
                if time.monotonic() > back:
                    break
                await asyncio.sleep(0.2)
            await asyncio.to_thread(self.server.start)
        seconds = await self._ready_again()
        self.tell(f"PostgreSQL: back, and every node that runs ready {seconds:.1f} s later")

    async def _ready_again(self) -> float:
        seconds = await self.fleet.ready_again(PATIENCE)
        self.slowest = max(self.slowest, seconds)
        return seconds

    async def _probe(self) -> None:
        """What the nodes say of themselves while there is no database."""
        for node in self.fleet.idle(self.fleet.doors):
            async with self.fleet.client_of(node) as client:
                for path in ("/readyz", "/healthz"):
                    with contextlib.suppress(httpx2.TransportError):  # killed meanwhile
                        self.probes[f"{path} {(await client.get(path)).status_code}"] += 1

    def tried(self) -> str:
        outages = ", ".join(f"{count} -m {how}" for how, count in self.outages.items())
        return (
            f"kill -9 of nodes: {self.fleet.kills}, {self.fleet.aimed} of them at the moment of an effect; "
            f"workers stopped for longer than their lease: {self.fleet.freezes}; "
            f"restarts of PostgreSQL: {outages}"
        )

    async def same_everywhere(self) -> Verdict:
        """The whole feed, as each node tells it."""
        told = []
        for node in self.fleet.doors:
            async with self.fleet.client_of(node) as client:
                told.append(
                    [(event["cursor"], event["id"]) async for event in each(client, "/api/v1/events")]
                )
        return Verdict(
            "Every node tells the same",
            "the whole feed from each node that answers requests",
            [] if all(feed == told[0] for feed in told) else ["the nodes' feeds differ"],
            {"nodes": len(told), "events": len(told[0])},
        )

    def outage_verdict(self) -> Verdict:
        failed = Counter(status for status, _ in self.webhooks.ledger.other) + self.fleet.answers.failed
        unretried = self.fleet.answers.without_retry_after + sum(
            int(headers.get("retry-after", "0")) < 1 for _, headers in self.webhooks.ledger.other
        )
        return Verdict(
            "Without its database a node answers 503 with Retry-After, and is back by itself",
            f"{self.outages.total()} outages of {self.size.away:g} s and the server's own start",
            [f"answered {status}: {count} times" for status, count in failed.items() if status != 503]
            + [f"{unretried} answers without Retry-After"] * bool(unretried)
            + [f"{what} without a database" for what in self.probes if what not in WITHOUT_DATABASE]
            + ["nobody was answered 503"] * (not failed[503]),
            {
                "503": failed[503],
                "others": failed.total() - failed[503],
                "ready again, s": round(self.slowest, 1),
            },
        )
