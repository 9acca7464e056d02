"""`trunkline new`, as a newcomer uses it: in an empty folder, one command after another."""

import asyncio
import hashlib
import hmac
import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.cli.exits import ExitCode
from app.scaffold.naming import Naming
from app.scaffold.rendering import SHAPES, SIGNING_SECRET
from tests.support.process import connect, platform_process, walk
from tests.support.specification import ROOT

from .conftest import Process, Ran, run

CODES = [f"C{number:02}" for number in range(1, 15)]
SAMPLE = {
    "eventId": "evt_9f3",
    "type": "order.paid",
    "data": {"order": {"class": "b2b", "total": 12.5, "lines": [{"sku": "a"}, {"sku": "b", "note": None}]}},
    "customer": {"email": "ann@corp.io", "accessToken": "hunter2"},
}
BAD_NAMES = {
    "Acme": "acme",
    "AcmeCrm": "acme_crm",
    "my-service": "my_service",
    "my service": "my_service",
    "1st": "service_1st",
    "_x": "x",
    "": "my_service",
    "данные": "my_service",
    "../evil": "evil",
    "a/b": "a_b",
    "class": "class_service",
    "import": "import_service",
    "tests": "tests_service",
    "connector": "connector_service",
    "json": "json_service",
    "email": "email_service",
    "a__b": "a__b_service",
    "x" * 41: "at most 40",
    "telegram": "my_telegram",
}


def new(folder: Path, *arguments: str, **environment: str) -> Ran:
    return run("new", *arguments, cwd=folder, environment=environment)


def made(folder: Path, *arguments: str) -> dict[str, Any]:
    ran = new(folder, *arguments, "--json")
    assert ran.exit_code == ExitCode.OK, ran.stderr
    return ran.json


def all_checks_pass(folder: Path, *arguments: str) -> bool:
    ran = run("check", *arguments, cwd=folder)
    assert ran.exit_code == ExitCode.OK, ran.stdout + ran.stderr
    head, row = ran.stdout.splitlines()[:2]
    return head.split()[1:] == CODES and set(row.split()[1:]) == {"✓"}


def pytest_in(folder: Path) -> str:
    """The generated tests, run without anything of this repository's own set-up."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("shape", SHAPES)
def test_two_commands_in_an_empty_folder_make_a_connector_that_passes_every_check(
    tmp_path: Path, shape: str
) -> None:
    told = new(tmp_path, "acme", "--shape", shape)
    assert told.exit_code == ExitCode.OK, told.stderr
    assert "invented" in told.stdout
    assert all_checks_pass(tmp_path, "acme")
    assert "passed" in pytest_in(tmp_path)


def test_a_captured_payload_becomes_models_and_a_fixture(tmp_path: Path) -> None:
    (tmp_path / "captured.json").write_text(json.dumps(SAMPLE))
    told = made(tmp_path, "shop", "--shape", "crm", "--from", "captured.json")
    assert (told["event"], told["external_id"]) == ("shop.order.paid", "eventId")
    assert told["scrubbed"] == ["customer.email", "customer.accessToken"]
    assert all_checks_pass(tmp_path, "shop")
    pytest_in(tmp_path)
    everything = "".join(
        path.read_text() for path in (tmp_path / "connectors").rglob("*.*") if path.is_file()
    )
    assert "hunter2" not in everything
    assert "corp.io" not in everything


def test_what_was_chosen_and_replaced_is_said(tmp_path: Path) -> None:
    (tmp_path / "captured.json").write_text(json.dumps([SAMPLE, {**SAMPLE, "eventId": "evt_2"}]))
    said = new(tmp_path, "shop", "--from", "captured.json", "--event", "order.settled").stdout
    for words in (
        "2 items of the sample",
        "shop.order.settled is the event",
        "external_id is eventId",
        "Replaced in the fixture: customer.email, customer.accessToken.",
    ):
        assert words in said
    assert all_checks_pass(tmp_path, "shop")


def test_the_commands_that_are_shown_lead_to_an_event(tmp_path: Path) -> None:
    """A real platform, and the signed webhook word for word as it is printed."""
    told = made(tmp_path, "acme", "--shape", "messenger")
    curl = shlex.split(next(step["command"] for step in told["next"] if step["command"].startswith("curl")))
    name, _, value = curl[curl.index("-H") + 1].partition(": ")
    body = (tmp_path / curl[curl.index("--data-binary") + 1].removeprefix("@")).read_bytes()

    async def follow() -> None:
        async with platform_process(tmp_path / "data", connectors=tmp_path / "connectors") as platform:
            async with platform.client() as client:
                secrets = {"api_key": "made-up", "signing_secret": SIGNING_SECRET}
                connection = await connect(client, "acme", secrets=secrets)
                url = connection["webhook_url"]
                for given, status in ((value, 200), (value[:-1] + "0", 401), (value, 200)):
                    answer = await client.post(url, content=body, headers={name: given})
                    assert answer.status_code == status
                while not (events := await walk(client, "/api/v1/events")):
                    await asyncio.sleep(0.05)
            assert [(e["type"], e["external_id"]) for e in events] == [("acme.message.received", "evt_1")]
            assert events[0]["payload"]["text"] == "Is anybody there?"

    asyncio.run(follow())


@pytest.mark.parametrize("shape", SHAPES)
def test_the_twin_takes_what_the_connector_sends_and_sends_what_it_takes(tmp_path: Path, shape: str) -> None:
    """Twin and platform in processes of their own, and orders as a person gives them."""
    made(tmp_path, "acme", "--shape", shape)
    actions = {
        "generic": ("create_item", {"title": "A first one"}),
        "messenger": ("send_message", {"chat_id": "c_7", "text": "Hello"}),
        "crm": ("upsert_contact", {"email": "ann@example.com", "name": "Ann"}),
        "email": (
            "send_email",
            {"sender": "us@example.com", "to": ["ann@example.com"], "subject": "Hi", "text": "Hello"},
        ),
    }
    orders = {
        "generic": (["create", "--title", "Another"], "acme.item.created"),
        "messenger": (["say", "--text", "Good day"], "acme.message.received"),
        "crm": (["save", "--email", "ann@example.com", "--phone", "+15005550006"], "acme.contact.updated"),
        "email": (["bounce", "--reason", "gone"], "acme.mail.bounced"),
    }
    variable = {"TRUNKLINE_CONNECTORS_PATH": str(tmp_path / "connectors")}
    twin = Process(tmp_path, "twin", "acme", "--port", "0", "--json", environment=variable)

    def order(*words: str) -> Any:
        ran = run("twin", "acme", *words, "--url", address, "--json", cwd=tmp_path)
        assert ran.exit_code == ExitCode.OK, ran.stderr
        return ran.json

    async def talk() -> None:
        async with (
            platform_process(tmp_path / "data", connectors=tmp_path / "connectors") as platform,
            platform.client(timeout=30) as client,
        ):
            secrets = {"api_key": "made-up", "signing_secret": "s3cret"}
            made_connection = await connect(client, "acme", secrets=secrets, settings={"base_url": address})
            path, url = f"/api/v1/connections/{made_connection['id']}", made_connection["webhook_url"]
            assert (await client.post(f"{path}/check")).status_code == 200
            kind, payload = actions[shape]
            body = {"type": kind, "payload": payload}
            answer = await client.post(f"{path}/actions", json=body, headers={"Prefer": "wait=10"})
            assert answer.json()["state"] == "succeeded", answer.text
            order("do", "webhook", "--webhook-url", url, "--signing-secret", "s3cret")
            words, event = orders[shape]
            assert order("do", *words)["answered"] == 200
            while not (events := await walk(client, "/api/v1/events")):
                await asyncio.sleep(0.05)
            assert [one["type"] for one in events] == [event]

    try:
        address = json.loads(twin.line())["url"]
        asyncio.run(talk())
        state = order("state")
        [held] = [value for value in state.values() if isinstance(value, list)]
        assert held
        order("do", "reset")
        assert [value for value in order("state").values() if value] == []
    finally:
        twin.stop()


def test_a_twin_whose_orders_cannot_be_options_says_so(tmp_path: Path) -> None:
    made(tmp_path, "acme")
    twin = tmp_path / "connectors" / "acme" / "twin.py"
    twin.write_text(twin.read_text().replace("title: str", "url: str"))
    ran = run("twin", "acme", cwd=tmp_path)
    assert ran.exit_code == ExitCode.FAILED
    assert "Rename the field" in ran.stderr


def test_a_twin_that_knows_no_url_says_so(tmp_path: Path) -> None:
    made(tmp_path, "acme")
    variable = {"TRUNKLINE_CONNECTORS_PATH": str(tmp_path / "connectors")}
    twin = Process(tmp_path, "twin", "acme", "--port", "0", "--json", environment=variable)
    try:
        url = json.loads(twin.line())["url"]
        ran = run("twin", "acme", "do", "create", "--title", "x", "--url", url, cwd=tmp_path)
        assert ran.exit_code == ExitCode.FAILED
        assert "No webhook URL is known" in ran.stderr
        assert httpx2.get(f"{url}/account").status_code == 401
        body = json.dumps({"id": "e1"})
        deliver = ["do", "deliver", "--body", body, "--url", url]
        assert run("twin", "acme", *deliver, cwd=tmp_path).exit_code == ExitCode.FAILED
    finally:
        twin.stop()


# What is refused.


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_cannot_be_is_refused_with_one_that_can(tmp_path: Path, name: str) -> None:
    ran = new(tmp_path, "--", name)
    assert ran.exit_code == ExitCode.FAILED
    assert BAD_NAMES[name] in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_ever_overwritten(tmp_path: Path) -> None:
    made(tmp_path, "acme")
    mine = tmp_path / "connectors" / "acme" / "connector.py"
    mine.write_text("# mine")
    ran = new(tmp_path, "acme")
    assert ran.exit_code == ExitCode.FAILED
    assert "exists; nothing is overwritten" in ran.stderr
    assert mine.read_text() == "# mine"
    (tmp_path / "connectors" / "beta").mkdir()
    assert new(tmp_path, "beta").exit_code == ExitCode.FAILED
    (tmp_path / "connectors" / "gone").symlink_to("nowhere")
    assert "exists" in new(tmp_path, "gone").stderr


def test_the_key_of_another_folders_connector_is_taken(tmp_path: Path) -> None:
    made(tmp_path, "acme")
    source = tmp_path / "connectors" / "acme"
    source.rename(source.with_name("renamed"))
    ran = new(tmp_path, "acme")
    assert ran.exit_code == ExitCode.FAILED
    assert "already taken" in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shape", "fax"], "fax"),
        (["--from", "none.json"], "No such file"),
        (["--from", "bad.json"], "not JSON"),
        (["--event", "order.paid"], "--from"),
        (["--from", "good.json", "--event", "Order Paid"], "order.paid"),
        (["--into", "good.json"], "is a file"),
        (["--into", "itself"], "is a connector itself"),
    ],
)
def test_what_cannot_be_done_leaves_nothing_behind(tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "good.json").write_text("{}")
    (tmp_path / "itself").mkdir()
    (tmp_path / "itself" / "connector.py").write_text("")
    before = sorted(tmp_path.rglob("*"))
    ran = new(tmp_path, "acme", *arguments)
    assert ran.exit_code in (ExitCode.FAILED, ExitCode.USAGE)
    assert words in ran.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_that_ends_half_way_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.scaffold.errors import CannotScaffold
    from app.scaffold.writing import Place, write

    wrote = Path.write_text

    def full(path: Path, *arguments: Any) -> int:
        if path.name == "second":
            raise OSError(28, "No space left on device")
        return wrote(path, *arguments)

    monkeypatch.setattr(Path, "write_text", full)
    places = [Place(tmp_path / "new" / "a", {"first": "1"}), Place(tmp_path / "b", {"x/second": "2"})]
    with pytest.raises(CannotScaffold, match="No space left on device"):
        write(places, (tmp_path / "docs" / "page.md", "text"))
    assert list(tmp_path.iterdir()) == []


# Where it goes.


def test_the_configured_folder_is_where_it_goes_and_where_check_looks(tmp_path: Path) -> None:
    ran = new(tmp_path, "acme", TRUNKLINE_CONNECTORS_PATH=str(tmp_path / "mine"))
    assert ran.exit_code == ExitCode.OK
    assert stat.S_IMODE((tmp_path / "mine" / "acme").stat().st_mode) & 0o500 == 0o500
    checked = run(
        "check", "acme", cwd=tmp_path, environment={"TRUNKLINE_CONNECTORS_PATH": str(tmp_path / "mine")}
    )
    assert checked.exit_code == ExitCode.OK


def test_the_check_that_is_shown_works_for_any_folder(tmp_path: Path) -> None:
    for into in ("deep/er", ".", str(tmp_path / "else where")):
        told = made(tmp_path, f"acme{len(into)}", "--into", into)
        command = shlex.split(told["next"][0]["command"])
        assert command[:2] == ["trunkline", "check"]
        assert all_checks_pass(tmp_path, *command[2:])


def test_in_the_repository_tests_and_page_go_where_the_others_are(tmp_path: Path) -> None:
    """In a copy of it: `app`, and the folders in which tests and pages of connectors are."""
    shutil.copytree(ROOT / "app", tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("tests/integrations/connectors", "docs/connectors"):
        (tmp_path / folder).mkdir(parents=True)
    inside = ("--into", "app/integrations/connectors")
    told = made(tmp_path, "email_hub", "--shape", "email", *inside)
    assert told["next"][0]["command"] == "trunkline check email_hub"
    assert "tests/integrations/connectors/email_hub/test_email_hub.py" in str(told["files"])
    assert (tmp_path / "docs/connectors/email_hub.md").exists()
    assert all_checks_pass(tmp_path, "email_hub")
    test = (tmp_path / "tests/integrations/connectors/email_hub/test_email_hub.py").read_text()
    assert "CHECKS" not in test  # tests/contract has them
    assert "passed" in pytest_in(tmp_path)
    assert new(tmp_path, "email_hub", *inside).exit_code == ExitCode.FAILED


def test_a_signature_is_the_providers() -> None:
    from app.scaffold.rendering import render

    rendered = render(Naming("acme"), SHAPES["generic"], own_folder=True)
    body = rendered.tests[rendered.fixture].encode()
    digest = hmac.new(SIGNING_SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert rendered.signature == f"sha256={digest}"


@pytest.fixture(autouse=True)
def _unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TRUNKLINE_")]:
        monkeypatch.delenv(name)
