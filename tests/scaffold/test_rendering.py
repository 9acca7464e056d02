"""What is written reads as if it had been formatted, linted and typed; and belongs into the wheel."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from app.scaffold.naming import LONGEST, Naming
from app.scaffold.rendering import SHAPES, TEMPLATES, Rendered, render
from app.scaffold.sample import Sample, sample_of
from tests.support.specification import ROOT

from .test_inference import HOSTILE

NAMES = ["x", "acme", "my_service", "zulu9", "abcdefghi_" * 3 + "abcdefghij"]
SAMPLES: dict[str, Sample | None] = {
    "none": None,
    "object": sample_of(
        json.dumps(
            {"eventId": "e1", "type": "order.paid", "data": {"items": [{"a": None}], "from": "x"}}
        ).encode()
    ),
    "batch": sample_of(
        json.dumps([{"id": 1, "class": {"x": 1}}, {"id": 2, "class": "b2b", "extra": [1]}]).encode()
    ),
    "hostile": sample_of(
        json.dumps({key: {"id": key, key: [key]} for key in HOSTILE if len(key) < 50}).encode()
    ),
}


def write(folder: Path, made: Rendered) -> None:
    for name, text in {**made.code, **{f"tests/{path}": text for path, text in made.tests.items()}}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every shape with every sample and name."""
    folder = tmp_path_factory.mktemp("written")
    for shape in SHAPES.values():
        for called, sample in SAMPLES.items():
            for name in NAMES:
                made = render(Naming(name), shape, sample, own_folder=True)
                write(folder / shape.name / called / name, made)
    return folder


def tool(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_formatter_has_nothing_to_change(written: Path) -> None:
    assert max(map(len, NAMES)) == LONGEST
    tool("ruff", "format", "--check", "--no-cache", "--config", "pyproject.toml", str(written))


def test_a_linter_has_nothing_to_say(written: Path) -> None:
    tool("ruff", "check", "--no-cache", "--config", "pyproject.toml", str(written))


@pytest.mark.parametrize("shape", SHAPES)
def test_types_are_whole(written: Path, shape: str) -> None:
    # The connector's name is its package's, so each is looked at alone; the shapes differ, the names do not.
    for called in ("none", "batch"):
        tool("mypy", "--strict", str(written / shape / called / "my_service"))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=lambda shape: shape.name)
@pytest.mark.parametrize("own_folder", [True, False])
def test_nothing_of_the_template_is_left(shape: str, own_folder: bool) -> None:
    for sample in SAMPLES.values():
        made = render(Naming("my_service"), shape, sample, own_folder=own_folder)  # type: ignore[arg-type]
        for text in (*made.code.values(), *made.tests.values(), made.page):
            assert not re.search(r"acme|inbound>", text, re.IGNORECASE) or sample is SAMPLES["hostile"]


def test_a_name_is_spelled_as_its_place_wants() -> None:
    naming = Naming("my_service")
    assert naming.render("Acme's AcmeConnector, acme.item, X-Acme-Signature, api.acme.example") == (
        "My Service's MyServiceConnector, my_service.item, X-My-Service-Signature, api.my-service.example"
    )


def test_invented_fixtures_are_said_to_be() -> None:
    for shape in SHAPES.values():
        made = render(Naming("acme"), shape, own_folder=True)
        assert "All of them are invented" in made.tests["fixtures/README.md"]
        assert made.fixture in made.tests


def test_the_templates_are_in_the_wheel(tmp_path: Path) -> None:
    tool("hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    [wheel] = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    templates = {
        path.relative_to(ROOT).as_posix()
        for path in TEMPLATES.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(templates) > 30
    assert templates <= inside
    assert "app/py.typed" in inside
