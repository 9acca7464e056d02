"""What help promises."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from app.cli.exits import ExitCode
from app.cli.root import app

from .conftest import Trunkline, run

ROOT = typer.main.get_command(app)


def walk(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if path:
        yield path, command
    if isinstance(command, TyperGroup):
        context = typer.Context(command)
        for name in command.list_commands(context):
            yield from walk(command.get_command(context, name), (*path, name))


COMMANDS = dict(walk(ROOT))
LEAVES = {path: c for path, c in COMMANDS.items() if not isinstance(c, TyperGroup)}
EXAMPLES = [
    (path, line.strip())
    for path, command in COMMANDS.items()
    for line in (command.epilog or "").splitlines()
    if line.startswith("  ")
]


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_has_help_with_an_example(path: tuple[str, ...], local: Trunkline) -> None:
    shown = local(*path, "--help")
    assert shown.exit_code == 0
    assert COMMANDS[path].help
    assert re.search(r"^  Examples?:\n    (.*\n    )*.*trunkline " + " ".join(path[:2]), shown.stdout, re.M)


@pytest.mark.parametrize(
    ("path", "line"), EXAMPLES, ids=lambda value: "" if isinstance(value, tuple) else value
)
def test_examples_use_commands_and_options_that_exist(path: tuple[str, ...], line: str) -> None:
    command = re.search(r"trunkline ([^|<>)]*)", line)
    assert command, line
    words = shlex.split(command[1])
    used: Any = ROOT
    while words and isinstance(used, TyperGroup) and not words[0].startswith("-"):
        used = used.get_command(typer.Context(used), words.pop(0))
        assert used, line
    known = {option for parameter in used.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if re.match(r"-\w$|--", word)} <= known | {"--help"}


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_can_print_json(path: tuple[str, ...]) -> None:
    assert any("--json" in parameter.opts for parameter in COMMANDS[path].params)


def test_help_lists_the_exit_codes_and_all_commands(local: Trunkline) -> None:
    shown = local("--help").stdout
    for code in ExitCode:
        assert re.search(rf"^    {code.value}  \w", shown, re.M)
    for name in ROOT.list_commands(typer.Context(ROOT)):
        assert re.search(rf"^  {name} ", shown, re.M)


def test_help_is_a_word_too(local: Trunkline) -> None:
    assert local("help").stdout == local("--help").stdout
    assert local("help", "events", "list").stdout == local("events", "list", "--help").stdout


def test_a_wrong_command_line_is_exit_code_2(local: Trunkline) -> None:
    assert local("nonsense").exit_code == ExitCode.USAGE
    assert "Did you mean connections?" in local("conections").stderr
    assert local("connections", "nonsense").exit_code == ExitCode.USAGE
    assert local("connections", "list", "--nonsense").exit_code == ExitCode.USAGE


IMPORTS = """
import json, sys
from app.__main__ import main
try:
    main()
except SystemExit as ended:
    heavy = ["fastapi", "sqlalchemy", "uvicorn", "app.config", "app.main", "app.integrations.registry"]
    heavy += ["structlog", "cryptography", "rich", "alembic"]
    print(json.dumps([ended.code, [name for name in heavy if name in sys.modules]]))
"""


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [("--help", ExitCode.OK), ("events list --url http://127.0.0.1:9", ExitCode.UNREACHABLE)],
)
def test_help_and_client_commands_do_not_import_the_platform(arguments: str, exit_code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, *arguments.split()],
        capture_output=True,
        text=True,
        env={"TRUNKLINE_API_KEY": "tl_x"},
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [exit_code, []]


def test_the_module_and_the_version_work() -> None:
    shown = run("--version")
    assert (shown.exit_code, shown.stdout.split()[0]) == (0, "trunkline")
