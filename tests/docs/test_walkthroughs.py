"""What the pages tell a reader to do works, and prints what they show."""

from pathlib import Path

import pytest

from .markdown import DOCS, ROOT, blocks
from .walkthrough import Walkthrough, matches

PAGES = [
    ROOT / "README.md",
    DOCS / "quickstart.md",
    DOCS / "first-connector.md",
    DOCS / "operations.md",
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_page_can_be_followed(page: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    database_url = request.getfixturevalue("empty_postgres") if page.stem == "operations" else ""
    reader = Walkthrough(tmp_path, database_url)
    try:
        reader.follow(page)
    finally:
        reader.close()


@pytest.mark.parametrize("page", PAGES[1:3], ids=lambda page: page.stem)
def test_a_tutorial_leaves_no_command_untried_without_a_reason(page: Path) -> None:
    shell = [block for block in blocks(page) if block.language == "sh"]
    assert shell
    assert [str(block) for block in shell if not block.marker] == []


def test_outputs_are_compared_line_by_line_whatever_the_spacing() -> None:
    assert matches("a  b\n", "a b\n")
    assert matches("a …\n…\nz\n", "a 1\nb\nc\nz\n")
    assert matches("…\nz\n", "z\n")
    assert not matches("a\nz\n", "a\nb\nz\n")
    assert not matches("a\n", "a\nb\n")
    assert not matches("a b\n", "a.b\n")
