"""What is moved: every table of the models, row by row, with each value judged before it is sent.

SQLite keeps what it is given, whatever a column is declared as; PostgreSQL does not. A row here is a tuple of
values that PostgreSQL takes. The embedded queue's table is the one that does not keep its form: its wake-ups
become PgQueuer's.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import BigInteger, Boolean, Column, Float, Integer, LargeBinary, MetaData, String, Table, Text

from app.infra.queue import WorkItem

Row = tuple[Any, ...]

NUL, INSTEAD_OF_NUL = "\0", "\ufffd"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENTS = range(253_402_300_800_000)
"""Milliseconds from 1970 to the end of the year 9999."""

_KINDS: tuple[tuple[type[Any], str], ...] = (
    (Boolean, "boolean"), (BigInteger, "bigint"), (Integer, "integer"), (Float, "float"),
    (LargeBinary, "bytes"), (String, "text"),
)  # fmt: skip
_RANGES = {"integer": 2**31, "bigint": 2**63}


class NotText(bytes):
    """What stands as text in the file and is no UTF-8."""


@dataclass(frozen=True)
class Field:
    """A column, as far as a value has to fit it. `long` ones are compared by their digests."""

    name: str
    kind: str
    length: int | None
    nullable: bool
    key: bool
    long: bool

    @classmethod
    def of(cls, column: "Column[Any]") -> "Field":
        kind = next((name for known, name in _KINDS if isinstance(column.type, known)), None)
        if kind is None:
            raise TypeError(f"no move of {column.type!r} is known")
        return cls(
            column.name,
            kind,
            getattr(column.type, "length", None),
            bool(column.nullable),
            column.primary_key,
            isinstance(column.type, Text | LargeBinary) and not column.primary_key,
        )

    def fault(self, value: Any) -> str | None:
        """Why PostgreSQL would refuse the value; says nothing of the value itself."""
        if value is None:
            return None if self.nullable else "has no value, and must have one"
        if isinstance(value, NotText):
            return "is text that is not UTF-8"
        match self.kind:
            case "text" if isinstance(value, str):
                if NUL in value:
                    return "holds the character U+0000, which PostgreSQL cannot store"
                if self.length is not None and len(value) > self.length:
                    return f"has {len(value)} characters, and {self.length} are the most"
                return None
            case "bytes" if isinstance(value, bytes):
                return None
            case "boolean" if value in (0, 1):
                return None
            case "float" if isinstance(value, int | float):
                return None
            case "integer" | "bigint" if isinstance(value, int):
                limit = _RANGES[self.kind]
                return None if -limit <= value < limit else f"is a number too large for {self.kind}"
            case "moment" if isinstance(value, int):
                return None if value in _MOMENTS else "is not a time before the year 10000"
        return f"is {_STORED_AS.get(type(value), 'something else')}, and should be {self.kind}"


_STORED_AS: dict[type[Any], str] = {str: "text", bytes: "bytes", int: "a number", float: "a fraction"}


@dataclass(frozen=True)
class Moved:
    """One table and what it becomes.

    fields       of the rows, in their order
    source       the file's rows, ordered so that both sides give them in the same order
    target       the table over there, with the columns that are filled
    record       what is stored there for a row
    target_rows  the same rows as they stand there, long values as digests
    sequence     the column whose numbers are never given twice, if there is one
    """

    name: str
    fields: tuple[Field, ...]
    source: str
    target: str
    columns: tuple[str, ...]
    record: Callable[[Row], Row]
    target_rows: str
    sequence: str | None

    def key(self, row: Row) -> Row:
        return tuple(value for field, value in zip(self.fields, row, strict=True) if field.key)

    def name_of(self, row: Row) -> str:
        """Names a row by its key, for people."""
        key = self.key(row)
        return "/".join(value.hex() if isinstance(value, bytes) else str(value) for value in key)

    def compared(self, row: Row) -> Row:
        """The row as `target_rows` should give it."""
        return tuple(
            digest(value) if field.long and value is not None else value
            for field, value in zip(self.fields, row, strict=True)
        )


def digest(value: str | bytes) -> bytes:
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).digest()


def tables_of(metadata: MetaData) -> list[Moved]:
    """Every table, each with all its columns."""
    return [
        _wake_ups() if table.name == WorkItem.__tablename__ else _as_it_is(table)
        for table in metadata.sorted_tables
    ]


def _as_it_is(table: Table) -> Moved:
    fields = tuple(Field.of(column) for column in table.columns)
    names = tuple(field.name for field in fields)
    key = [field for field in fields if field.key]
    numbered = table.autoincrement_column
    booleans = [n for n, field in enumerate(fields) if field.kind == "boolean"]

    def record(row: Row) -> Row:
        values = list(row)
        for n in booleans:
            values[n] = None if values[n] is None else bool(values[n])
        return tuple(values)

    return Moved(
        name=table.name,
        fields=fields,
        source=_select(table.name, map(_quoted, names), [_quoted(field.name) for field in key]),
        target=table.name,
        columns=names,
        record=record,
        target_rows=_select(table.name, [_read_back(f) for f in fields], [_order(field) for field in key]),
        sequence=None if numbered is None else numbered.name,
    )


def _wake_ups() -> Moved:
    """The embedded queue's wake-ups. What a dead process had claimed is waiting again."""
    kinds = {"kind": ("text", 40), "ref": ("text", 100), "not_before": ("moment", None)}
    fields = [Field(name, *of, nullable=False, key=True, long=False) for name, of in kinds.items()]
    fields.append(Field("failures", "integer", None, nullable=False, key=True, long=False))
    names = [field.name for field in fields]

    def record(row: Row) -> Row:
        kind, ref, not_before, failures = row
        return (0, "queued", kind, ref.encode(), _EPOCH + timedelta(milliseconds=not_before), failures)

    order = ["not_before", "kind", "ref", "failures"]
    there = [
        "entrypoint",
        "convert_from(payload, 'UTF8')",
        "(extract(epoch FROM execute_after) * 1000)::bigint",
        "attempts",
    ]
    there_in_order = ["execute_after", 'entrypoint COLLATE "C"', "payload", "attempts"]
    return Moved(
        name=f"{WorkItem.__tablename__} (the queue)",
        fields=tuple(fields),
        source=_select(WorkItem.__tablename__, names, order),
        target="pgqueuer",
        columns=("priority", "status", "entrypoint", "payload", "execute_after", "attempts"),
        record=record,
        target_rows=_select("pgqueuer", there, there_in_order),
        sequence=None,
    )


def _select(table: str, columns: Iterable[str], order: Iterable[str]) -> str:
    return f"SELECT {', '.join(columns)} FROM {table} ORDER BY {', '.join(order)}"  # noqa: S608 - names are ours


def _read_back(field: Field) -> str:
    name = _quoted(field.name)
    if not field.long:
        return name
    return f"sha256({name})" if field.kind == "bytes" else f"sha256(convert_to({name}, 'UTF8'))"


def _order(field: Field) -> str:
    # As SQLite and Python order text, whatever the database's own collation.
    return f'{_quoted(field.name)} COLLATE "C"' if field.kind == "text" else _quoted(field.name)


def _quoted(name: str) -> str:
    return f'"{name}"'
