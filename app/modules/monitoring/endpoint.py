"""`GET /metrics`: a raw ASGI application beside the API, without a key, for Prometheus.

Answers whatever state the storage is in. What it says about the storage is at most a second old, or a
twentieth of the time that reading it takes: however often it is asked, and however much waits, it costs the
database little.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from app.infra.clock import now_ms
from app.infra.db import Database
from app.infra.metrics import DECLARED, REGISTRY, Declared

from .service import MOST, Depths, read_depths

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

log = structlog.get_logger()

PATH = "/metrics"
FRESH_SECONDS = 1.0
READING_SHARE = 20.0
PATIENCE = 2.0
"""Seconds that the storage gets to answer, before it counts as down."""


def _gauge(name: str, meaning: str, *labels: str) -> Declared:
    DECLARED.append(Declared(name, "gauge", labels, meaning))
    return DECLARED[-1]


UP_STORAGE = _gauge(
    "trunkline_up_storage",
    "1 if a write reached the disk just now, 0 if none did. Without storage the gauges below are missing.",
)
WEBHOOKS = _gauge(
    "trunkline_webhooks",
    "Webhooks and polled items in the database that are waiting to be processed, or failed; "
    f"{MOST} means that many or more.",
    "state",
)
OLDEST_WEBHOOK = _gauge(
    "trunkline_webhook_oldest_waiting_seconds", "Age of the oldest webhook that waits; 0 if none does."
)
ACTIONS = _gauge(
    "trunkline_actions",
    f"Actions that are queued, running or unknown; {MOST} means that many or more.",
    "state",
)
OLDEST_ACTION = _gauge(
    "trunkline_action_oldest_due_seconds",
    "How long the action that is due longest has been due; 0 if none is.",
)
POLLS_FAILING = _gauge("trunkline_polls_failing", "Polls whose last try failed.")
PAUSED = _gauge(
    "trunkline_connections_paused",
    "Connections that try no action now, because their provider is down or asked for a pause.",
)


class MetricsEndpoint:
    """Serves `GET /metrics` and hands every other path on."""

    def __init__(self, following: Asgi, database: Database) -> None:
        self._following = following
        self._database = database
        self._reading: asyncio.Task[Depths | None] | None = None
        self._depths: Depths | None = None
        self._fresh_until = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._following(scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD"):
            await answer(send, 405, b"", (b"allow", b"GET, HEAD"))
            return
        accept = next((value for name, value in scope["headers"] if name == b"accept"), b"")
        encode, content_type = choose_encoder(accept.decode("latin-1"))
        page = encode(_Page(await self._current()))
        await answer(
            send, 200, b"" if scope["method"] == "HEAD" else page, (b"content-type", content_type.encode())
        )

    async def _current(self) -> Depths | None:
        """How much waits; None if the storage does not work."""
        if time.monotonic() < self._fresh_until:
            return self._depths
        # One at a time, and one that hangs is not asked again: whoever comes meanwhile waits for the same.
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        reading = self._reading
        await asyncio.wait([reading], timeout=PATIENCE)
        return reading.result() if reading.done() else None

    async def _read(self) -> Depths | None:
        began = time.monotonic()
        try:
            await self._database.check()
            checked = time.monotonic()
            self._depths = await self._database.read(lambda session: read_depths(session, now_ms()))
            share = (time.monotonic() - checked) * READING_SHARE
        except Exception as error:  # noqa: BLE001 - an edge: a scrape tells what is wrong, it does not fail
            log.debug("metrics_without_storage", error=type(error).__name__)
            self._depths, share = None, 0.0
        finally:
            self._reading = None
        self._fresh_until = max(began + FRESH_SECONDS, time.monotonic() + share)
        return self._depths


class _Page:
    """Everything that is told at once: what this process counts, and what the storage says."""

    def __init__(self, depths: Depths | None) -> None:
        self._depths = depths

    def collect(self) -> Iterator[Metric]:
        yield from REGISTRY.collect()
        yield _family(UP_STORAGE, {(): self._depths is not None})
        if (depths := self._depths) is None:
            return
        yield _family(WEBHOOKS, {("waiting",): depths.webhooks_waiting, ("failed",): depths.webhooks_failed})
        yield _family(OLDEST_WEBHOOK, {(): depths.oldest_webhook})
        yield _family(
            ACTIONS,
            {
                ("queued",): depths.actions_queued,
                ("running",): depths.actions_running,
                ("unknown",): depths.actions_unknown,
            },
        )
        yield _family(OLDEST_ACTION, {(): depths.oldest_action})
        yield _family(POLLS_FAILING, {(): depths.polls_failing})
        yield _family(PAUSED, {(): depths.connections_paused})


def _family(declared: Declared, values: dict[tuple[str, ...], float]) -> Metric:
    family = GaugeMetricFamily(declared.name, declared.meaning, labels=declared.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


async def answer(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", str(len(body)).encode())
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})
