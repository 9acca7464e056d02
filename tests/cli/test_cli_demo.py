"""`trunkline demo`: the main job, end to end."""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.cli import demo
from app.cli.exits import ExitCode

from .conftest import Process, Trunkline, eventually, run

STEPS = 10


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the demonstration makes its folder."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def signals() -> Iterator[None]:
    """Gives this process its signal handlers back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def running_from(folder: Path) -> list[str]:
    """Processes whose command line names the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_text()
            except OSError:
                continue
            if str(folder) in command:
                found.append(command)
    return found


def test_once_checks_every_step_and_leaves_nothing_behind(temporary: Path) -> None:
    # A person's own settings must not get into the demonstration.
    ran = run("demo", "--once", environment={"TRUNKLINE_PORT": "x", "HTTP_PROXY": "http://127.0.0.1:9"})
    assert ran.exit_code == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert [line[:4] for line in lines[:STEPS]] == ["  ✓ "] * STEPS
    for part in ("con_", "evt_", "whk_", "act_", " ms ", "You said: hello", "401"):
        assert part in ran.stdout
    assert "Ctrl-C" not in ran.stdout
    assert list(temporary.iterdir()) == []


def pasted(line: str) -> Any:
    """What a pasted line prints. A machine without curl gets one that knows the words that are used."""
    if shutil.which("curl"):
        return json.loads(subprocess.run(["sh", "-c", line], capture_output=True, check=True).stdout)
    assert shlex.split(line)[:2] == ["curl", "-s"]
    words = argparse.ArgumentParser()
    words.add_argument("url")
    for short, long in (("-X", "--request"), ("-H", "--header"), ("-d", "--data")):
        words.add_argument(short, long, action="append", default=[])
    given = words.parse_args(shlex.split(line)[2:])
    headers = dict(header.split(": ", 1) for header in given.header)
    method = given.request[0] if given.request else ("POST" if given.data else "GET")
    with httpx2.Client(trust_env=False) as client:
        return client.request(method, given.url, headers=headers, content="".join(given.data)).json()


def test_it_goes_on_until_it_is_stopped_and_its_lines_work_as_pasted(temporary: Path) -> None:
    process = Process(temporary.parent, "demo", "--json")
    told: dict[str, Any] = json.loads(process.line())
    say, events, answer, chat, commands = told["try"]

    assert pasted(say)["chat_id"]
    eventually(lambda: len(pasted(events)["items"]) == 2)
    assert pasted(answer)["state"] == "succeeded"
    assert [entry["message"]["text"] for entry in pasted(chat)["messages"]] == [
        "hello",
        "You said: hello",
        "hello again",
        "Hi Ann",
    ]
    assert "export" not in commands
    done = subprocess.run(["sh", "-ec", commands], capture_output=True, text=True, check=True)
    assert "telegram.message.received" in done.stdout
    assert "succeeded" in done.stdout
    assert len(running_from(temporary)) == 1
    assert process.stop() == 0
    assert running_from(temporary) == []
    assert list(temporary.iterdir()) == []
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(told["url"])


def test_its_processes_do_not_outlive_it_even_when_it_is_killed(temporary: Path) -> None:
    process = Process(temporary.parent, "demo", "--json")
    told = json.loads(process.line())
    process.kill()
    eventually(lambda: running_from(temporary) == [])

    def gone() -> bool:
        try:
            httpx2.get(told["twin"])
        except httpx2.ConnectError:
            return True
        return False

    eventually(gone)


@pytest.mark.usefixtures("signals")
def test_a_step_that_fails_is_named_with_the_end_of_the_log(
    local: Trunkline, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_first_event", lambda *_: {"id": "evt_1", "type": "other"})
    ran = local("demo", "--once", "--keep", PATH=os.environ["PATH"])
    assert ran.exit_code == ExitCode.FAILED
    assert "  ✗ It is an event in the feed" in ran.stdout
    assert "error: It is an event in the feed: it is of another type." in ran.stderr
    assert "schema_upgraded" in ran.stderr
    assert running_from(temporary) == []
    (kept,) = temporary.iterdir()
    assert f"Kept: {kept}" in ran.stdout


@pytest.mark.usefixtures("signals")
def test_a_platform_that_does_not_start_says_why(
    local: Trunkline, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_free_port", lambda: 70000)
    ran = local("demo", "--once")
    assert ran.exit_code == ExitCode.FAILED
    assert "The setting port is wrong" in ran.stderr
    assert list(temporary.iterdir()) == []
