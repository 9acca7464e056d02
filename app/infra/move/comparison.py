"""Compares what stands in both, row by row: two ordered streams side by side, whatever their length."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from .tables import Moved, Row

MOST_NAMED = 5
"""Rows of a table that are named when they differ; the others are counted."""


@dataclass
class Compared:
    """One table on both sides. `different` counts rows that are missing, too many, or not the same."""

    table: str
    source_rows: int = 0
    target_rows: int = 0
    different: int = 0
    named: list[str] = field(default_factory=list)

    def note(self, name: str, words: str) -> None:
        self.different += 1
        if len(self.named) < MOST_NAMED:
            self.named.append(f"{self.table} {name}: {words}".replace("  ", " "))


async def compare(table: Moved, source: Iterator[Row], target: AsyncIterator[Row]) -> Compared:
    """Both streams are ordered by the key. A key may come more than once only if it is the whole row."""
    result = Compared(table.name)
    here, there = next(source, None), await anext(target, None)
    while here is not None or there is not None:
        earlier = _earlier(table, here, there)
        if earlier is None:
            assert here is not None
            assert there is not None
            expected = table.compared(here)
            if columns := [f.name for f, a, b in zip(table.fields, expected, there, strict=True) if a != b]:
                result.note(table.name_of(here), f"not the same in {', '.join(columns)}")
        elif earlier == "source":
            assert here is not None
            result.note(table.name_of(here), "not in PostgreSQL")
        else:
            assert there is not None
            result.note(table.name_of(there), "not in the file")
        if earlier != "target":
            result.source_rows += 1
            here = next(source, None)
        if earlier != "source":
            result.target_rows += 1
            there = await anext(target, None)
    return result


def _earlier(table: Moved, here: Row | None, there: Row | None) -> str | None:
    """Which side's row comes first; None if they are the same one."""
    if here is None:
        return "target"
    if there is None:
        return "source"
    mine, theirs = table.key(here), table.key(there)
    if mine == theirs:
        return None
    return "source" if mine < theirs else "target"
