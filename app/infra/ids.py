"""Identifiers that sort by time: `whk_` + 12 hex digits of milliseconds + 20 of randomness."""

import os
import time


def new_id(prefix: str) -> str:
    return f"{prefix}_{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"
