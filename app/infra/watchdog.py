"""Ends calls that take too long, at almost no cost for those that do not."""

import asyncio
import math
from collections.abc import Awaitable
from types import TracebackType
from typing import Self, TypeVar

T = TypeVar("T")


class Watchdog:
    """For many short calls, one after the other, in one task: `run` raises TimeoutError after `seconds`.

    The calls share one timer, which looks when it fires how long the present call has been running. So a
    call costs no timer of its own, which is most of what a timeout around a short call costs.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._deadline = math.inf
        self._barked = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self.seconds, self._look)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()

    async def run(self, work: Awaitable[T]) -> T:
        """Awaits `work`, at most `seconds`."""
        self._deadline = self._loop.time() + self.seconds
        try:
            return await work
        except asyncio.CancelledError:
            if self._barked and self._task.uncancel() == 0:  # nobody else wanted the task to end
                raise TimeoutError from None
            raise
        finally:
            self._deadline = math.inf
            self._barked = False

    def _look(self) -> None:
        now = self._loop.time()
        if now >= self._deadline:
            self._deadline = math.inf
            self._barked = True
            self._task.cancel()
        self._timer = self._loop.call_at(min(self._deadline, now + self.seconds), self._look)
