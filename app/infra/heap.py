"""How many heaps the C library keeps.

glibc gives threads heaps of their own, up to eight for each core, and what one thread frees no other can use.
Bodies pass from the thread that reads them to the one that parses and to the one that stores them: processing
a backlog for 32 connections took 60 MB more with several heaps than with one.
"""

import contextlib
import ctypes

_M_ARENA_MAX = -8
"""From glibc's malloc.h; mallopt(3)."""


def share_one() -> None:
    """For the moment that a process begins, before there are threads. Other C libraries have one anyway, or
    go their own way: nothing is done there."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
