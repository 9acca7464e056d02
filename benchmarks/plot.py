"""The run's figures as a picture: bars in SVG, one panel for each part and column."""

from html import escape

from .bench import Name, Results

_PANELS = (
    ("acknowledge", "req/s", "Acknowledgements per second, by connections"),
    ("acknowledge", "p99 ms", "p99 of an acknowledgement, ms"),
    ("acknowledge", "end to end /s", "End to end to the feed, per second"),
    ("actions", "actions/s", "Actions per second"),
    ("fan_in", "req/s", "Fan-in: acknowledgements per second"),
    ("processes", "req/s", "Several processes: acknowledgements per second"),
    ("processes", "end to end /s", "Several processes: end to end per second"),
    ("stored", "µs each", "Cost of a webhook, µs, by what is stored"),
)
_COLOURS = {"sqlite": "#2a6f97", "postgres": "#7a4a9e"}
_WIDTH, _LABEL, _BAR, _GAP, _HEAD = 760, 250, 15, 4, 34


def svg(results: Results, caption: str) -> str:
    """The picture."""
    parts: list[str] = []
    top = 44
    for part, column, title in _PANELS:
        names = [name for name in results.names() if (name.part, name.column) == (part, column)]
        if names:
            drawn, top = _panel(title, names, results, top)
            parts += drawn
    legend = " ".join(
        f'<tspan fill="{colour}" font-weight="bold">■ {name}</tspan>' for name, colour in _COLOURS.items()
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top + 8}" '
            'font-family="system-ui, sans-serif" font-size="11" fill="#222">',
            f'<rect width="{_WIDTH}" height="{top + 8}" fill="#fff"/>',
            f'<text x="12" y="22" font-size="13">{legend} '
            f'<tspan fill="#666">{escape(caption)}</tspan></text>',
            *parts,
            "</svg>\n",
        ]
    )


def _panel(title: str, names: list[Name], results: Results, top: int) -> tuple[list[str], int]:
    values = {name: results.median(name) or 0.0 for name in names}
    highest = max(values.values()) or 1.0
    room = _WIDTH - _LABEL - 80
    lines = [f'<text x="12" y="{top + 18}" font-size="13" font-weight="bold">{escape(title)}</text>']
    y = top + _HEAD - 6
    for name in sorted(names, key=lambda name: list(_COLOURS).index(name.database)):
        value = values[name]
        length = max(value / highest * room, 1.0)
        lines += [
            f'<text x="{_LABEL - 8}" y="{y + 12}" text-anchor="end">{escape(name.row)}</text>',
            f'<rect x="{_LABEL}" y="{y}" width="{length:.1f}" height="{_BAR}" rx="2" '
            f'fill="{_COLOURS[name.database]}"/>',
            f'<text x="{_LABEL + length + 6:.1f}" y="{y + 12}">{value:,.{0 if value >= 100 else 1}f}</text>',
        ]
        y += _BAR + _GAP
    return lines, y + 6
