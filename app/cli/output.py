"""What commands print: tables for people, one JSON document for programs."""

import json
import re
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
_CUT = 12
"""The same where sentences are cut."""
_LONG = frozenset({"payload", "reason", "error", "message", "description", "headers"})
"""Columns that are cut on a terminal, or folded, even if no cell has a space."""
_UNIMPORTANT = (
    *("connection", "external id", "webhook", "cursor", "headers", "bytes", "source", "registration"),
    *("verified", "version", "attempts", "tries", "created", "requested", "received"),
)
"""Columns that are left out of lists on a terminal that is too narrow, in this order."""
_ELSEWHERE = ("payload", "reason", "error")
"""Those that go last, where another command shows them."""
_FRACTION = re.compile(r"^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.\d+Z$")
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

    def items(self, items: Sequence[Item], columns: Columns, *, empty: str, cut: bool = True) -> None:
        """A list: an array, or a table; `empty` says what it means that there is nothing.

        `cut` is for what another command shows in full: sentences may be cut to fit a terminal.
        """
        if self.as_json:
            self.document(items)
        elif items:
            _print_table(items, columns, cut=cut)
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


def sentence(text: str) -> str:
    """The text with an end, so that another sentence can follow."""
    return f"{text}." if text and text[-1] not in ".!?:…`" else text


def room() -> int | None:
    """The characters in a line of the terminal; None if output goes somewhere else."""
    from rich.console import Console

    return Console().width if _is_terminal() else None


def cut(text: str, width: int) -> str:
    """The text, with an ellipsis if it takes more than so many cells."""
    from rich.cells import cell_len, set_cell_size

    return text if cell_len(text) <= width else set_cell_size(text, max(width - 1, 0)) + "…"


def summary(value: Any) -> str:
    """A value as JSON on one line, cut if it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SUMMARY else text[: _SUMMARY - 1] + "…"


def complain(text: str) -> None:
    """A line on standard error."""
    print(plain(text), file=sys.stderr, flush=True)


def _print_table(items: Sequence[Item], columns: Columns, *, indent: int = 0, cut: bool = False) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    cells = {heading: [_text(_cell(item, source)) for item in items] for heading, source in columns.items()}
    available = room()
    if cut and available:
        cells = {heading: [_FRACTION.sub(r"\1Z", text) for text in texts] for heading, texts in cells.items()}
    optional = () if indent else (*_UNIMPORTANT, *(_ELSEWHERE if cut else ()))
    widths, left_out = _fit(cells, available and available - indent, optional, _CUT if cut else _NARROW)
    for heading, width in widths.items():
        long = _is_long(heading, cells[heading])
        table.add_column(
            heading, no_wrap=cut or not long, width=width, overflow="ellipsis" if cut and long else "fold"
        )
    for row in zip(*(cells[heading] for heading in widths), strict=True):
        table.add_row(*map(Text, row))
    _print(Padding(table, (0, 0, 0, indent), expand=False), indent + _needed(widths))
    if left_out:
        complain(f"No room for: {', '.join(left_out)}. They are shown in a wider terminal, and with --json.")


def _fit(
    cells: Mapping[str, list[str]], available: int | None, optional: Sequence[str], narrowest: int
) -> tuple[dict[str, int], list[str]]:
    """How wide columns are, and the headings of those that are left out."""
    from rich.cells import cell_len

    widths = {heading: max(map(cell_len, (heading, *texts))) for heading, texts in cells.items()}
    if available is None:
        return widths, []
    least = {
        heading: min(width, max(narrowest, len(heading))) if _is_long(heading, cells[heading]) else width
        for heading, width in widths.items()
    }
    left_out = []
    for heading in optional:
        if _needed(least) <= available:
            break
        if heading in least:
            left_out.append(heading)
            del least[heading], widths[heading]
    # The widest gives way first; ids and the like stay whole, to be copied.
    while _needed(widths) > available:
        widest = max(widths, key=lambda heading: widths[heading] * (widths[heading] > least[heading]))
        if widths[widest] <= least[widest]:
            break
        widths[widest] -= 1
    return widths, left_out


def _needed(widths: Mapping[str, int]) -> int:
    return sum(widths.values()) + _GAP * max(len(widths) - 1, 0)


def _is_long(heading: str, texts: Sequence[str]) -> bool:
    return heading in _LONG or any(" " in text for text in texts)


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
