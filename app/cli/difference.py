"""What is different between two events, field by field."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .output import summary

MOST_LINES = 40
_WIDEST_FIELD = 40
_PLAIN = re.compile(r"[A-Za-z_][\w-]*")
_MARKS = {"added": "+", "removed": "-", "changed": "~"}


@dataclass(frozen=True)
class Change:
    """One field: `added`, `removed` or `changed`."""

    kind: str
    field: str
    before: Any = None
    after: Any = None

    def as_json(self) -> dict[str, Any]:
        sides = {"added": ["after"], "removed": ["before"]}.get(self.kind, ["before", "after"])
        return {"change": self.kind, "field": self.field} | {side: getattr(self, side) for side in sides}


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    """The changes from one event to another: `type`, `external_id`, and `payload.…` as deep as it goes."""
    return [
        change
        for field in ("type", "external_id", "payload")
        for change in _changes(field, before[field], after[field])
    ]


def lines(found: list[Change]) -> list[str]:
    """The changes for people."""
    width = min(max((len(change.field) for change in found), default=0), _WIDEST_FIELD)
    shown = [
        f"{_MARKS[change.kind]} {change.field:<{width}}  {_values(change)}" for change in found[:MOST_LINES]
    ]
    return [*shown, *([f"… and {len(found) - MOST_LINES} more"] if len(found) > MOST_LINES else [])]


def _changes(field: str, before: Any, after: Any) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in dict.fromkeys((*before, *after)):
            inner = f"{field}.{name}" if _PLAIN.fullmatch(name) else f"{field}[{json.dumps(name)}]"
            if name not in after:
                yield Change("removed", inner, before=before[name])
            elif name not in before:
                yield Change("added", inner, after=after[name])
            else:
                yield from _changes(inner, before[name], after[name])
    elif isinstance(before, list) and isinstance(after, list):
        for index in range(max(len(before), len(after))):
            inner = f"{field}[{index}]"
            if index >= len(after):
                yield Change("removed", inner, before=before[index])
            elif index >= len(before):
                yield Change("added", inner, after=after[index])
            else:
                yield from _changes(inner, before[index], after[index])
    elif type(before) is not type(after) or before != after:  # 1 and True are equal, and are not the same
        yield Change("changed", field, before, after)


def _values(change: Change) -> str:
    if change.kind == "changed":
        return f"{summary(change.before)} → {summary(change.after)}"
    return summary(change.after if change.kind == "added" else change.before)
