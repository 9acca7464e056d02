"""When an action is tried again."""

import random
from dataclasses import dataclass

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 3600.0
"""Seconds: the upper ends of the first pause between two tries and of the last, doubling in between."""

AFTER_RETRY_AFTER = 1.0
"""Seconds at most that are added to what the provider asked for, so that not everybody comes back at once."""


@dataclass(frozen=True)
class Schedule:
    """How long an action is tried.

    attempts  tries in all
    lifetime  seconds after its run_at in which a try may begin, unless the action has a deadline of its own
    """

    attempts: int
    lifetime: float

    def pause(self, tried: int, retry_after: float | None) -> float | None:
        """Seconds until the next try after `tried` tries; None if there is to be none.

        Exponential backoff with full jitter; the provider's own Retry-After takes its place, unless that is
        none at all: a provider that always says 0 would use all tries up in seconds.
        """
        if tried >= self.attempts:
            return None
        if retry_after:
            return retry_after + random.uniform(0.0, AFTER_RETRY_AFTER)  # noqa: S311 - jitter
        return random.uniform(0.0, min(FIRST_PAUSE * 2.0 ** (tried - 1), LONGEST_PAUSE))  # noqa: S311
