"""What must hold after a crash, as pure functions: each returns the faults it finds, in words."""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

T = TypeVar("T", bound=Hashable)

MOST_NAMED = 5


def feed_faults(
    sent: Mapping[str, Any], acknowledged: Collection[str], feed: Iterable[tuple[str, Any]]
) -> list[str]:
    """`sent` is everything that was ever sent, by key, with its content; `feed` what came out, likewise.

    What was acknowledged is there; nothing is there twice, altered, or without having been sent.
    """
    came_out = list(feed)
    keys = Counter(key for key, _ in came_out)
    return [
        *_named("acknowledged and lost", (key for key in acknowledged if key not in keys)),
        *_named("there more than once", (key for key, count in keys.items() if count > 1)),
        *_named("there and never sent", (key for key in keys if key not in sent)),
        *_named("altered", (key for key, content in came_out if key in sent and sent[key] != content)),
    ]


def order_faults(numbers: Sequence[int]) -> list[str]:
    """The numbers of one sender, who sent them one after the other."""
    wrong = (f"{after} after {before}" for before, after in pairwise(numbers) if after <= before)
    return _named("out of order", wrong)


def walk_faults(seen: Sequence[int], there: Sequence[int]) -> list[str]:
    """The cursors that a reader saw while they were written, and all that there are in the end."""
    known = set(seen)
    return [
        *order_faults(seen),
        *_named("skipped", (str(cursor) for cursor in there if cursor not in known)),
        *_named("seen and gone", (str(cursor) for cursor in sorted(known.difference(there)))),
    ]


@dataclass(frozen=True)
class Done:
    """What the platform says became of an action: `ref` names its effect."""

    ref: str
    state: str
    effect: str


def action_faults(
    acknowledged: Collection[str], actions: Iterable[Done], effects: Mapping[str, int]
) -> list[str]:
    """`acknowledged` are the refs of requested actions, `effects` how often each happened at the provider.

    Every one of them is one action that has ended; what it says about its effect is true, and none happened
    twice: not once, not by a key that the provider knows, not where it could be asked.
    """
    known = list(actions)
    counts = Counter(action.ref for action in known)
    return [
        *_named("acknowledged and lost", (ref for ref in acknowledged if ref not in counts)),
        *_named("requested once, there twice", (ref for ref, count in counts.items() if count > 1)),
        *_named("effect without an action", (ref for ref in effects if ref not in counts)),
        *_named("not ended", (f"{a.ref} ({a.state})" for a in known if a.state in ("queued", "running"))),
        *_named("happened twice", (a.ref for a in known if effects.get(a.ref, 0) > 1)),
        *_named(
            "succeeded without effect",
            (a.ref for a in known if a.state == "succeeded" and effects.get(a.ref, 0) < 1),
        ),
        *_named(
            "failed with effect",
            (a.ref for a in known if a.state in ("failed", "cancelled") and effects.get(a.ref, 0) > 0),
        ),
    ]


def _named(fault: str, keys: Iterable[str]) -> list[str]:
    """One sentence for a fault, with the first of those that it concerns."""
    found = list(keys)
    if not found:
        return []
    more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
    return [f"{fault}: {', '.join(found[:MOST_NAMED])}{more}"]
