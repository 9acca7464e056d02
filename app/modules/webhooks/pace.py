"""How fast webhooks are processed while others are acknowledged: senders time out, the backlog does not."""

import asyncio
import time
from collections.abc import Callable

PAUSE_RATIO = 200.0
"""Seconds of pause per second of parsing. Reading and settling small portions, in threads that take turns at
the interpreter, costs several times as much as parsing them: at 50, acknowledgements were a tenth fewer."""

LONGEST_PAUSE = 0.25
"""Whatever a handler waits for: a backlog goes on, also under a load that never ends."""

LONGEST_EACH = 0.001
"""Seconds. A handler that takes longer for a webhook is waiting, not computing."""

LOOK_SECONDS = 0.02
"""How soon the end of the load is noticed."""


class Pace:
    """One for all connections: their number does not make processing greedier."""

    def __init__(self, busy: Callable[[], bool]) -> None:
        self.busy = busy
        self._each = 0.0001
        self._not_before = 0.0

    def parsed(self, number: int, seconds: float) -> None:
        """Learns what parsing costs."""
        self._each += (min(seconds / number, LONGEST_EACH) - self._each) / 8

    def spend(self, number: int) -> None:
        """So many webhooks are about to be processed."""
        pause = min(number * self._each * PAUSE_RATIO, LONGEST_PAUSE)
        self._not_before = time.monotonic() + pause

    async def turn(self) -> bool:
        """Waits until more may be processed; whether acknowledgements are still being given."""
        while busy := self.busy():
            left = self._not_before - time.monotonic()
            if left <= 0:
                break
            await asyncio.sleep(min(left, LOOK_SECONDS))
        return busy
