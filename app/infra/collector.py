"""How hard the garbage collector looks.

A start makes some two hundred thousand objects, and nearly all of them stay: classes, functions, models.
Looking through them for garbage over and over, at Python's own thresholds, took a sixth of the start; looking
through them again while requests are answered is what makes acknowledgements late. So the collector hardly
looks while a process starts, and afterwards only at what came since.

What the start itself left behind, some eight thousand objects in cycles, is kept: finding them takes more
than a tenth of a second, and they are a megabyte or two. A command that never serves collects as seldom as a
start does, so it may hold some tens of megabytes more.
"""

import gc


def start_without() -> None:
    """For the moment that a process begins, before anything is imported."""
    gc.set_threshold(500_000, 10, 10)


def spare_what_is_there() -> None:
    """For the moment that a process is ready: what exists now is never looked at again, and what requests
    leave behind seldom."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
