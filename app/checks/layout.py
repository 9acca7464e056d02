"""C01 to C03: the folder, its files, what importing it does and what it imports."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from app.integrations import connectors

from .model import Finding, NotApplicable
from .spelling import misspelt
from .subject import ConnectorUnderTest

FILES = ("__init__.py", "connector.py", "schemas.py", "client.py", "twin.py")

_IMPORT_DEADLINE = 60.0
_FOREIGN = ("fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic")
_OF_TWINS = ("starlette", "app.integrations.twin")
_INSIDE = f"{connectors.__name__}."


def one_connector(subject: ConnectorUnderTest) -> Iterator[Finding]:
    """C01."""
    for broken in subject.broken:
        yield Finding(_following(broken.reason), broken.remedy, level="contract")
    keys = [integration.key for integration in subject.integrations]
    if len(keys) > 1:
        yield Finding(
            f"it defines {len(keys)} connectors ({', '.join(sorted(keys))}).",
            "Give each a folder of its own.",
            level="quality",
        )
    elif keys and subject.key not in keys:
        yield Finding(
            f"its key is '{keys[0]}', but its folder is called '{subject.key}'.",
            "Give both the same name.",
            about=keys[0],
            level="quality",
        )
    for integration in subject.integrations:
        yield from misspelt(integration.connector)
    if subject.integrations and not subject.broken:
        yield from _side_effects(subject)


def only_known_files(subject: ConnectorUnderTest) -> Iterator[Finding]:
    """C02."""
    if subject.folder is None:
        raise NotApplicable("it is a single module")
    for path in sorted(subject.folder.iterdir()):
        name = path.name
        if name in FILES or name == "__pycache__" or name.startswith("."):
            continue
        # Elsewhere a folder also holds what this repository keeps in tests/ and docs/.
        code = path.suffix == ".py" or (path.is_dir() and any(path.glob("*.py")))
        if not subject.ours and (name == "tests" or not code):
            continue
        yield Finding(
            f"{subject.shown(path)} is none of a connector's files ({', '.join(FILES)}).",
            "Move what it holds into one of them.",
            about=name,
        )


def imports_in_bounds(subject: ConnectorUnderTest) -> Iterator[Finding]:
    """C03."""
    if subject.folder is None:
        raise NotApplicable("it is a single module")
    for path in sorted(subject.folder.glob("*.py")):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # C01 says it
        for line, name in _imported(tree, subject.package):
            problem = _out_of_bounds(name, subject.package, is_twin=path.name == "twin.py")
            if problem:
                yield Finding(
                    f"{path.name}:{line} imports {name}, {problem}.",
                    _remedy(name),
                    about=name,
                    level="contract" if name.startswith("app.") else "quality",
                )


def _imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Every module that is imported, or might be: `from a import b` counts as a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [node.module])])
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


def _out_of_bounds(name: str, package: str, *, is_twin: bool) -> str:
    def below(*roots: str) -> bool:
        return any(name == root or name.startswith(f"{root}.") for root in roots)

    if below(package):
        return ""
    if is_twin and below(*_OF_TWINS):
        return ""
    if below(*_FOREIGN):
        return "which connectors do without"
    if below(connectors.__name__):
        return "another connector"
    if below("app.integrations.twin"):
        return "which is for twin.py alone"
    if below("app") and not below("app.integrations"):
        return "which is the platform's own"
    return ""


def _remedy(name: str) -> str:
    if name.startswith(_INSIDE):
        return "Copy what is needed: connectors come and go one by one."
    if name.startswith("app."):
        return "Use what app.integrations offers."
    return "The platform has the database and the web server; a connector knows only its provider."


@dataclass(frozen=True)
class _Watched:
    """What an import did beside defining things."""

    effects: list[str]
    error: str


def _side_effects(subject: ConnectorUnderTest) -> Iterator[Finding]:
    watched = _watch_import(subject)
    if watched.error:
        yield Finding(
            f"it cannot be imported in a process of its own ({watched.error}).",
            "Let it import whatever else has been imported before.",
        )
    for effect in watched.effects:
        yield Finding(
            f"importing it {effect}.",
            "Do it where an instance is built or an action runs: the platform imports every connector.",
            about=effect.split(" ")[0],
            level="quality",
        )


def _watch_import(subject: ConnectorUnderTest) -> _Watched:
    modules = [subject.package]
    if subject.folder is not None and (subject.folder / "connector.py").exists():
        modules.append(f"{subject.package}.connector")
    order = {"path": sys.path, "connectors": list(connectors.__path__), "modules": modules}
    script = Path(__file__).with_name("watched_import.py")
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, a file of ours
            [sys.executable, "-B", "-P", str(script)],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            timeout=_IMPORT_DEADLINE,
            check=False,
        )
        told = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return _Watched([f"takes longer than {_IMPORT_DEADLINE:g} s"], "")
    except (IndexError, ValueError):
        return _Watched([], f"the process ended with {done.returncode}")
    return _Watched(told["effects"], told["error"])


def _following(reason: str) -> str:
    """A sentence, to follow on the connector's name."""
    return f"{reason[:1].lower()}{reason[1:].rstrip('.')}."
