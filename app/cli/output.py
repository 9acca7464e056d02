"""What commands print: tables for people, one JSON document for programs."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Item = Mapping[str, Any]
Columns = Mapping[str, str | Callable[[Item], Any]]
"""Headings, and for each the field or function that gives the cell."""

_SUMMARY = 160
_PIPE_WIDTH = 10_000
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
            _print(_table(items, columns))
        else:
            self.text(empty)

    def record(self, value: Item, shown: Columns | None = None, *, leave_out: Sequence[str] = ()) -> None:
        """One thing: an object, or a field a line. `shown` replaces or adds fields for people."""
        if self.as_json:
            self.document(value)
            return
        from rich.table import Table

        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column(overflow="fold")
        fields: dict[str, str | Callable[[Item], Any]] = {
            name: name for name in value if name not in leave_out
        }
        for name, source in (fields | dict(shown or {})).items():
            grid.add_row(name, _renderable(_cell(value, source)))
        _print(grid)


def table(items: Sequence[Item], columns: Columns) -> "RenderableType":
    """A table inside a record."""
    return _table(items, columns) if items else "-"


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


def _table(items: Sequence[Item], columns: Columns) -> "RenderableType":
    from rich.table import Table

    result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in columns:
        # Folded, never cut: ids have to be copied from here.
        result.add_column(heading, overflow="fold")
    for item in items:
        result.add_row(*(_renderable(_cell(item, source), inside=True) for source in columns.values()))
    return result


def _cell(item: Item, source: str | Callable[[Item], Any]) -> Any:
    return item.get(source) if isinstance(source, str) else source(item)


def _renderable(value: Any, *, inside: bool = False) -> "RenderableType":
    from rich.text import Text

    if value in (None, "", [], {}):
        return "-"
    match value:
        case bool():
            return "yes" if value else "no"
        case str() | int() | float():
            return Text(plain(str(value)))
        case [*parts] if all(isinstance(part, str | int) for part in parts):
            return Text(plain(", ".join(map(str, parts))))
        case [dict(first), *_] if not inside:
            return _table(value, {name: name for name in first})
        case dict() | list():
            return Text(plain(summary(value) if inside else json.dumps(value, indent=2, ensure_ascii=False)))
        case _:
            rendered: RenderableType = value
            return rendered


def _print(what: "RenderableType") -> None:
    console = _console()
    if console.is_terminal:
        console.print(what)
        return
    with console.capture() as captured:
        console.print(what)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()), flush=True)


def _console() -> "Console":
    from rich.console import Console

    if sys.stdout.isatty():
        return Console(highlight=False, markup=False, emoji=False)
    return Console(
        highlight=False, markup=False, emoji=False, width=_PIPE_WIDTH, force_terminal=False, color_system=None
    )
