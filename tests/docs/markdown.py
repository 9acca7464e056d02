"""The pages of the documentation, and what is in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL
)
_COMMENT = re.compile(r"<!-- (.*?) -->\n*", re.DOTALL)
_HIDDEN = re.compile(r"hidden (run|start)( \w+)?: (.*)", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A code block. `marker` is the comment right before it, such as `run` or `file: connector.py`.

    Comments `hidden run: COMMAND` and `hidden start NAME: COMMAND` are blocks that readers do not see.
    """

    page: Path
    line: int
    language: str
    text: str
    marker: str

    @property
    def kind(self) -> str:
        return self.marker.partition(":")[0]

    @property
    def argument(self) -> str:
        return self.marker.partition(":")[2].strip()

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def pages() -> list[Path]:
    """Every page that people read."""
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md")]
    return [*top, *sorted(DOCS.rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in order."""
    text = page.read_text()
    found: list[Block] = []
    end = 0
    for fence in _FENCE.finditer(text):
        between = text[end : fence.start()]
        markers = []
        for comment in _COMMENT.finditer(between):
            line = text.count("\n", 0, end + comment.start()) + 1
            if hidden := _HIDDEN.fullmatch(comment[1]):
                kind = f"start:{hidden[2]}" if hidden[1] == "start" else "run"
                found.append(Block(page, line, "sh", hidden[3] + "\n", kind))
            elif comment.end() == len(between):
                markers.append(comment[1])
        line = text.count("\n", 0, fence.start()) + 1
        content = re.sub(rf"^{fence['indent']}", "", fence["text"], flags=re.MULTILINE)
        found.append(Block(page, line, fence["language"], content, markers[-1] if markers else ""))
        end = fence.end()
    return found


def anchors(page: Path) -> set[str]:
    """The fragments that a link to this page may have."""
    prose = _FENCE.sub("", page.read_text())
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose, re.MULTILINE):
        words = re.sub(r"[`*]|\[|\]\([^)]*\)", "", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        number = 0
        while (unique := slug if number == 0 else f"{slug}-{number}") in found:
            number += 1
        found.add(unique)
    return found


def links(page: Path) -> list[str]:
    """Where the page's links lead."""
    prose = re.sub(r"`[^`\n]*`", "", _FENCE.sub("", page.read_text()))
    return re.findall(r"\]\(([^)\s]+)\)", prose)
