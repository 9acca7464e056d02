"""What commands print: tables for people, one JSON document for programs."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

Item = Mapping[str, Any]
Source = str | Callable[[Item], Any]
Columns = Mapping[str, Source]
"""Headings, and for each the field or function that gives the cell."""

_SUMMARY = 160
_GAP = 2
_NARROW = 24
"""Characters that a column of sentences keeps at least."""
# Text from outside must not steer the terminal.
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_CONTROL_JSON = {code: f"\\u{code:04x}" for code in range(127, 160)}


@dataclass(frozen=True)
class Output:
    """Standard output, in the form that was asked for."""

    as_json: bool

    def document(self, value: Any) -> None:
        text = json.dumps(value, indent=2, ensure_ascii=False)
        print(text.translate(_CONTROL_JSON), flush=True)

    def line(self, value: Any) -> None:
        """One of several JSON documents, each on a line of its own."""
        print(json.dumps(value, ensure_ascii=False).translate(_CONTROL_JSON), flush=True)

    def text(self, text: str) -> None:
        """A sentence for people; nothing where JSON is wanted."""
        if not self.as_json:
            print(plain(text), flush=True)

    def items(self, items: Sequence[Item], columns: Columns, *, empty: str) -> None:
        """A list: an array, or a table; `empty` says what it means that there is nothing."""
        if self.as_json:
            self.document(items)
        elif items:
            _print_table(items, columns)
        else:
            self.text(empty)

    def record(self, value: Item, shown: Columns | None = None, *, leave_out: Sequence[str] = ()) -> None:
        """One thing: an object, or a field a line. `shown` replaces or adds fields for people."""
        if self.as_json:
            self.document(value)
            return
        fields: dict[str, Source] = {name: name for name in value if name not in leave_out}
        fields |= shown or {}
        width = max(map(len, fields), default=0)
        for name, source in fields.items():
            cell = _cell(value, source)
            if isinstance(cell, Rows):
                _print_field(name, width, "")
                _print_table(cell.items, cell.columns, indent=_GAP)
            else:
                lines = _text(cell, inside=False).split("\n")
                _print_field(name, width, lines[0])
                for line in lines[1:]:
                    print(" " * (width + _GAP) + line)


@dataclass(frozen=True)
class Rows:
    """A table inside a record."""

    items: Sequence[Item]
    columns: Columns


def plain(text: str) -> str:
    """The text with control characters made visible, except tabs and line ends."""
    return text.translate(_CONTROL)


def summary(value: Any) -> str:
    """A value as JSON on one line, cut if it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SUMMARY else text[: _SUMMARY - 1] + "…"


def complain(text: str) -> None:
    """A line on standard error."""
    print(plain(text), file=sys.stderr, flush=True)


def _print_table(items: Sequence[Item], columns: Columns, *, indent: int = 0) -> None:
    from rich.cells import cell_len
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    cells = {heading: [_text(_cell(item, source)) for item in items] for heading, source in columns.items()}
    needed = indent
    for heading, texts in cells.items():
        longest = max(map(cell_len, (heading, *texts)))
        # Ids and the like stay whole, to be copied: what gets too wide is left to the terminal.
        whole = not any(" " in text for text in texts)
        narrowest = longest if whole or not _is_terminal() else min(longest, _NARROW)
        table.add_column(heading, no_wrap=whole, min_width=narrowest, overflow="fold")
        needed += narrowest + _GAP
    for row in zip(*cells.values(), strict=True):
        table.add_row(*map(Text, row))
    _print(Padding(table, (0, 0, 0, indent), expand=False), needed)


def _cell(item: Item, source: Source) -> Any:
    cell = item.get(source) if isinstance(source, str) else source(item)
    if isinstance(cell, list) and cell and all(isinstance(part, dict) for part in cell):
        return Rows(cell, {name: name for name in cell[0]})
    return cell


def _text(value: Any, *, inside: bool = True) -> str:
    """A value as people read it; `inside` a table on one line."""
    if value in (None, "", [], {}):
        return "-"
    match value:
        case bool():
            return "yes" if value else "no"
        case str() | int() | float():
            text = str(value)
        case [*parts] if all(isinstance(part, str | int) for part in parts):
            text = ", ".join(map(str, parts))
        case {"code": code, "message": message, **others} if not others:
            text = f"{code}: {message}"
        case Rows():
            text = summary(value.items)
        case _:
            text = summary(value) if inside else json.dumps(value, indent=2, ensure_ascii=False)
    return plain(text.replace("\n", " ") if inside else text)


def _print_field(name: str, width: int, value: str) -> None:
    from rich.text import Text

    line = Text(f"{name:<{width}}" if value else name, style="bold")
    if value:
        line.append(f"  {value}", style="not bold")
    _print(line, line.cell_len)


def _print(what: "RenderableType", needed: int) -> None:
    from rich.console import Console

    if _is_terminal():
        console = Console(highlight=False)
        console.width = max(console.width, needed)
        console.print(what)
        return
    console = Console(width=needed, force_terminal=False, color_system=None, highlight=False)
    with console.capture() as captured:
        console.print(what)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()), flush=True)


def _is_terminal() -> bool:
    return sys.stdout.isatty()
