"""Places at which a test can have this process die, as by a power cut: named, and listed in POINTS.

For testing only, and off unless two variables say so at the start: TRUNKLINE_TESTING=failpoints, and
TRUNKLINE_FAILPOINT=<name> or <name>:<n>, which kills the process as it comes to that place for the nth time.
Off, a point costs one look at a module's variable.
"""

import itertools
import os
import signal
from collections.abc import Callable, Mapping

from app.errors import StartupError

POINTS = {
    "sqlite.before_commit": "everything of a batch is written, nothing of it is committed",
    "sqlite.after_commit": "the batch is on disk, nobody has been told",
    "webhook.before_acknowledgement": "the webhook is on disk, its sender has no answer",
    "webhook.after_acknowledgement": "the answer is with the operating system, processing has not begun",
    "processor.before_settle": "connectors have made events, none is stored",
    "processor.after_settle": "events and the webhooks' states are stored",
    "poll.before_store": "the source has answered, neither items nor cursor are stored",
    "poll.after_store": "items, events and cursor are stored",
    "queue.before_claim": "handlers have ended, their wake-ups are not settled",
    "queue.after_claim": "wake-ups are settled and claimed, none is handled",
    "action.opened": "the attempt is on disk as open, nothing has been sent",
    "action.answered": "the connector has ended, the outcome is not stored",
    "action.closed": "the outcome is on disk, the wake-up is not settled",
}
"""Every point, and what holds there."""

NAME, GUARD, ARMED = "TRUNKLINE_FAILPOINT", "TRUNKLINE_TESTING", "failpoints"

_watch: Callable[[str], None] | None = None


def failpoint(name: str) -> None:
    """The process may die here."""
    if _watch is not None:
        _watch(name)


def variables(environment: Mapping[str, str]) -> set[str]:
    """The variables that mean something here and now."""
    return {NAME, GUARD} if environment.get(GUARD) == ARMED else set()


def arm(environment: Mapping[str, str]) -> str | None:
    """Arms the point that the environment names, if it may; returns its name.

    Raises StartupError if there is no such point.
    """
    global _watch  # noqa: PLW0603 - it is a property of the process
    _watch = None
    wanted = environment.get(NAME)
    if not wanted or NAME not in variables(environment):
        return None
    name, _, nth = wanted.partition(":")
    if name not in POINTS or not (nth or "1").isdigit():
        raise StartupError(
            f"{NAME} names no point.",
            remedy=f"Unset it, or name one of {', '.join(POINTS)}, perhaps with :<n>.",
        )
    left = itertools.count(int(nth or "1") - 1, -1)

    def watch(passed: str) -> None:
        if passed == name and next(left) <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    _watch = watch
    return name
