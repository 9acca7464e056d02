"""The work queue's promises, kept by every adapter: see `TestWorkQueue`. Below is what concerns only one."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import pytest
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from pgqueuer.adapters.persistence.qb import QueryBuilderEnvironment
from pgqueuer.adapters.persistence.queries import Queries
from sqlalchemy import event, func, select, text, update
from sqlalchemy.orm import Session

from app.errors import StorageUnavailable
from app.infra import pgqueue
from app.infra.clock import now_ms
from app.infra.db import Base, Database
from app.infra.migrate import upgrade_postgres
from app.infra.pgqueue import PgQueuerQueue
from app.infra.postgres import PostgresDatabase
from app.infra.queue import EmbeddedQueue, Handler, WorkItem, WorkQueue
from app.infra.sqlite import SqliteDatabase, writer_engine
from tests.support.platform import eventually
from tests.support.postgres import PostgresServer

ROOT = Path(__file__).parents[2]


class House(Protocol):
    """What an adapter's tests bring along."""

    database: Database
    heartbeat: float
    """Seconds of silence after which a worker counts as dead, or a bit more than nothing."""
    worker: tuple[str, str]
    """What a worker process is told: see `queue_worker`."""
    shared: bool
    """Whether several processes may work at once."""

    def queue(self, concurrency: int = 8) -> WorkQueue:
        """A queue as a newly started process has it."""

    async def kill(self, queue: Any, running: asyncio.Task[None]) -> None:
        """Ends a queue as the death of its process would: nothing is noted, nothing is finished."""

    async def left(self) -> int:
        """How many wake-ups are stored."""

    async def waiting(self, ref: str) -> tuple[int, int]:
        """A wake-up's failures, and the milliseconds that it still has to wait; (-1, 0) if it does not."""

    async def hasten(self, ref: str) -> None:
        """Makes a wake-up due."""

    async def storage_fails(self, queue: Any) -> None:
        """What has been handled cannot be noted any more."""

    async def storage_works(self) -> None: ...


@contextlib.asynccontextmanager
async def running(
    queue: WorkQueue, handlers: Mapping[str, Handler], *, drain: float = 5.0
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


class Worker:
    """A worker in a process of its own. What its environment holds must not matter to it."""

    def __init__(self, house: House, how: str = "hang", seconds: float = 0) -> None:
        hostile = dict.fromkeys(("CHANNEL", "TRIGGER", "QUEUE_TABLE", "PGQUEUER_PREFIX"), "nonsense")
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "tests.infra.queue_worker", *house.worker, str(house.heartbeat), how,
                str(seconds),
            ],
            stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | hostile,
        )  # fmt: skip

    async def says(self) -> str:
        assert self._process.stdout is not None
        return (await asyncio.to_thread(self._process.stdout.readline)).strip()

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)

    async def __aenter__(self) -> "Worker":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.kill()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture(params=["embedded on SQLite", "PgQueuer on PostgreSQL"])
def open_house(
    request: pytest.FixtureRequest, tmp_path: Path
) -> "contextlib.AbstractAsyncContextManager[House]":
    if request.param == "embedded on SQLite":
        return embedded_house(tmp_path)
    return pgqueuer_house(request.getfixturevalue("work_database"))


class TestWorkQueue:
    @pytest.fixture
    async def house(self, open_house: contextlib.AbstractAsyncContextManager[House]) -> AsyncIterator[House]:
        async with open_house as house:
            yield house

    async def put(self, house: House, queue: WorkQueue, *refs: str, kind: str = "k", at: int = 0) -> None:
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

    async def test_what_rolls_back_to_a_savepoint_was_never_put(self, house: House) -> None:
        queue, handled = house.queue(), Handled()

        def unit(session: Session) -> None:
            queue.put(session, "k", "before")
            with session.begin_nested():
                queue.put(session, "k", "released")
            with suppress(LookupError), session.begin_nested():
                queue.put(session, "k", "lost")
                with session.begin_nested():
                    queue.put(session, "k", "lost too")
                raise LookupError
            queue.put(session, "k", "after")

        async with running(queue, {"k": handled}):
            await house.database.write(unit)
            await handled.until(lambda refs: len(refs) == 3)
            await nothing_more()
        assert sorted(handled.refs) == ["after", "before", "released"]

    async def test_many_may_be_put_at_once(self, house: House) -> None:
        queue, handled = house.queue(), Handled()
        async with running(queue, {"k": handled}):
            await self.put(house, queue, *(str(number) for number in range(1000)))
            await handled.until(lambda refs: len(refs) >= 1000, 30)
        assert Counter(handled.refs) == Counter(str(number) for number in range(1000))
        assert await house.left() == 0

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

    async def test_another_takes_over_what_a_killed_worker_was_at(self, house: House) -> None:
        queue, handled = house.queue(), Handled()
        await self.put(house, queue, "a", "b", "c")
        async with Worker(house) as worker, contextlib.AsyncExitStack() as stack:
            assert {await worker.says() for _ in range(3)} == {"a", "b", "c"}
            if house.shared:
                # As long as it gives signs of life, nobody takes anything from it.
                await stack.enter_async_context(running(queue, {"k": handled}))
                await nothing_more(house.heartbeat * 2.5)
                assert handled.refs == []
            worker.kill()
            killed = time.monotonic()
            if not house.shared:
                await stack.enter_async_context(running(queue, {"k": handled}))
            await handled.until(lambda refs: len(refs) == 3)
            # When its silence is noticed, and the next look after that.
            assert time.monotonic() - killed < house.heartbeat + pgqueue.POLL.total_seconds() + 2
        assert sorted(handled.refs) == ["a", "b", "c"]
        assert await house.left() == 0

    async def test_a_loop_that_stood_still_goes_on(self, house: House) -> None:
        """Longer than the heartbeat, so that what runs counts as abandoned, also to itself."""
        queue, handled = house.queue(), Handled()

        async def stands_still(ref: str) -> None:
            if ref == "a":
                time.sleep(house.heartbeat * 1.5)
                await asyncio.sleep(0.05)
                time.sleep(house.heartbeat * 1.5)
            await handled(ref)

        async with running(queue, {"k": stands_still}):
            await self.put(house, queue, "a", "b", "c")
            await handled.until(lambda refs: {"a", "b", "c"} <= set(refs))
            await self.put(house, queue, "d")
            await handled.until(lambda refs: "d" in refs)
            assert await eventually(house.left, lambda count: count == 0) == 0
        assert sorted(handled.refs) == ["a", "b", "c", "d"]

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

    @pytest.mark.parametrize("allowed", [1, 3])
    async def test_no_more_run_at_once_than_allowed(self, house: House, allowed: int) -> None:
        queue, now, most, handled = house.queue(concurrency=allowed), 0, 0, Handled()

        async def busy(ref: str) -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.02)
            now -= 1
            await handled(ref)

        async with running(queue, {"k": busy}):
            await self.put(house, queue, *(str(number) for number in range(40)))
            await handled.until(lambda refs: len(refs) == 40)
        assert most == allowed
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
            await asyncio.gather(*(put_some(first) for first in range(0, 600, 20)))
            await handled.until(lambda refs: len(set(refs)) == 600, 30)
            await nothing_more(0.05)
        assert Counter(handled.refs) == Counter(str(number) for number in range(600))

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

    async def test_a_loop_that_starts_anew_leaves_what_still_runs_alone(self, house: House) -> None:
        """The worker restarts it when the storage was unavailable for a while."""
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
        assert await house.left() == 0

    async def test_nothing_is_left_of_what_was_handled(self, house: House) -> None:
        queue, handled = house.queue(), Handled()
        async with running(queue, {"k": handled}):
            await self.put(house, queue, *(str(number) for number in range(100)))
            await handled.until(lambda refs: len(refs) == 100)
            assert await eventually(house.left, lambda count: count == 0) == 0

    async def test_work_that_keeps_failing_comes_ever_more_rarely(self, house: House) -> None:
        queue = house.queue()

        async def fails(ref: str) -> None:
            raise RuntimeError

        async def nothing(ref: str) -> None: ...

        pauses: list[int] = []
        async with running(queue, {"k": fails, "other": nothing}):
            await self.put(house, queue, "a")
            for times in range(1, 13):
                _, pause = await eventually(
                    lambda: house.waiting("a"), lambda seen, times=times: seen[0] == times
                )
                pauses.append(pause)
                await house.hasten("a")
                await self.put(house, queue, "wakes", kind="other")
        # What is left of a pause when it is looked at, so a little less than it was.
        assert 0 < pauses[0] <= 2000
        assert all(earlier < later + 2000 for earlier, later in itertools.pairwise(pauses))
        assert 290_000 < pauses[-1] <= 300_000

    async def test_storage_that_fails_at_the_end_is_no_crash(self, house: House) -> None:
        queue, handled = house.queue(), Handled()
        async with running(queue, {"k": handled}):
            await self.put(house, queue, "a")
            await handled.until(bool)
            await house.storage_fails(queue)
        await house.storage_works()
        async with running(house.queue(), {"k": handled}):
            await eventually(house.left, lambda count: count == 0)


class EmbeddedHouse:
    heartbeat = 0.2
    shared = False

    def __init__(self, database: SqliteDatabase, path: Path) -> None:
        self.database = database
        self.worker = ("sqlite", str(path))
        self._write: Callable[..., Awaitable[Any]] = database.write

    def queue(self, concurrency: int = 8) -> EmbeddedQueue:
        return EmbeddedQueue(self.database, concurrency=concurrency)

    async def kill(self, queue: Any, running: asyncio.Task[None]) -> None:
        tasks = [running, *queue._running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def left(self) -> int:
        return await self.database.read(
            lambda session: session.scalar(select(func.count()).select_from(WorkItem)) or 0
        )

    async def waiting(self, ref: str) -> tuple[int, int]:
        def unit(session: Session) -> tuple[int, int]:
            item = session.scalars(select(WorkItem).where(WorkItem.ref == ref)).one()
            return (-1, 0) if item.claimed else (item.failures, item.not_before - now_ms())

        return await self.database.read(unit)

    async def hasten(self, ref: str) -> None:
        due = update(WorkItem).where(WorkItem.ref == ref).values(not_before=0)
        await self.database.write(lambda session: session.execute(due))

    async def storage_fails(self, queue: Any) -> None:
        async def full(unit: Any) -> Any:
            raise StorageUnavailable("The disk is full.")

        self.database.write = full  # type: ignore[method-assign]

    async def storage_works(self) -> None:
        self.database.write = self._write  # type: ignore[method-assign]


@contextlib.asynccontextmanager
async def embedded_house(folder: Path) -> AsyncIterator[EmbeddedHouse]:
    path = folder / "queue.db"
    engine = writer_engine(path)
    Base.metadata.create_all(engine, tables=[WorkItem.__table__])  # type: ignore[list-item]
    engine.dispose()
    database = await SqliteDatabase.open(path)
    try:
        yield EmbeddedHouse(database, path)
    finally:
        await database.close()


class PgQueuerHouse:
    heartbeat = 1.0
    shared = True

    def __init__(self, database: PostgresDatabase) -> None:
        self.database = database
        self.worker = ("postgres", database.url)

    def queue(self, concurrency: int = 8) -> PgQueuerQueue:
        return PgQueuerQueue(
            self.database, self.database.url, concurrency=concurrency, heartbeat=self.heartbeat
        )

    async def kill(self, queue: Any, running: asyncio.Task[None]) -> None:
        queue._pool.terminate()
        tasks = [running, *queue._loops, *queue._calls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def left(self) -> int:
        return await self.database.read(lambda session: session.scalar(text("SELECT count(*) FROM pgqueuer")))

    async def waiting(self, ref: str) -> tuple[int, int]:
        def unit(session: Session) -> tuple[int, int]:
            row = session.execute(
                text(
                    "SELECT status::text, attempts, extract(epoch FROM execute_after - now()) AS pause "
                    "FROM pgqueuer WHERE payload = :ref"
                ),
                {"ref": ref.encode()},
            ).one()
            return (row.attempts, int(row.pause * 1000)) if row.status == "queued" else (-1, 0)

        return await self.database.read(unit)

    async def hasten(self, ref: str) -> None:
        due = text("UPDATE pgqueuer SET execute_after = now() WHERE payload = :ref")
        await self.database.write(lambda session: session.execute(due, {"ref": ref.encode()}))

    async def storage_fails(self, queue: Any) -> None:
        queue._pool.terminate()

    async def storage_works(self) -> None: ...


@contextlib.asynccontextmanager
async def pgqueuer_house(url: str) -> AsyncIterator[PgQueuerHouse]:
    database = await PostgresDatabase.open(url)
    await database.write(lambda session: session.execute(text("TRUNCATE pgqueuer")))
    try:
        yield PgQueuerHouse(database)
    finally:
        await database.close()


@pytest.fixture(scope="module")
def work_database(postgres: PostgresServer) -> str:
    """One for all of them: making each its own would take longer than the tests."""
    url = postgres.create_database()
    asyncio.run(upgrade_postgres(url, allow_superuser=False))
    return url


class TestPgQueuerQueue:
    @pytest.fixture
    async def house(self, work_database: str) -> AsyncIterator[PgQueuerHouse]:
        async with pgqueuer_house(work_database) as house:
            yield house

    put = TestWorkQueue.put

    async def test_its_schema_is_what_the_installed_version_declares(self, house: PgQueuerHouse) -> None:
        """When this fails after an upgrade of PgQueuer, the plan's statements are the next migration."""
        connection = await asyncpg.connect(house.database.url)
        queries = Queries(AsyncpgDriver(connection), QueryBuilderEnvironment(pgqueue.SCHEMA))
        plan = await queries.plan_upgrade()
        await connection.close()
        assert plan.statements == ()

    async def test_many_puts_are_one_statement(self, house: PgQueuerHouse) -> None:
        queue, statements = house.queue(), []

        def unit(session: Session) -> None:
            engine = session.get_bind()
            event.listen(engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
            for number in range(1000):
                queue.put(session, "k", str(number), now_ms() + 10_000 * (number % 2))

        await house.database.write(unit)
        assert sum("INSERT INTO pgqueuer" in statement for statement in statements) == 1
        assert len(statements) <= 2
        assert await house.left() == 1000

    async def test_no_log_is_kept(self, house: PgQueuerHouse) -> None:
        queue, handled = house.queue(), Handled()

        async def fails_once(ref: str) -> None:
            await handled(ref)
            if len(handled.refs) == 1:
                raise RuntimeError

        async with running(queue, {"k": fails_once}):
            await self.put(house, queue, "a")
            await handled.until(lambda refs: len(refs) == 2)
        for table in ("pgqueuer_log", "pgqueuer_statistics"):
            count = text(f"SELECT count(*) FROM {table}")
            assert await house.database.read(lambda session, count=count: session.scalar(count)) == 0

    @pytest.mark.parametrize("node", ["this", "another"])
    async def test_no_wake_up_is_lost_although_nobody_looks(
        self, house: PgQueuerHouse, monkeypatch: pytest.MonkeyPatch, node: str
    ) -> None:
        """The look once a second would hide it."""
        monkeypatch.setattr(pgqueue, "POLL", timedelta(seconds=60))
        queue, handled = house.queue(concurrency=2), Handled()
        another = await PostgresDatabase.open(house.database.url)
        puts = house.database if node == "this" else another
        async with running(queue, {"k": handled}):
            for number in range(200):
                await puts.write(lambda session, number=number: queue.put(session, "k", str(number)))
                if number % 3:
                    await handled.until(lambda refs, number=number: len(refs) == number + 1)
                    # Any moment from "still at it" to "waits".
                    await asyncio.sleep(random.choice((0, 0.001, 0.003, 0.01)))
            await handled.until(lambda refs: len(refs) == 200)
        await another.close()

    async def test_what_two_workers_share_is_handled_once(self, house: PgQueuerHouse) -> None:
        queues, handled = [house.queue(), house.queue()], Handled()
        async with running(queues[0], {"k": handled}), running(queues[1], {"k": handled}):
            for first in range(0, 500, 50):
                await self.put(house, queues[0], *(str(number) for number in range(first, first + 50)))
            await handled.until(lambda refs: len(refs) >= 500, 30)
            await nothing_more()
        assert Counter(handled.refs) == Counter(str(number) for number in range(500))

    async def test_what_stands_still_is_taken_over_and_does_no_harm(self, house: PgQueuerHouse) -> None:
        queue, handled = house.queue(), Handled()
        await self.put(house, queue, "a")
        async with Worker(house, "block", house.heartbeat * 4) as worker:
            assert await worker.says() == "a"
            async with running(queue, {"k": handled}):
                assert await handled.until(bool) == ["a"]  # while it stands still
                assert await house.left() <= 1
                assert await worker.says() == "a"  # it goes on, and is done a second time
                assert await eventually(house.left, lambda count: count == 0) == 0
            await self.put(house, queue, "b")
            assert await worker.says() == "b"  # and goes on

    async def test_what_is_cancelled_from_outside_comes_again(self, house: PgQueuerHouse) -> None:
        """PgQueuer would delete it. The end of an event loop cancels everything in it."""
        queue, started, handled = house.queue(), Handled(), Handled()

        async def hangs(ref: str) -> None:
            await started(ref)
            await asyncio.Event().wait()

        task = asyncio.create_task(queue.run({"k": hangs}))
        await self.put(house, queue, "a")
        await started.until(bool)
        theirs = [each for each in asyncio.all_tasks() if "QueueManager" in each.get_coro().__qualname__]
        assert len(theirs) > 1
        for each in (task, *theirs):
            each.cancel()
        await asyncio.gather(task, *theirs, return_exceptions=True)
        await queue.drain(0)
        assert await house.left() == 1
        async with running(house.queue(), {"k": handled}):
            assert await handled.until(bool) == ["a"]

    async def test_a_handler_that_cancels_itself_has_failed(self, house: PgQueuerHouse) -> None:
        queue, handled = house.queue(), Handled()

        async def cancels_itself(ref: str) -> None:
            await handled(ref)
            if len(handled.refs) == 1:
                raise asyncio.CancelledError

        async with running(queue, {"k": cancels_itself}):
            await self.put(house, queue, "a")
            await handled.until(lambda refs: len(refs) == 2)
        assert await house.left() == 0

    async def test_a_server_that_restarts_costs_no_work(self) -> None:
        server = PostgresServer()
        url = server.create_database()
        await upgrade_postgres(url, allow_superuser=False)
        async with pgqueuer_house(url) as house:
            queue, handled, release = house.queue(), Handled(), asyncio.Event()

            async def slow(ref: str) -> None:
                await handled(ref)
                if ref == "slow":
                    await release.wait()

            task = asyncio.create_task(queue.run({"k": slow}))
            await self.put(house, queue, "slow")
            await self.put(house, queue, "later", at=now_ms() + 1000)
            await handled.until(bool)
            server.stop(signal.SIGQUIT)
            with pytest.raises(StorageUnavailable, match="work queue"):
                await asyncio.wait_for(task, 5)
            with pytest.raises(StorageUnavailable, match="work queue"):
                await queue.run({"k": slow})
            server.start()
            async with running(queue, {"k": slow}):
                await handled.until(lambda refs: "later" in refs)
                release.set()
                await eventually(house.left, lambda count: count == 0)
        server.close()
        assert handled.refs == ["slow", "later"]
