"""Processing beside acknowledgements and a database that has its troubles."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from app.errors import StorageUnavailable
from app.integrations.models import Event
from app.modules.webhooks import processor
from tests.support.connectors import OpenConnector
from tests.support.platform import Running, eventually, running_platform

Write = Callable[[Any], Awaitable[Any]]


class Held(OpenConnector):
    """Its handler waits until it is let go."""

    key = "held"
    gate: asyncio.Event

    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        await type(self).gate.wait()
        return await super().handle_webhook(payload)


def before_settling(running: Running, trouble: Callable[[int], Awaitable[None]]) -> list[int]:
    """Has `trouble` run before each write of what became of webhooks; the list counts them."""
    database = running.platform.database
    write: Write = database.write
    settled: list[int] = []

    async def troubled(unit: Any) -> Any:
        if "_settle_together" in unit.__qualname__:
            settled.append(len(settled) + 1)
            await trouble(len(settled))
        return await write(unit)

    database.write = troubled  # type: ignore[method-assign, assignment]
    return settled


async def send(running: Running, url: str, name: object) -> None:
    answer = await running.client.post(url, json={"id": str(name)})
    assert answer.status_code == 200


async def test_what_is_parsed_meanwhile_is_not_stored_before_what_could_not_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for bound in ("PORTION", "PORTION_BUSY", "SETTLED_TOGETHER"):
        monkeypatch.setattr(processor, bound, 3)
    Held.gate = asyncio.Event()
    async with running_platform(tmp_path, Held) as running:

        async def second_fails(number: int) -> None:
            await asyncio.sleep(0.05)  # long enough for the next portion to be parsed
            if number == 2:
                raise StorageUnavailable("for a moment")

        settled = before_settling(running, second_fails)
        url = (await running.connect("held"))["webhook_url"]
        for number in range(12):
            await send(running, url, number)
        await asyncio.sleep(0.1)  # no acknowledgement is being given any more
        Held.gate.set()
        events = await running.feed_of(12)
        assert [event["external_id"] for event in events] == [str(number) for number in range(12)]
        assert len(settled) >= 5  # four portions at least, one of them again


async def test_a_backlog_goes_on_at_once_when_the_load_ends(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:

        async def slowly(number: int) -> None:
            await asyncio.sleep(1.0 if number == 1 else 0.0)

        before_settling(running, slowly)
        urls = [(await running.connect("open", name=f"open-{n}"))["webhook_url"] for n in range(2)]
        sent, until = 0, time.monotonic() + 1.5
        while time.monotonic() < until:  # so that acknowledgements are being given when the write returns
            await send(running, urls[sent % 2], sent)
            sent += 1
        ended = time.monotonic()
        await eventually(running.feed, lambda events: len(events) == sent, 30)
        assert time.monotonic() - ended < 5


async def test_connections_with_nothing_new_hold_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "LANES", 2)
    monkeypatch.setattr(processor, "SWEEP_SECONDS", 60.0)
    async with running_platform(tmp_path, OpenConnector) as running:
        urls = [(await running.connect("open", name=f"open-{n}"))["webhook_url"] for n in range(8)]
        await asyncio.gather(*(send(running, url, n) for n, url in enumerate(urls)))
        await running.feed_of(len(urls))
        for turn, url in enumerate(reversed(urls), 1):
            await send(running, url, f"again-{turn}")
            await running.feed_of(len(urls) + turn)
