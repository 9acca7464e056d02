"""Time as it is stored (milliseconds since 1970, UTC) and as it is shown (RFC 3339).

It is the machine's time. Nodes over one database have one time, the database's: where a machine's clock is
off from it, `follow` corrects it. Deadlines, limits, turns and the retention are in rows that all of them
read, so one wrong clock would delay, expire and delete what is everybody's.
"""

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated

from pydantic import PlainSerializer, WithJsonSchema

TOLERATED_MS = 1000
"""How far this machine's clock may be off before it is corrected."""

_correction = 0


def now_ms() -> int:
    return machine_ms() + _correction


def machine_ms() -> int:
    """This machine's own time, corrected by nobody."""
    return time.time_ns() // 1_000_000


def follow(theirs: int, asked: int) -> bool:
    """Goes by another clock, which says `theirs` to a question of `asked` (by `machine_ms`), from now on, if
    `now_ms` is off from it. Returns whether it was.

    A clock that is nearly right is left alone: the way to the other one takes time, too.
    """
    global _correction  # noqa: PLW0603 - a process has one time
    took = machine_ms() - asked
    if not 0 <= took <= TOLERATED_MS:  # it stood still or jumped in between: this tells nothing
        return False
    difference = theirs - (asked + took // 2)
    if abs(difference - _correction) <= TOLERATED_MS:
        return False
    _correction = difference if abs(difference) > TOLERATED_MS else 0
    return True


def correction_ms() -> int:
    """What is added to the machine's time."""
    return _correction


def rfc3339(milliseconds: int) -> str:
    return f"{_second(milliseconds // 1000)}.{milliseconds % 1000:03d}Z"


@lru_cache(maxsize=1024)
def _second(seconds: int) -> str:
    # Lists show many times of few seconds.
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


Instant = Annotated[
    int,
    PlainSerializer(rfc3339, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}, mode="serialization"),
]
"""A stored time that is shown as RFC 3339."""

DAY_MS = 24 * 3600 * 1000

LAST_MS = 253_402_300_799_999
"""The end of the year 9999: later than that, no time can be shown."""
