"""The work that goes on beside requests: processing, polling, actions, registration, retention."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import structlog
from sqlalchemy.orm import Session

from app.config import Settings
from app.errors import StorageUnavailable
from app.infra.clock import DAY_MS, now_ms
from app.infra.db import Database
from app.infra.queue import EmbeddedQueue
from app.modules.actions.gates import RUN
from app.modules.actions.runner import ActionRunner
from app.modules.actions.service import prune_actions
from app.modules.events.service import prune_events, prune_identities
from app.modules.integrations.registration import Registration
from app.modules.integrations.service import REGISTER, REMOVE
from app.modules.polling.poller import Poller
from app.modules.webhooks.processor import Processor
from app.modules.webhooks.service import prune_webhooks

log = structlog.get_logger()

RESTART_PAUSE = 1.0
LOOPS_STOP_SECONDS = 1.0
PRUNE_EVERY = 600.0
PRUNE_BATCH = 500
PRUNE_PAUSE = 0.05

Prune = Callable[[Session, int, int], int]


@dataclass
class Worker:
    """Everything that runs in the background of one process."""

    settings: Settings
    database: Database
    queue: EmbeddedQueue
    processor: Processor
    poller: Poller
    runner: ActionRunner
    registration: Registration
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        """Takes over what a dead process left, then starts all loops."""
        await self.processor.start()
        await self.runner.start()
        handlers = {
            RUN: self.runner.run,
            REGISTER: self.registration.register,
            REMOVE: self.registration.remove,
        }
        for name, loop in (
            ("processor", self.processor.run),
            ("poller", self.poller.run),
            ("actions", self.runner.sweep),
            ("queue", lambda: self.queue.run(handlers)),
            ("retention", self._prune_forever),
        ):
            self._tasks.append(asyncio.create_task(_keep_running(name, loop), name=name))

    async def stop(self) -> None:
        """Stops taking work up, and gives what is running `stop_timeout` seconds to end."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        if tasks:  # a connector that swallows its cancellation is left behind
            await asyncio.wait(tasks, timeout=max(self.settings.stop_timeout, LOOPS_STOP_SECONDS))
        await self.queue.drain(self.settings.stop_timeout)

    async def _prune_forever(self) -> None:
        while True:
            await self.prune()
            await asyncio.sleep(PRUNE_EVERY)

    async def prune(self) -> int:
        """Deletes what is older than the retention, in small batches; returns how much that was."""
        settings, now = self.settings, now_ms()
        plan: list[tuple[str, Prune, int]] = [
            ("webhooks", prune_webhooks, settings.retention_days),
            ("events", prune_events, settings.retention_days),
            ("identities", prune_identities, settings.dedupe_days),
            ("actions", prune_actions, settings.attempt_retention_days),
        ]
        total = 0
        for name, prune, days in plan:
            before = now - days * DAY_MS
            deleted = 0
            while count := await self.database.write(lambda s, p=prune, b=before: p(s, b, PRUNE_BATCH)):  # type: ignore[misc]
                deleted += count
                await asyncio.sleep(PRUNE_PAUSE)
            if deleted:
                log.info("pruned", what=name, count=deleted)
            total += deleted
        return total


async def _keep_running(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """Starts a loop anew when it fails: the rows are the truth, so nothing is lost by that."""
    while True:
        try:
            await loop()
        except StorageUnavailable as error:
            log.warning("storage_unavailable", loop=name, reason=error.message)
        except Exception:
            log.exception("loop_failed", loop=name)
        await asyncio.sleep(RESTART_PAUSE)
