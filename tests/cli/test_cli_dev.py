"""`trunkline dev`: what somebody sees who writes a connector."""

import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.cli.difference import MOST_LINES, changes, lines
from app.cli.exits import ExitCode

from .conftest import Process, Trunkline, eventually, run

CONNECTOR = """
from app.integrations.base import BaseIntegration
from app.integrations.models import Event
from app.integrations.specs import EventSpec, SecretSpec
from app.integrations.verification import StaticToken


class Rooms(BaseIntegration):
    name = "Rooms"
    key = "rooms"
    secrets = [SecretSpec("token", "Shared")]
    verification = StaticToken("X-Token", "token")
    events = [EventSpec("rooms.booking.made", "Made"), EventSpec("rooms.booking.moved", "Moved")]

    async def handle_webhook(self, payload):
        print("printed by the connector")
        booking = payload["booking"]
        return Event(
            type=f"rooms.booking.{payload['change']}",
            external_id=booking["id"],
            payload={"room": booking["room"], "at": booking["at"]},
        )
"""
BLUE = {"change": "made", "booking": {"id": "b1", "room": "Blue", "at": "nine"}}
RED = {"change": "made", "booking": {"id": "b2", "room": "Red", "day": "monday"}}


class Bench:
    """A running `trunkline dev --json`, the connector's file and what its provider sends."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.file = folder / "connectors" / "rooms" / "connector.py"
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(CONNECTOR)
        places = ["--data-dir", f"{folder}/data", "--connectors-path", f"{folder}/connectors"]
        self.process = Process(folder, "dev", "--json", "--port", "0", *places, *options)
        ready = self.until("ready")
        self.url: str = ready["url"]
        self.cli = Trunkline({"TRUNKLINE_URL": self.url, "TRUNKLINE_DATA_DIR": ready["data_dir"]})
        self.passed: list[str] = []

    def until(self, what: str) -> Any:
        """The next document of this kind; the kinds that came before are in `passed`."""
        self.passed = []
        while line := self.process.line():
            told = json.loads(line)
            if told.get("what", "ready") == what:
                return told
            self.passed.append(told["what"])
        raise AssertionError(f"no {what}: {self.passed} {self.process.log.read_text()}")

    def connect(self) -> dict[str, Any]:
        made: dict[str, Any] = self.cli(
            "connections", "create", "rooms", "--secret", "token=t", "--json"
        ).json
        return made

    def save(self, *edits: tuple[str, str]) -> None:
        """Writes the connector as it was at first, with these edits."""
        text = CONNECTOR
        for old, new in edits:
            assert text.count(old) == 1
            text = text.replace(old, new)
        self.file.write_text(text)

    def events(self) -> list[Any]:
        found: list[Any] = self.cli("events", "list", "--limit", "9999", "--json").json
        return found


def send(connection: dict[str, Any], content: Any, token: str = "t", to: str | None = None) -> int:
    url = httpx2.URL(connection["webhook_url"])
    url = url.copy_with(port=httpx2.URL(to).port) if to else url
    return httpx2.post(url, json=content, headers={"X-Token": token}, timeout=30).status_code


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


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    if bench.process.popen.poll() is None:
        assert bench.process.stop() == 0


def test_a_save_shows_what_it_changes_and_stores_nothing(bench: Bench) -> None:
    assert bench.until("looked")["webhooks"] == 0
    rooms = bench.connect()
    assert send(rooms, BLUE) == 200
    received = bench.until("received")["now"]
    assert (received["connection"], received["failure"]) == (rooms["id"], None)
    made = {"type": "rooms.booking.made", "external_id": "b1", "payload": {"room": "Blue", "at": "nine"}}
    assert received["events"] == [made]

    bench.save(
        ('booking["room"]', 'booking["room"].upper()'), ('"at": booking["at"]', '"seats": {"most": 4}')
    )
    assert bench.until("saved")["files"] == ["rooms/connector.py"]
    assert bench.until("restarted")["seconds"] < 10
    again = bench.until("previewed")
    assert again["before"]["events"] == [made]
    assert again["changes"] == [
        {"change": "changed", "field": "payload.room", "before": "Blue", "after": "BLUE"},
        {"change": "removed", "field": "payload.at", "before": "nine"},
        {"change": "added", "field": "payload.seats", "after": {"most": 4}},
    ]
    bench.save(('"id"', '"room"'), ("rooms.booking.{payload['change']}", "rooms.booking.moved"))
    assert [(c["field"], c["before"], c["after"]) for c in bench.until("previewed")["changes"][:3]] == [
        ("type", "rooms.booking.made", "rooms.booking.moved"),
        ("external_id", "b1", "Blue"),
        ("payload.room", "BLUE", "Blue"),
    ]
    assert [event["payload"] for event in bench.events()] == [made["payload"]]
    assert bench.cli("webhooks", "list", "--json").json[0]["tries"] == 1
    assert "printed by the connector" in bench.process.log.read_text()


def test_a_failure_is_mended_and_made(bench: Bench) -> None:
    rooms = bench.connect()
    assert send(rooms, RED, token="wrong") == 401
    assert bench.until("refused")["code"] == "token_differs"
    assert send(rooms, RED) == 200
    failed = bench.until("received")["now"]
    line = CONNECTOR[: CONNECTOR.index('"at": booking')].count("\n") + 1
    place = f"app.integrations.connectors.rooms.connector:{line} in handle_webhook"
    assert failed["failure"] == {"code": "connector_error", "message": f"KeyError: 'at' ({place})"}

    bench.save(('booking["at"]', 'booking.get("at")'))
    mended = bench.until("previewed")
    assert mended["before"]["failure"] == failed["failure"]
    assert (mended["now"]["failure"], mended["now"]["events"][0]["external_id"]) == (None, "b2")

    bench.save(('booking["room"]', 'booking["no such field"]'))
    spoilt = bench.until("previewed")
    assert spoilt["before"]["events"] == mended["now"]["events"]
    assert "KeyError: 'no such field'" in spoilt["now"]["failure"]["message"]
    assert bench.events() == []


def test_a_broken_connector_leaves_the_platform_as_it_was_until_it_is_mended(bench: Bench) -> None:
    rooms = bench.connect()
    bench.file.write_text("def (:\n")
    broken = bench.until("broken")
    assert broken["source"] == "app.integrations.connectors.rooms"
    assert "SyntaxError" in broken["reason"]
    bench.until("kept")
    assert send(rooms, BLUE) == 200
    assert bench.until("received")["now"]["events"][0]["external_id"] == "b1"

    bench.save(('"rooms"\n', '"Not a key"\n'))
    assert "is not a lower-case identifier" in bench.until("broken")["reason"]
    bench.until("kept")
    bench.save(('booking["room"]', '"Green"'))
    bench.until("restarted")
    assert send(rooms, RED) == 200
    assert "broken" not in bench.passed
    assert "KeyError: 'at'" in bench.until("received")["now"]["failure"]["message"]


def test_a_connector_that_ends_the_process_waits_for_the_next_save(bench: Bench) -> None:
    rooms = bench.connect()
    bench.save(("\nclass Rooms", "import os\nos._exit(7)\n\nclass Rooms"))
    assert "exit code 7" in bench.until("failed")["message"]
    assert send(rooms, BLUE) == 200
    bench.until("received")
    bench.save(('booking = payload["booking"]', "import os; os._exit(8)"))
    assert "exit code 8" in bench.until("failed")["message"]
    bench.save()
    bench.until("restarted")
    assert send(rooms, RED | {"change": "moved"}) == 200


def test_a_folder_that_goes_and_comes_back_is_watched_again(bench: Bench) -> None:
    """As when another branch is checked out, where it does not exist."""
    bench.until("looked")
    connectors, away = bench.folder / "connectors", bench.folder / "away"
    connectors.rename(away)
    assert "does not exist" in bench.until("broken")["reason"]
    bench.until("kept")
    shutil.copytree(away, connectors)
    assert bench.until("restarted")["seconds"] < 10
    bench.save(('Rooms"', 'Halls"'))
    assert bench.until("saved")["files"] == ["rooms/connector.py"]
    bench.until("restarted")


def test_requests_wait_while_the_platform_restarts(bench: Bench) -> None:
    rooms = bench.connect()
    answers: list[int] = []
    stop = threading.Event()

    def send_all() -> None:
        while not stop.is_set():
            booking = {**BLUE["booking"], "id": f"n{len(answers)}"}  # type: ignore[dict-item]
            answers.append(send(rooms, BLUE | {"booking": booking}))
            time.sleep(0.02)

    sender = threading.Thread(target=send_all)
    sender.start()
    try:
        for room in ('"One"', '"Two"'):
            bench.save(('booking["room"]', room))
            bench.until("restarted")
            before = len(answers)
            eventually(lambda before=before: len(answers) > before + 5)
    finally:
        stop.set()
        sender.join()
    assert set(answers) == {200}
    eventually(lambda: len(bench.events()) == len(answers))
    events = bench.events()
    assert {event["payload"]["room"] for event in events} == {"Blue", "One", "Two"}


def test_ctrl_c_leaves_nothing_behind(bench: Bench) -> None:
    eventually(lambda: len(running_from(bench.folder)) == 3)  # itself, the platform, and the next one
    bench.process.popen.send_signal(signal.SIGINT)
    assert bench.process.popen.wait(20) == 0
    eventually(lambda: running_from(bench.folder) == [])
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(bench.url)


def test_one_webhook_or_connection_can_be_chosen(tmp_path: Path) -> None:
    first = Bench(tmp_path)
    rooms, other = first.connect(), first.connect()
    whks = []
    for connection, content in ((rooms, RED), (rooms, BLUE), (other, BLUE)):
        assert send(connection, content) == 200
        whks.append(first.until("received")["now"]["webhook"])
    assert first.process.stop() == 0

    chosen = Bench(tmp_path, "--webhook", whks[0])
    assert chosen.until("previewed")["now"]["webhook"] == whks[0]
    assert chosen.until("looked")["webhooks"] == 1
    chosen.save(('booking["at"]', "None"))
    assert chosen.until("previewed")["now"]["webhook"] == whks[0]
    assert chosen.process.stop() == 0

    chosen = Bench(tmp_path, "--connection", rooms["id"])
    assert chosen.until("previewed")["now"]["webhook"] == whks[1]
    assert chosen.until("looked")["webhooks"] == 1
    assert (send(other, RED, to=chosen.url), send(rooms, RED, to=chosen.url)) == (200, 200)
    assert chosen.until("received")["now"]["connection"] == rooms["id"]
    assert chosen.process.stop() == 0


def test_people_read_what_is_different(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    rooms = bench.connect()
    assert send(rooms, BLUE) == 200
    bench.until("received")
    assert bench.process.stop() == 0

    options = ["--port", bench.url.rpartition(":")[2], "--data-dir", f"{tmp_path}/data"]
    process = Process(tmp_path, "dev", *options, "--connectors-path", f"{tmp_path}/connectors")
    seen: list[str] = []

    def until(text: str) -> None:
        while text not in (line := process.line()):
            assert line or process.popen.poll() is None, process.log.read_text()
            seen.append(line)
        seen.append(line)

    until("as before: rooms.booking.made b1")
    assert seen[2] == f"Watching {tmp_path}/connectors. Ctrl-C stops."
    bench.save(('booking["room"]', 'booking["room"].upper()'))
    until("~ payload.room")
    assert seen[-2:] == [
        "    rooms.booking.made b1 is different:",
        '      ~ payload.room  "Blue" → "BLUE"',
    ]
    assert send(rooms, RED) == 200
    until("failed: KeyError: 'at'")
    bench.file.write_text("import nothing_of_the_kind\n")
    until("goes on with the code of before")
    assert any("nothing_of_the_kind" in line for line in seen[-3:])
    bench.save(('booking["at"]', 'booking["day"]'))
    until("To store it: trunkline webhooks replay whk_")
    assert '    + rooms.booking.made b2 {"room": "Red", "at": "monday"}' in seen[-2:]
    assert process.stop() == 0


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--connection", "none of mine"], ExitCode.NOT_FOUND, "There is no connection 'none of mine'"),
        (["--webhook", "whk_1"], ExitCode.NOT_FOUND, "There is no webhook 'whk_1'"),
        (["--connectors-path", "nowhere"], ExitCode.FAILED, "/nowhere does not exist"),
        (["--log-level", "loud"], ExitCode.FAILED, "The setting log_level is wrong"),
    ],
)
def test_what_cannot_be_done_is_said_with_an_exit_code(
    tmp_path: Path, options: list[str], code: ExitCode, message: str
) -> None:
    ran = run("dev", "--port", "0", "--data-dir", str(tmp_path / "data"), *options, cwd=Path.cwd())
    assert (ran.exit_code, ran.stderr.count("Traceback")) == (code, 0)
    assert message in ran.stderr.splitlines()[-1]
    assert running_from(tmp_path) == []


def test_a_taken_port_and_folder_are_named_and_a_kill_leaves_nothing_behind(bench: Bench) -> None:
    port, folder = bench.url.rpartition(":")[2], f"{bench.folder}/data"
    assert f"Cannot listen on 127.0.0.1:{port}" in run("dev", "--port", port, "--data-dir", folder).stderr
    ran = run("dev", "--port", "0", "--data-dir", folder)
    assert ran.exit_code == ExitCode.FAILED
    assert "already uses" in ran.stderr.splitlines()[-1]
    bench.process.kill()
    eventually(lambda: running_from(bench.folder) == [])


# Differences.


def event(payload: Any, type_: str = "a.b.made", external_id: str | None = "1") -> dict[str, Any]:
    return {"type": type_, "external_id": external_id, "payload": payload}


def test_equal_events_have_no_difference() -> None:
    assert changes(event({"a": [1, {"b": None}]}), event({"a": [1, {"b": None}]})) == []


def test_changes_are_found_at_any_depth() -> None:
    before = event({"a": {"b": [1, {"c": 2}]}, "gone": None, "n": 1, "x y": 1})
    after = event({"a": {"b": [1, {"c": 3}, 4]}, "n": True, "x y": 2}, external_id=None)
    found = changes(before, after)
    assert [(change.kind, change.field) for change in found] == [
        ("changed", "external_id"),
        ("changed", "payload.a.b[1].c"),
        ("added", "payload.a.b[2]"),
        ("removed", "payload.gone"),
        ("changed", "payload.n"),
        ("changed", 'payload["x y"]'),
    ]
    assert lines(found)[1:4] == [
        "~ payload.a.b[1].c  2 → 3",
        "+ payload.a.b[2]    4",
        "- payload.gone      null",
    ]


def test_many_changes_are_counted_and_long_ones_cut() -> None:
    found = changes(event({}), event({f"f{n}": "x" * 1000 for n in range(MOST_LINES + 5)}))
    shown = lines(found)
    assert shown[-1] == "… and 5 more"
    assert max(map(len, shown)) < 250
