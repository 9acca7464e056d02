"""Calls that end at their deadline, also those that do not want to."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger()

T = TypeVar("T")

GRACE = 1.0
"""Seconds that a cancelled call gets to end."""


class Overtime(Exception):
    """The call has taken longer than it may. Not a TimeoutError: those are what a call may raise itself."""


_left_behind: set[asyncio.Task[Any]] = set()
"""The event loop itself holds tasks weakly."""


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns or raises, in at most `seconds`. Raises Overtime.

    Work that ignores its cancellation is left behind. It ends when it likes; nobody hears what became of it.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait([task], timeout=max(seconds, 0.0))
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=GRACE)
    except asyncio.CancelledError:
        task.cancel()
        _leave(task)
        raise
    if not task.done():
        log.warning("call_left_behind", seconds=seconds)
        _leave(task)
        raise Overtime
    if task.cancelled():
        raise Overtime
    return task.result()


def _leave(task: asyncio.Task[Any]) -> None:
    _left_behind.add(task)
    task.add_done_callback(_ended)


def _ended(task: asyncio.Task[Any]) -> None:
    _left_behind.discard(task)
    if not task.cancelled():
        task.exception()  # or the loop would log it, and it may quote anything
