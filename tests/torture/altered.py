"""The platform with something about it changed, then run like `app`: `python -m tests.torture.altered serve`.

TORTURE_ALTERATIONS names the changes. Most break a promise, so that the bench has to turn red; `clock` lets
it move the platform's time.
"""

import asyncio
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PROGRAM = "tests.torture.altered"
VARIABLE = "TORTURE_ALTERATIONS"
CLOCK_VARIABLE = "TORTURE_CLOCK"
"""The file that says how many seconds the clock is off."""

EARLY = 0.1
"""Seconds by which a commit comes too late for an early acknowledgement."""


def acknowledge_before_commit() -> None:
    """Webhooks are acknowledged before they are on disk."""
    from app.infra.postgres import PostgresDatabase
    from app.infra.sqlite import SqliteDatabase

    def hasten(kind: Any) -> None:
        appender = kind.appender

        def early(self: Any, table: Any, columns: Sequence[str]) -> Any:
            append = appender(self, table, columns)

            async def store_later(row: tuple[Any, ...]) -> None:
                asyncio.get_running_loop().call_later(EARLY, append, row)

            return store_later

        kind.appender = early

    hasten(SqliteDatabase)
    hasten(PostgresDatabase)


def dedupe_off() -> None:
    """Nothing is recognised as a repetition."""
    from app.modules.events import service

    service._identity = lambda event: os.urandom(16)


def cursor_skips() -> None:
    """The feed's pages leave their last event out."""
    from app.modules.events import router

    read_feed = router.read_feed

    def short(*given: Any, **more: Any) -> Any:
        found = read_feed(*given, **more)
        return found[:-2] + found[-1:] if len(found) > 2 else found

    router.read_feed = short


def feed_unlocked() -> None:
    """Events are stored at the same time, some faster than others, so positions in the feed do not become
    visible in their order."""
    from sqlalchemy import text

    from app.modules.events import service

    tell = service.signal

    def late(session: Any, topic: str) -> None:
        session.execute(text(f"SELECT pg_sleep({random.uniform(0, 0.05)})"))
        tell(session, topic)

    service.exclusive = lambda session, topic: None
    service.signal = late


def retry_interrupted_once() -> None:
    """After a crash, whatever was being tried is tried again."""
    from app.modules.actions import attempts

    attempts._repeatable = lambda row: True


def result_before_send() -> None:
    """An action is recorded as succeeded before anything is sent."""
    from app.modules.actions.attempts import Outcome
    from app.modules.actions.runner import ActionRunner

    attempt_it = ActionRunner._try

    async def hasty(self: ActionRunner, attempt: Any) -> Outcome:
        await self._close(attempt, Outcome("succeeded", True, result="null"))
        return await attempt_it(self, attempt)

    ActionRunner._try = hasty  # type: ignore[method-assign]


def attempt_not_opened() -> None:
    """Nothing is on disk of an attempt before its first byte leaves."""
    from app.modules.actions import runner
    from app.modules.actions.attempts import OpenAttempt
    from app.modules.actions.models import ActionRow

    close = runner.close_attempts
    open_attempts = runner.open_attempts
    run = runner.ActionRunner.run

    async def unopened(self: Any, action_id: str) -> None:
        row = await self._database.read(lambda session: session.get(ActionRow, action_id))
        if row is None or row.state != "queued":
            return await run(self, action_id)
        attempt = OpenAttempt(
            row.id, row.attempts + 1, row.connection_id, row.type, row.payload, self._nodes.id, False,
            row.integration,
        )  # fmt: skip
        outcome = await self._try(attempt)

        def both(session: Any) -> None:
            if open_attempts(session, self._queue, self._registry, [action_id], self._nodes.id) != [None]:
                close(session, self._queue, self._registry, self._schedule, [(attempt, outcome)])

        return await self._database.write(both)

    runner.ActionRunner.run = unopened  # type: ignore[method-assign]


def key_per_attempt() -> None:
    """Every try of an action gives the provider another key."""
    from app.infra.ids import new_id
    from app.modules.actions import runner

    trace = runner.AttemptTrace
    fresh: Any = lambda **given: trace(**given | {"key": new_id("key")})  # noqa: E731
    runner.AttemptTrace = fresh


def never_asks() -> None:
    """A checkable action is sent again without asking the provider first."""
    from dataclasses import replace

    from app.modules.actions import runner

    open_attempts = runner.open_attempts

    def unasked(*given: Any) -> Any:
        return [opened and replace(opened, ask_first=False) for opened in open_attempts(*given)]

    runner.open_attempts = unasked


def synchronous_normal() -> None:
    """A commit is not followed by an fsync."""
    _synchronous("NORMAL")


def synchronous_off() -> None:
    """Nothing is followed by an fsync."""
    _synchronous("OFF")


def _synchronous(mode: str) -> None:
    from app.infra import sqlite

    sqlite._WRITER_PRAGMAS = tuple(
        f"PRAGMA synchronous={mode}" if pragma.startswith("PRAGMA synchronous") else pragma
        for pragma in sqlite._WRITER_PRAGMAS
    )


def error_on_full_disk() -> None:
    """What cannot be stored is an internal error."""
    from app import errors
    from app.modules.webhooks import ingress

    errors.HTTP_STATUS[errors.StorageUnavailable] = 500

    answer = ingress._answer

    async def blunt(send: Any, status: int, *given: Any, **more: Any) -> None:
        await answer(send, 500 if status == 503 else status, *given, **more)

    ingress._answer = blunt


def poison_stops_processing() -> None:
    """A body with a NUL in it stops the processing of everything behind it."""
    from app.modules.webhooks.processor import Processor

    parse = Processor._parse

    async def fragile(self: Processor, lease: Any, row: Any, *given: Any, **more: Any) -> Any:
        if b"\0" in row.body:
            raise RuntimeError("poisoned")
        return await parse(self, lease, row, *given, **more)

    Processor._parse = fragile  # type: ignore[method-assign]


def poison_breaks_ingress() -> None:
    """A header that is not ASCII is an internal error."""
    from app.modules.webhooks.ingress import WebhookIngress

    serve = WebhookIngress._serve

    async def fragile(self: WebhookIngress, scope: Any, receive: Any, send: Any) -> None:
        for _, value in scope["headers"]:
            value.decode("ascii")
        await serve(self, scope, receive, send)

    WebhookIngress._serve = fragile  # type: ignore[method-assign]


def unbounded_backlog() -> None:
    """All that waits is read at once."""
    from app.modules.webhooks import processor

    processor.PORTION = processor.PORTION_BUSY = 1_000_000
    processor.PORTION_BYTES = processor.MOST_BYTES = 1 << 40


def unbounded_claims() -> None:
    """All actions that wait are taken up at once."""
    from app.infra import queue

    claim = queue._settle_and_claim
    queue._settle_and_claim = lambda settled, free: claim(settled, 1_000_000)


def clock() -> None:
    """The time of day is off by what the file says."""
    file = Path(os.environ[CLOCK_VARIABLE])
    real, monotonic = time.time_ns, time.monotonic
    looked, off = 0.0, 0

    def moved() -> int:
        nonlocal looked, off
        if monotonic() - looked > 0.01:
            looked, off = monotonic(), int(float(file.read_text() or "0") * 1e9)
        return real() + off

    time.time_ns = moved
    time.time = lambda: moved() / 1e9


ALTERATIONS: dict[str, Callable[[], None]] = {
    change.__name__: change
    for change in (
        acknowledge_before_commit, dedupe_off, cursor_skips, feed_unlocked, retry_interrupted_once,
        result_before_send, attempt_not_opened, key_per_attempt, never_asks, synchronous_normal,
        synchronous_off, error_on_full_disk, poison_stops_processing, poison_breaks_ingress,
        unbounded_backlog, unbounded_claims, clock,
    )
}  # fmt: skip


if __name__ == "__main__":
    for name in filter(None, os.environ[VARIABLE].split(",")):
        ALTERATIONS[name]()

    from app.__main__ import main

    main()
