"""The specification's own example, taken out of its text."""

import re
from pathlib import Path

import tests

ROOT = Path(tests.__file__).resolve().parents[1]
ORIGINAL = ROOT.parent / "shared" / "spec" / "integrations.md"
FIXTURES = ROOT / "tests" / "fixtures" / "spec_example"
COPY = FIXTURES / "specification.txt"
"""Not `.md`: formatters reach into the code blocks of those."""


def specification() -> str:
    """The specification's text: the original where it is at hand, otherwise the copy kept here."""
    return (ORIGINAL if ORIGINAL.exists() else COPY).read_text()


def example_files() -> dict[str, str]:
    """The example connector's files by name: the text's code blocks as they stand, and a client for them."""
    blocks = re.findall(
        r"File `app/integrations/connectors/my_service/(\w+\.py)`[^\n]*\n\n```python\n(.*?)```",
        specification(),
        re.DOTALL,
    )
    files = dict(blocks)
    assert set(files) == {"schemas.py", "connector.py"}
    return files | {"client.py": (FIXTURES / "client.py").read_text()}


def drop_example(connectors: Path) -> Path:
    """Puts the example into a folder of connectors, as it stands: without `__init__.py`."""
    folder = connectors / "my_service"
    folder.mkdir(parents=True)
    for name, text in example_files().items():
        (folder / name).write_text(text)
    return folder
