"""Time as it is stored (milliseconds since 1970, UTC) and as it is shown (RFC 3339)."""

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated

from pydantic import PlainSerializer, WithJsonSchema


def now_ms() -> int:
    return time.time_ns() // 1_000_000


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
