"""Python source: literals, fields and imports in the form that a formatter leaves alone."""

import ast
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from itertools import groupby

WIDTH = 110
Imports = Mapping[str, Iterable[str]]
"""Names by the module that they come from; none for the module itself."""


def literal(text: str) -> str:
    """A string literal, with everything escaped that could be read as something else."""
    quote = "'" if text.count('"') > text.count("'") else '"'
    return f"{quote}{''.join(_escaped(char, quote) for char in text)}{quote}"


def _escaped(char: str, quote: str) -> str:
    if char in ("\\", quote):
        return f"\\{char}"
    if char.isprintable():
        return char
    plain = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    code = ord(char)
    return plain.get(char) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )


def width(text: str) -> int:
    """The columns that a text takes."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def call(head: str, arguments: list[str], indent: int = 4) -> str:
    """`head(arguments)` on one line if it fits, else on several."""
    space, deeper = " " * indent, " " * (indent + 4)
    listed = ", ".join(arguments)
    if width(line := f"{space}{head}({listed})") <= WIDTH:
        return line
    if width(inner := f"{deeper}{listed}") <= WIDTH:
        return f"{space}{head}(\n{inner}\n{space})"
    return f"{space}{head}(\n" + "".join(f"{deeper}{part},\n" for part in arguments) + f"{space})"


def with_imports(source: str, more: Imports | None = None) -> str:
    """The module with the imports that it uses: of its own and of `more`, sorted."""
    tree = ast.parse(source)
    nodes = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    wanted = {module: set(names) for module, names in (more or {}).items()}
    plain = {module for module, names in wanted.items() if not names}
    for node in nodes:
        if isinstance(node, ast.Import):
            plain |= {alias.name for alias in node.names}
        else:
            wanted.setdefault("." * node.level + (node.module or ""), set()).update(
                a.name for a in node.names
            )
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            used |= set(ast.literal_eval(statement.value))
    lines: list[tuple[int, bool, str, str]] = []
    lines += [
        (_section(module), False, module, f"import {module}")
        for module in plain
        if module.partition(".")[0] in used
    ]
    for module, names in wanted.items():
        if kept := sorted(names & used, key=_order):
            lines.append((_section(module), True, module, _from(module, kept)))
    header = "\n\n".join(
        "\n".join(line for *_, line in group) for _, group in groupby(sorted(lines), key=lambda line: line[0])
    )
    if not nodes:
        return source
    split = source.splitlines(keepends=True)
    before = "".join(split[: nodes[0].lineno - 1])
    after = "".join(split[(nodes[-1].end_lineno or 0) :])
    return f"{before}{header}\n{after}" if header else before.rstrip("\n") + "\n" + after


def _from(module: str, names: list[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= WIDTH:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"


def _section(module: str) -> int:
    if module.startswith("."):
        return 3
    top = module.partition(".")[0]
    return 2 if top == "app" else 0 if top in sys.stdlib_module_names else 1


def _order(name: str) -> tuple[int, str, str]:
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, name.lower(), name
