"""What can be held against the code where no container engine runs: names, commands, settings, files."""

import fnmatch
import json
import re
from typing import Any

import typer

from app.cli.root import app
from app.config import ENV_PREFIX, Settings

from .markdown import ROOT

COMPOSE = (ROOT / "compose.yaml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OTHERS = {"TRUNKLINE_DATABASE_PASSWORD"}
"""Variables that the compose file itself takes."""


def test_commands_and_flags_are_those_of_the_command_line() -> None:
    root: Any = typer.main.get_command(app)
    context = root.make_context("trunkline", [], resilient_parsing=True)
    given = [json.loads(found) for found in re.findall(r"command: (\[.*\])", COMPOSE)]
    given.append(json.loads(re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[-1]))
    assert [words[0] for words in given] == ["migrate", "serve", "serve", "worker", "serve"]
    for name, *rest in given:
        command = root.get_command(context, name)
        flags = {flag for parameter in command.params for flag in parameter.opts}
        assert {word for word in rest if word.startswith("-")} <= flags
    assert ["serve", "--role", "api"] in given


def test_variables_are_settings() -> None:
    named = set(re.findall(r"TRUNKLINE_[A-Z_]+", COMPOSE + DOCKERFILE))
    assert named - OTHERS <= {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    [port] = re.findall(r'TRUNKLINE_METRICS_PORT: "(\d+)"', COMPOSE)
    assert f"http://127.0.0.1:{port}/healthz" in COMPOSE, "a worker is asked on that port"
    assert f"http://127.0.0.1:{Settings.model_fields['port'].default}/healthz" in DOCKERFILE


def test_the_image_is_built_of_files_that_are_there_and_sent() -> None:
    sent = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line[:1] == "!"
    ]
    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE)
        for name in line.split()
    ]
    assert {"app", "pyproject.toml", "requirements.lock"} <= set(copied)
    for name in copied:
        assert (ROOT / name).exists(), name
        assert any(fnmatch.fnmatch(name, pattern) for pattern in sent), name
