"""The work queue's promises, as one suite for every adapter: see `WorkQueueConformance`."""

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import StorageUnavailable
from app.infra.clock import now_ms
from app.infra.db import Base, Database
from app.infra.queue import EmbeddedQueue, Handler, WorkItem, WorkQueue
from app.infra.sqlite import SqliteDatabase, writer_engine
from tests.support.platform import eventually


class RunningQueue(WorkQueue, Protocol):
    """The port, with what a worker needs of it."""

    async def run(self, handlers: Mapping[str, Handler]) -> None: ...

    async def drain(self, timeout: float) -> None: ...


class House(Protocol):
    """What an adapter's tests bring along."""

    database: Database

    def queue(self, concurrency: int = 8) -> RunningQueue:
        """A queue as a newly started process has it."""

    async def kill(self, queue: RunningQueue, running: asyncio.Task[None]) -> None:
        """Ends a queue as the death of its process would: nothing is noted, nothing is finished."""


@contextlib.asynccontextmanager
async def running(
    queue: RunningQueue, handlers: Mapping[str, Handler], *, drain: float = 5.0
) -> AsyncIterator[asyncio.Task[None]]:
    """Runs the queue as the worker does."""
    task = asyncio.create_task(queue.run(handlers))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await queue.drain(drain)


class Handled:
    """A handler that notes what it is called for."""

    def __init__(self) -> None:
        self.refs: list[str] = []
        self._news = asyncio.Event()

    async def __call__(self, ref: str) -> None:
        self.refs.append(ref)
        self._news.set()

    async def until(self, good: Callable[[list[str]], bool], timeout: float = 10.0) -> list[str]:
        async with asyncio.timeout(timeout):
            while not good(self.refs):
                self._news.clear()
                await self._news.wait()
        return self.refs


async def nothing_more(seconds: float = 0.15) -> None:
    """Time in which something that must not happen would have happened."""
    await asyncio.sleep(seconds)


class WorkQueueConformance:
    """Inherit, and give a fixture `house`."""

    async def put(self, house: House, queue: RunningQueue, *refs: str, kind: str = "k", at: int = 0) -> None:
        def unit(session: Session) -> None:
            for ref in refs:
                queue.put(session, kind, ref, at)

        await house.database.write(unit)

    async def test_what_is_put_is_handled_by_its_kind(self, house: House) -> None:
        queue, one, two = house.queue(), Handled(), Handled()
        await self.put(house, queue, "a", kind="one")
        async with running(queue, {"one": one, "two": two}):
            await self.put(house, queue, "b", kind="two")
            assert await one.until(bool) == ["a"]
            assert await two.until(bool) == ["b"]

    @pytest.mark.parametrize("first", [True, False])
    async def test_what_rolls_back_was_never_put(self, house: House, first: bool) -> None:
        queue, handled = house.queue(), Handled()

        def fails(session: Session) -> None:
            if not first:
                session.execute(select(1))
            queue.put(session, "k", "lost")
            if not first:
                session.flush()
            raise LookupError

        async with running(queue, {"k": handled}):
            with pytest.raises(LookupError):
                await house.database.write(fails)
            await self.put(house, queue, "kept")
            assert await handled.until(bool) == ["kept"]
            await nothing_more()
        assert handled.refs == ["kept"]

    async def test_what_was_handled_does_not_come_again(self, house: House) -> None:
        queue, handled = house.queue(), Handled()
        async with running(queue, {"k": handled}):
            await self.put(house, queue, "a", "b")
            await handled.until(lambda refs: len(refs) == 2)
        queue = house.queue()
        async with running(queue, {"k": handled}):
            await nothing_more()
        assert sorted(handled.refs) == ["a", "b"]

    async def test_what_a_killed_process_was_at_comes_again(self, house: House) -> None:
        queue, started = house.queue(), Handled()

        async def hangs(ref: str) -> None:
            await started(ref)
            await asyncio.Event().wait()

        task = asyncio.create_task(queue.run({"k": hangs}))
        await self.put(house, queue, "a", "b", "c")
        await started.until(lambda refs: len(refs) == 3)
        await house.kill(queue, task)

        queue, handled = house.queue(), Handled()
        async with running(queue, {"k": handled}):
            await handled.until(lambda refs: {"a", "b", "c"} <= set(refs))

    async def test_what_was_put_before_a_kill_comes(self, house: House) -> None:
        queue = house.queue()
        await self.put(house, queue, "a", "b")
        queue, handled = house.queue(), Handled()
        async with running(queue, {"k": handled}):
            assert sorted(await handled.until(lambda refs: len(refs) == 2)) == ["a", "b"]

    async def test_delayed_work_comes_at_its_time_and_holds_nothing_up(self, house: House) -> None:
        queue, handled, times = house.queue(concurrency=1), Handled(), {}

        async def note(ref: str) -> None:
            times[ref] = now_ms()
            await handled(ref)

        async with running(queue, {"k": note}):
            due = now_ms() + 300
            await self.put(house, queue, "later", at=due)
            await self.put(house, queue, "far", at=due + 3_600_000)
            await self.put(house, queue, "now")
            assert await handled.until(lambda refs: len(refs) == 2) == ["now", "later"]
            assert times["later"] >= due
            assert times["later"] < due + 2000

    async def test_work_that_fails_comes_again_later_and_holds_nothing_up(self, house: House) -> None:
        queue, handled, tries = house.queue(concurrency=1), Handled(), Counter[str]()

        async def fails_once(ref: str) -> None:
            tries[ref] += 1
            if ref == "bad" and tries[ref] == 1:
                raise RuntimeError("once")
            await handled(ref)

        async with running(queue, {"k": fails_once}):
            await self.put(house, queue, "bad")
            await self.put(house, queue, "good")
            assert await handled.until(bool) == ["good"]
            assert tries["bad"] == 1
            assert await handled.until(lambda refs: len(refs) == 2, 30) == ["good", "bad"]

    async def test_a_kind_that_nobody_handles_holds_nothing_up(self, house: House) -> None:
        """It was put by a newer version, perhaps."""
        queue, handled = house.queue(), Handled()
        await self.put(house, queue, "a", kind="of another age")
        await self.put(house, queue, "b")
        async with running(queue, {"k": handled}):
            await self.put(house, queue, "c")
            assert await handled.until(lambda refs: len(refs) == 2) == ["b", "c"]

    async def test_no_more_run_at_once_than_allowed(self, house: House) -> None:
        queue, now, most, handled = house.queue(concurrency=3), 0, 0, Handled()

        async def busy(ref: str) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.005)
            now -= 1
            await handled(ref)

        async with running(queue, {"k": busy}):
            await self.put(house, queue, *(str(number) for number in range(40)))
            await handled.until(lambda refs: len(refs) == 40)
        assert most == 3
        assert len(set(handled.refs)) == 40

    async def test_one_that_takes_long_does_not_hold_the_others_up(self, house: House) -> None:
        queue, handled, release = house.queue(concurrency=2), Handled(), asyncio.Event()

        async def slow(ref: str) -> None:
            if ref == "slow":
                await release.wait()
            await handled(ref)

        async with running(queue, {"k": slow}):
            await self.put(house, queue, "slow")
            for number in range(5):
                await self.put(house, queue, str(number))
            await handled.until(lambda refs: len(refs) == 5)
            release.set()
            assert (await handled.until(lambda refs: len(refs) == 6))[-1] == "slow"

    async def test_no_wake_up_is_lost(self, house: House) -> None:
        queue, handled = house.queue(), Handled()

        async def put_some(first: int) -> None:
            for number in range(first, first + 20):
                await self.put(house, queue, str(number))
                if number % 7 == 0:
                    await asyncio.sleep(0.001)

        async with running(queue, {"k": handled}):
            await asyncio.gather(*(put_some(first) for first in range(0, 1000, 20)))
            await handled.until(lambda refs: len(set(refs)) == 1000, 30)
            await nothing_more(0.05)
        assert Counter(handled.refs) == Counter(str(number) for number in range(1000))

    async def test_a_handler_may_put_more(self, house: House) -> None:
        queue, handled = house.queue(concurrency=1), Handled()

        async def chain(ref: str) -> None:
            if int(ref) < 5:
                await self.put(house, queue, str(int(ref) + 1))
            await handled(ref)

        async with running(queue, {"k": chain}):
            await self.put(house, queue, "0")
            assert await handled.until(lambda refs: len(refs) == 6) == list("012345")

    async def test_draining_waits_for_what_runs(self, house: House) -> None:
        queue, started, handled = house.queue(), asyncio.Event(), Handled()

        async def slow(ref: str) -> None:
            started.set()
            await asyncio.sleep(0.1)
            await handled(ref)

        async with running(queue, {"k": slow}):
            await self.put(house, queue, "a")
            await started.wait()
        assert handled.refs == ["a"]
        async with running(house.queue(), {"k": handled}):
            await nothing_more()
        assert handled.refs == ["a"]

    async def test_what_drains_too_slowly_is_cancelled_and_comes_again(self, house: House) -> None:
        queue, started, cancelled = house.queue(), asyncio.Event(), asyncio.Event()

        async def hangs(ref: str) -> None:
            started.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        before = time.monotonic()
        async with running(queue, {"k": hangs}, drain=0.05):
            await self.put(house, queue, "a")
            await started.wait()
        assert time.monotonic() - before < 10
        assert cancelled.is_set()
        handled = Handled()
        async with running(house.queue(), {"k": handled}):
            assert await handled.until(bool) == ["a"]


class EmbeddedHouse:
    def __init__(self, database: SqliteDatabase) -> None:
        self.database = database

    def queue(self, concurrency: int = 8) -> EmbeddedQueue:
        return EmbeddedQueue(self.database, concurrency=concurrency)

    async def kill(self, queue: Any, running: asyncio.Task[None]) -> None:
        tasks = [running, *queue._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class TestEmbeddedQueue(WorkQueueConformance):
    @pytest.fixture
    async def house(self, tmp_path: Path) -> AsyncIterator[EmbeddedHouse]:
        path = tmp_path / "queue.db"
        engine = writer_engine(path)
        Base.metadata.create_all(engine, tables=[WorkItem.__table__])  # type: ignore[list-item]
        engine.dispose()
        database = await SqliteDatabase.open(path)
        yield EmbeddedHouse(database)
        await database.close()

    async def left(self, house: EmbeddedHouse) -> int:
        return await house.database.read(
            lambda session: session.scalar(select(func.count()).select_from(WorkItem)) or 0
        )

    async def test_nothing_is_left_of_what_was_handled(self, house: EmbeddedHouse) -> None:
        queue, handled = house.queue(), Handled()
        async with running(queue, {"k": handled}):
            await self.put(house, queue, *(str(number) for number in range(100)))
            await handled.until(lambda refs: len(refs) == 100)
            assert await eventually(lambda: self.left(house), lambda count: count == 0) == 0

    async def test_work_that_keeps_failing_comes_ever_more_rarely(self, house: EmbeddedHouse) -> None:
        queue = house.queue()

        async def fails(ref: str) -> None:
            raise RuntimeError

        async def nothing(ref: str) -> None: ...

        async with running(queue, {"k": fails, "other": nothing}):
            await self.put(house, queue, "a")
            pauses: list[int] = []

            async def failures() -> int:
                def unit(session: Session) -> int:
                    item = session.scalars(select(WorkItem).where(WorkItem.ref == "a")).one()
                    return item.failures if item.claimed == 0 else -1

                return await house.database.read(unit)

            for times in range(1, 13):
                await eventually(failures, lambda seen, times=times: seen == times)

                def hasten(session: Session) -> int:
                    item = session.scalars(select(WorkItem).where(WorkItem.ref == "a")).one()
                    pause = item.not_before - now_ms()
                    item.not_before = 0
                    queue.put(session, "other", "wakes")
                    return pause

                pauses.append(await house.database.write(hasten))
        # What is left of a pause when it is looked at, so a little less than it was.
        assert 0 < pauses[0] <= 2000
        assert all(earlier < later + 2000 for earlier, later in itertools.pairwise(pauses))
        assert 290_000 < pauses[-1] <= 300_000

    async def test_a_loop_that_starts_anew_leaves_what_still_runs_alone(self, house: EmbeddedHouse) -> None:
        """The worker restarts it when the disk was full for a while."""
        queue, release, handled = house.queue(), asyncio.Event(), Handled()

        async def slow(ref: str) -> None:
            await handled(ref)
            await release.wait()

        first = asyncio.create_task(queue.run({"k": slow}))
        await self.put(house, queue, "a")
        await handled.until(bool)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        async with running(queue, {"k": slow}):
            await self.put(house, queue, "b")
            await handled.until(lambda refs: "b" in refs)
            await nothing_more()
            assert handled.refs == ["a", "b"]
            release.set()
        assert await self.left(house) == 0

    async def test_a_full_disk_at_the_end_is_no_crash(
        self, house: EmbeddedHouse, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue, handled = house.queue(), Handled()
        write: Callable[..., Awaitable[Any]] = house.database.write

        async def full(unit: Any) -> Any:
            raise StorageUnavailable("The disk is full.")

        async with running(queue, {"k": handled}):
            await self.put(house, queue, "a")
            await handled.until(bool)
            monkeypatch.setattr(house.database, "write", full)
        monkeypatch.setattr(house.database, "write", write)
        async with running(house.queue(), {"k": handled}):
            await eventually(lambda: self.left(house), lambda count: count == 0)
