"""Identifiers that sort by time: `whk_` + 12 hex digits of milliseconds + 20 of randomness."""

import os

from .clock import now_ms


def new_id(prefix: str) -> str:
    """A new id."""
    return f"{prefix}_{now_ms():012x}{os.urandom(10).hex()}"


def id_at(prefix: str, milliseconds: int) -> str:
    """A text that sorts before every id made at that time or later, and after those made before."""
    return f"{prefix}_{milliseconds:012x}"
