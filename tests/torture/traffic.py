"""Senders, a source and clients that know nothing of what is done to the platform, and keep account."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx2

from app.integrations.twin import running as running_twin
from tests.support.faults import Done, action_faults, feed_faults, order_faults, walk_faults
from tests.support.feed import FeedReader, Reader
from tests.support.platform import eventually
from tests.support.process import connect, each
from tests.support.senders import BROKEN, SECRET, Ledger, Sender

from .bench import Scale, Verdict
from .provider import ProviderProcess
from .source import Source

MOST_WAITING = 200
"""Items at the source, and actions in the queue, above which there are no more for the moment: how long what
is on its way takes in the end must not grow with the length of a run."""
LOOK_PAUSE = 0.5
"""Seconds between two looks at how many actions are waiting."""
PAUSE_WHILE_DOWN = 0.02
REPEATED = 0.1
"""Share of acknowledged webhooks that their sender sends again."""

FATES = ("deliver",) * 5 + (
    "refuse",
    "limit",
    "outage",
    "reset",
    "fault",
    "fault",
    "vanish",
    "vanish",
    "hang",
)
CRASHES = ("crash_before", "crash_after")
CRASHING = 0.1
"""Share of actions at which the platform is killed, as long as it may be."""

ACTION_TYPES = ("deliver", "put", "lodge")
ACTION_SETTINGS = {"action_timeout": 1.5, "action_attempts": 4, "action_concurrency": 32}


CLIENTS: dict[Scale, int] = {"tiny": 1, "short": 4, "long": 4}
"""Clients that request actions where these are not all that it is about."""


class Door(Protocol):
    """Where the platform is reached: one process, or every node that answers requests."""

    @property
    def urls(self) -> Sequence[str]: ...

    def client(self) -> httpx2.AsyncClient: ...


def one_reader(client: httpx2.AsyncClient) -> list[Reader]:
    return [FeedReader(client, 100)]


class Background:
    """Tasks that run until they are ended, and may not end by themselves."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def end(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(outcome, asyncio.CancelledError):
                raise AssertionError("traffic ended by itself") from outcome


@dataclass
class WebhookTraffic:
    """Signed webhooks from several senders, a polled source, and consumers who read all the time."""

    chance: random.Random
    client: httpx2.AsyncClient
    source: Source
    senders: int
    most_padding: int
    pause: float
    ledger: Ledger = field(default_factory=Ledger)
    repeated: int = 0
    latencies: list[float] = field(default_factory=list)
    _background: Background = field(default_factory=Background)
    _readers: list[Reader] = field(default_factory=list)
    _settled: asyncio.Event = field(default_factory=asyncio.Event)
    _reading: list[asyncio.Task[None]] = field(default_factory=list)

    @classmethod
    @contextlib.asynccontextmanager
    async def to(
        cls,
        door: Door,
        chance: random.Random,
        *,
        senders: int = 6,
        most_padding: int = 4000,
        pause: float = 0.0,
        readers: Callable[[httpx2.AsyncClient], list[Reader]] = one_reader,
    ) -> AsyncIterator["WebhookTraffic"]:
        """Makes the connections and begins."""
        source = Source()
        async with running_twin(source) as source_url, door.client() as client:
            it = cls(chance, client, source, senders, most_padding, pause)
            secrets = {"signing_secret": SECRET}
            made = [(await connect(client, "signed", secrets=secrets))["webhook_url"] for _ in range(3)]
            paths = [urlsplit(url).path for url in made]
            await connect(client, "polled", settings={"base_url": source_url})
            for number in range(senders):
                # They do not all begin at the same node.
                first = number // 2 % len(door.urls)
                urls = [url + paths[number % 2] for url in (*door.urls[first:], *door.urls[:first])]
                sender = Sender(urls, f"s{number}", it.ledger)
                it._background.begin(it._send(sender, persistent=number % 2 == 0))
            ordered = Sender([url + paths[2] for url in door.urls], "ordered", it.ledger)
            it._background.begin(it._send(ordered, persistent=True, orderly=True))
            it._background.begin(it._produce())
            it._readers = readers(client)
            it._reading = [asyncio.create_task(reader.read_until(it._settled)) for reader in it._readers]
            try:
                yield it
            finally:
                await it._background.end()
                for task in it._reading:
                    task.cancel()
                await asyncio.gather(*it._reading, return_exceptions=True)

    async def _send(self, sender: Sender, *, persistent: bool, orderly: bool = False) -> None:
        """One thing after the other. A persistent sender repeats what was not acknowledged, as providers do;
        the others go on to the next and never learn what became of it."""
        again = False
        clock = asyncio.get_running_loop().time
        try:
            while True:
                began = clock()
                try:
                    if again:
                        acknowledged = await sender.repeat()
                    else:
                        acknowledged = await sender.send_next(
                            _padding(self.chance.randrange(self.most_padding))
                        )
                except BROKEN:
                    acknowledged = False
                    await asyncio.sleep(PAUSE_WHILE_DOWN)
                if acknowledged:
                    self.latencies.append(clock() - began)
                again = persistent and not acknowledged
                if acknowledged and not orderly and self.chance.random() < REPEATED:
                    again = True
                    self.repeated += 1
                await asyncio.sleep(self.chance.uniform(0, 2 * self.pause))
        finally:
            sender.close()

    async def _produce(self) -> None:
        while True:
            if self.source.waiting < MOST_WAITING:
                self.source.produce(self.chance.randrange(1, 4))
            await asyncio.sleep(0.005)

    async def settle(self, timeout: float = 60.0) -> None:
        """Sends no more, and waits until nothing is on its way: neither webhooks nor items."""
        await self._background.end()

        async def on_its_way() -> int:
            await asyncio.sleep(0.1)
            waiting = await self.client.get("/api/v1/webhooks", params={"state": "received", "limit": 1})
            return len(waiting.json()["items"]) + self.source.waiting

        await eventually(on_its_way, lambda n: n == 0, timeout)
        self._settled.set()
        for task in (await asyncio.wait(self._reading, timeout=timeout))[0]:
            task.result()

    async def verdicts(self, tried: str) -> list[Verdict]:
        """What is wrong with the feed, by promise. Call when settled."""
        told: list[tuple[str, Any]] = []
        polled: list[tuple[str, Any]] = []
        cursors, ordered, polled_order = [], [], []
        sent = self.ledger.sent
        async for event in each(self.client, "/api/v1/events"):
            payload = event["payload"]
            cursors.append(int(event["cursor"]))
            if event["integration"] == "polled":
                polled.append((str(payload["n"]), payload))
                polled_order.append(payload["n"])
            elif event["integration"] == "signed":
                key = payload["id"]
                told.append((key, sent[key] if sent.get(key) == payload else payload))
                if payload["sender"] == "ordered":
                    ordered.append(payload["n"])
        made = {str(n): {"n": n, "square": n * n} for n in range(self.source.made)}
        faults = feed_faults(sent, self.ledger.acknowledged, told)
        twice = [fault for fault in faults if fault.startswith("there more than once")]
        others = Counter(status for status, _ in self.ledger.other)
        return [
            Verdict(
                "Acknowledged webhooks are on disk and become events, unaltered and in order",
                tried,
                [f for f in faults if f not in twice]
                + order_faults(ordered)
                + [f"answered {status}" for status in others if status != 503],
                {
                    "acknowledged": len(self.ledger.acknowledged),
                    "lost": _named(faults, "acknowledged and lost"),
                },
            ),
            Verdict(
                "Events are effectively once",
                f"{self.repeated:,} acknowledged webhooks sent again, and all that were not acknowledged",
                twice,
                {"events": len(told), "duplicates": len(told) - len(dict(told))},
            ),
            Verdict(
                "What is polled comes once and in order",
                tried,
                feed_faults(made, made.keys(), polled) + order_faults(polled_order),
                {"items": self.source.made},
            ),
            Verdict(
                "The feed never skips",
                READING[len(self._readers) > 1],
                [fault for reader in self._readers for fault in walk_faults(reader.seen, cursors)],
                {"read": sum(len(reader.seen) for reader in self._readers)},
            ),
        ]


READING = (
    "a consumer reads on by its cursor all the time",
    "consumers read on by their cursors all the time, pages and streams, from every node",
)


def _named(faults: list[str], kind: str) -> int:
    """How many the faults of one kind concern."""
    total = 0
    for fault in faults:
        if fault.startswith(kind):
            named, _, more = fault.partition(": ")[2].partition(" and ")
            total += len(named.split(", ")) + int(more.split()[0] if more else 0)
    return total


_PADDINGS: dict[int, str] = {}


def _padding(length: int) -> str:
    """Few different ones: what was sent is kept in memory."""
    length -= length % 50
    return _PADDINGS.setdefault(length, "x" * length)


_OF_CLASSES = ("happened twice", "succeeded without", "failed with")
"""Faults that the verdict on an effect class names."""


@dataclass
class ActionTraffic:
    """Clients that request actions until each is acknowledged, from a provider that may do anything."""

    chance: random.Random
    client: httpx2.AsyncClient
    provider: ProviderProcess
    connections: list[str]
    fates: tuple[str, ...]
    crash: Callable[[int], Awaitable[None]] | None
    most_crashes: int
    requested: dict[str, str] = field(default_factory=dict)
    """Ids of acknowledged actions, by their Idempotency-Key, which is the ref of their effect."""
    refused: Counter[int] = field(default_factory=Counter)
    crashes: int = 0
    _contradictions: list[str] = field(default_factory=list)
    _background: Background = field(default_factory=Background)
    _ending: bool = False
    _clients: list[asyncio.Task[None]] = field(default_factory=list)
    _room: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while fewer than MOST_WAITING actions are queued."""

    @classmethod
    @contextlib.asynccontextmanager
    async def to(
        cls,
        door: Door,
        chance: random.Random,
        ledger: Path,
        *,
        clients: int = 4,
        pause: float = 0.02,
        connections: int = 6,
        fates: tuple[str, ...] = FATES,
        crash: Callable[[int], Awaitable[None]] | None = None,
        most_crashes: int = 0,
    ) -> AsyncIterator["ActionTraffic"]:
        """Makes the connections and begins. `crash` kills the process that it is given and starts it again,
        when the provider says that this is the moment; it is asked for at most `most_crashes` of them."""
        provider = ProviderProcess(ledger)
        await provider.start()
        try:
            async with door.client() as client:
                settings = {"base_url": provider.url}
                made = [
                    (await connect(client, "courier", settings=settings))["id"] for _ in range(connections)
                ]
                it = cls(chance, client, provider, made, fates, crash, most_crashes)
                if crash:
                    it._background.begin(it._crash_when_asked())
                it._room.set()
                it._background.begin(it._look_for_room())
                it._clients = [asyncio.create_task(it._request_many(f"c{n}", pause)) for n in range(clients)]
                try:
                    yield it
                finally:
                    for task in it._clients:
                        task.cancel()
                    await asyncio.gather(*it._clients, return_exceptions=True)
                    await it._background.end()
        finally:
            await provider.kill()

    async def restart_provider(self) -> None:
        """It is killed and comes back over its ledger."""
        await self.provider.kill()
        await asyncio.sleep(0.2)
        await self.provider.start()

    async def _look_for_room(self) -> None:
        """Clients ask for more than a provider that so often has everybody wait lets anybody carry out."""
        while True:
            queued = 0
            with contextlib.suppress(httpx2.HTTPError):  # while it is down nobody knows
                queued = await self._some_in("queued")
            if queued < MOST_WAITING or self._ending:
                self._room.set()
            else:
                self._room.clear()
            await asyncio.sleep(LOOK_PAUSE)

    async def _some_in(self, state: str) -> int:
        """How many actions are in that state, MOST_WAITING at most; raises HTTPError."""
        page = await self.client.get("/api/v1/actions", params={"state": state, "limit": MOST_WAITING})
        return len(page.raise_for_status().json()["items"])

    async def _crash_when_asked(self) -> None:
        assert self.crash is not None
        while True:
            asker = await self.provider.crash_wanted()
            self.crashes += 1
            await self.crash(asker)

    async def _request_many(self, name: str, pause: float) -> None:
        """One after the other, the last one to its acknowledgement."""
        for number in count():
            await self._room.wait()
            if self._ending:
                return
            fates = [self.chance.choice(self.fates) for _ in range(self.chance.choice((0, 1, 1, 1, 2, 3)))]
            if self.most_crashes and self.chance.random() < CRASHING:
                self.most_crashes -= 1
                fates[:1] = [self.chance.choice(CRASHES)]
            slow = self.chance.random() < 0.3
            parcel = {
                "ref": f"{name}-{number}",
                "fates": fates,
                "before": self.chance.uniform(0, 0.4) if slow else 0,
                "after": self.chance.uniform(0, 0.4) if slow else 0,
            }
            await self.request(self.chance.choice(ACTION_TYPES), parcel)
            await asyncio.sleep(self.chance.uniform(0, 2 * pause))

    async def request(self, type: str, parcel: dict[str, Any]) -> None:
        """Repeats the request with the same key until there is an answer, and now and then after it."""
        ref = parcel["ref"]
        connection = self.chance.choice(self.connections)
        times = 2 if self.chance.random() < 0.1 else 1
        while times:
            try:
                answer = await self.client.post(
                    f"/api/v1/connections/{connection}/actions",
                    json={"type": type, "payload": parcel},
                    headers={"Idempotency-Key": ref},
                )
            except httpx2.TransportError:
                await asyncio.sleep(PAUSE_WHILE_DOWN)
                continue
            if answer.status_code not in (200, 202):
                assert answer.status_code >= 500, answer.text
                self.refused[answer.status_code] += 1
                await asyncio.sleep(0.1)
                continue
            times -= 1
            known = self.requested.setdefault(ref, answer.json()["id"])
            if known != answer.json()["id"]:
                self._contradictions.append(f"{ref} was {known} and then {answer.json()['id']}")

    def end(self) -> None:
        """Has the clients request no more than what they are at."""
        self._ending = True
        self._room.set()

    async def settle(self, timeout: float = 90.0) -> list[dict[str, Any]]:
        """Requests no more; all actions, once each has ended."""
        self.end()
        await asyncio.wait_for(asyncio.gather(*self._clients), timeout)

        async def unfinished() -> int:
            with contextlib.suppress(httpx2.HTTPError):  # the provider may still have it killed
                for connection in self.connections:
                    # Its pauses are not what is looked into, and waiting for them would take minutes.
                    await self.client.post(f"/api/v1/connections/{connection}/resume")
                total = await self._some_in("queued") + await self._some_in("running")
                await asyncio.sleep(0.3)
                return total
            return 1

        await eventually(unfinished, lambda n: n == 0, timeout)
        return [action async for action in each(self.client, "/api/v1/actions")]

    def verdicts(self, actions: list[dict[str, Any]], tried: str) -> list[Verdict]:
        """What is wrong with the actions, by effect class. Call with what `settle` gave."""
        refs = {action_id: ref for ref, action_id in self.requested.items()}
        effects = self.provider.effects()
        done = [Done(refs.get(a["id"], a["id"]), a["state"], a["effect"]) for a in actions]
        promises = {
            "once": "An action declared once never happens twice, and its outcome is true",
            "idempotent": "An idempotent action happens once by its key, however often it is tried",
            "checkable": "A checkable action is asked for before it is repeated",
        }
        verdicts = []
        for effect, promise in promises.items():
            mine = [d for d in done if d.effect == effect]
            known = {d.ref for d in mine}
            states = Counter(d.state for d in mine)
            verdicts.append(
                Verdict(
                    promise,
                    tried,
                    action_faults((), mine, {ref: n for ref, n in effects.items() if ref in known}),
                    {
                        "actions": len(mine),
                        **{state: states[state] for state in sorted(states)},
                        "twice": sum(1 for d in mine if effects[d.ref] > 1),
                    },
                )
            )
        known = {d.ref for d in done}
        strays = {ref: n for ref, n in effects.items() if ref not in known}
        all_faults = action_faults(self.requested, done, strays)
        interrupted = [
            a for a in actions for t in a["attempts"] if (t["error"] or {}).get("code") == "interrupted"
        ]
        verdicts.append(
            Verdict(
                "An acknowledged action is one action, and ends",
                "requests repeated with their Idempotency-Key until each was answered",
                self._contradictions
                + [f for f in all_faults if not f.startswith(_OF_CLASSES)]
                + [f"answered {status}" for status in self.refused if status != 503],
                {"acknowledged": len(self.requested), "tries cut short by a kill": len(interrupted)},
            )
        )
        return verdicts
