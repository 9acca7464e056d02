"""The connectors and pieces of connectors that the pages show work as they stand."""

import hashlib
import hmac
import textwrap
import time
from pathlib import Path
from typing import Any

import httpx2

from app.integrations import base, http, models, requests, specs, verification
from app.integrations.base import BaseIntegration
from app.integrations.http import ConnectorHttp
from app.integrations.models import Action
from app.integrations.registry import Integration, check_declarations
from app.integrations.requests import Headers, WebhookRequest
from tests.support.platform import running_platform

from .markdown import DOCS, ROOT, blocks

BODY = b'{"id": "inc_1", "title": "All is slow"}'


def _python(page: Path, containing: str) -> str:
    (found,) = [b.text for b in blocks(page) if b.language == "python" and containing in b.text]
    return found


def _connector_in(source: str) -> type[BaseIntegration]:
    names: dict[str, Any] = {"__name__": "example"}
    for module in (base, http, models, requests, specs, verification):
        names |= {name: value for name, value in vars(module).items() if not name.startswith("_")}
    exec(compile(source, "example", "exec"), names)
    (found,) = [
        value
        for value in names.values()
        if isinstance(value, type)
        and issubclass(value, BaseIntegration)
        and value.__module__ == "example"
        and value is not BaseIntegration
    ]
    return found


def _class_with(body: str) -> type[BaseIntegration]:
    head = 'class Acme(BaseIntegration):\n    name = "Acme"\n    key = "acme"\n'
    return _connector_in(head + textwrap.indent(body, "    "))


async def test_the_connector_in_the_readme_takes_a_signed_webhook(tmp_path: Path) -> None:
    connector = _connector_in(_python(ROOT / "README.md", "StatusPageConnector"))
    secrets = {"api_key": "k", "signing_secret": "not-so-secret"}
    async with running_platform(tmp_path, connector) as platform:
        connection = await platform.connect("status_page", secrets=secrets)
        signature = hmac.new(b"not-so-secret", BODY, hashlib.sha256).hexdigest()
        for given, status in ((signature, 200), ("0" * 64, 401)):
            headers = {"X-Signature": f"sha256={given}"}
            answer = await platform.client.post(connection["webhook_url"], content=BODY, headers=headers)
            assert answer.status_code == status
        (event,) = await platform.feed_of(1)
        assert event["type"] == "status_page.incident.opened"
        assert event["external_id"] == "inc_1"


async def test_the_connector_in_the_readme_acts() -> None:
    asked: list[httpx2.Request] = []

    def provider(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        return httpx2.Response(201, json={"id": "upd_1"})

    integration = Integration(_connector_in(_python(ROOT / "README.md", "StatusPageConnector")), "README.md")
    client = ConnectorHttp(transport=httpx2.MockTransport(provider))
    instance = integration.create({"api_key": "k", "signing_secret": "s"}, None, client)
    action = Action(type="post_update", payload={"incident": "inc_1", "text": "Better now"})
    assert await instance.execute(action) == {"id": "upd_1"}
    assert str(asked[0].url) == "https://api.status.example/incidents/inc_1/updates"
    assert asked[0].headers["authorization"] == "Bearer k"


def test_the_connector_in_the_readme_is_about_25_lines() -> None:
    source = _python(ROOT / "README.md", "StatusPageConnector")
    assert len([line for line in source.splitlines() if line.strip()]) <= 27


def test_the_verification_in_the_contract_takes_what_a_provider_signs() -> None:
    source = _python(DOCS / "connector-contract.md", "X-Acme-Signature")
    connector = _class_with('secrets = [SecretSpec("signing_secret", "Signs")]\n' + source)
    check_declarations(connector)
    now = time.time()
    signed = f"v0:{int(now)}:".encode() + BODY
    signature = hmac.new(b"s", signed, hashlib.sha256).hexdigest()
    headers = Headers([("X-Acme-Signature", f"v0={signature}"), ("X-Acme-Time", str(int(now)))])
    request = WebhookRequest("POST", "", headers, BODY, connector.body)
    assert connector.verification is not None
    connector.verification.verify(request, {"signing_secret": ["s"]}, now)


async def test_the_reply_in_the_contract_answers_a_challenge(tmp_path: Path) -> None:
    source = _python(DOCS / "connector-contract.md", "reply_within = 2.0")
    connector = _class_with(
        source
        + 'events = [EventSpec("acme.thing.happened", "It did")]\n'
        + "async def handle_webhook(self, payload):\n"
        + '    return Event(type="acme.thing.happened", payload=payload)\n'
    )
    async with running_platform(tmp_path, connector) as platform:
        url = (await platform.connect("acme"))["webhook_url"]
        answer = await platform.client.post(url, json={"type": "challenge", "challenge": "c4"})
        assert (answer.status_code, answer.text) == (200, "c4")
        answer = await platform.client.post(url, json={"type": "thing"})
        assert (answer.status_code, answer.text) == (200, "")
        assert [event["payload"] for event in await platform.feed_of(1)] == [{"type": "thing"}]


async def test_a_replied_webhook_can_be_replayed_once_the_connector_is_mended(tmp_path: Path) -> None:
    source = (
        "reply_within = 2.0\n"
        'events = [EventSpec("acme.thing.happened", "It did")]\n'
        "mended = False\n"
        "async def receive(self, request):\n"
        "    if not self.mended:\n"
        '        raise ValueError("not yet")\n'
        '    event = Event(type="acme.thing.happened", payload=request.items[0])\n'
        '    return Reply(b"done", events=(event,))\n'
    )
    connector: Any = _class_with(source)
    async with running_platform(tmp_path, connector) as platform:
        url = (await platform.connect("acme"))["webhook_url"]
        answer = await platform.client.post(url, json={"n": 1})
        assert (answer.status_code, answer.text) == (200, "")
        (webhook,) = await platform.webhooks()
        assert webhook["state"] == "failed"
        connector.mended = True
        for _ in range(2):  # what was processed can be replayed too, and stays processed
            await platform.client.post(f"/api/v1/webhooks/{webhook['id']}/replay")
            (replayed,) = await platform.settled()
            assert (replayed["state"], replayed["reason_code"]) == ("processed", None)
            assert [event["payload"] for event in await platform.feed()] == [{"n": 1}]


async def test_the_poll_in_the_contract_returns_items_and_cursor() -> None:
    source = _python(DOCS / "connector-contract.md", "poll_orders")
    connector = _class_with(
        'polls = [PollSpec("orders", every=60.0, handler="poll_orders")]\n'
        "def __init__(self, http: ConnectorHttp):\n"
        "    self.http = http\n" + source
    )
    check_declarations(connector)
    page = {"orders": [{"id": 1}], "next": "p2"}
    transport = httpx2.MockTransport(lambda request: httpx2.Response(200, json=page))
    instance: Any = connector(http=ConnectorHttp("https://acme.example", transport=transport))  # type: ignore[call-arg]
    assert await instance.poll_orders(None) == ([{"id": 1}], "p2")


async def test_a_b_a_becomes_the_events_that_the_page_says(tmp_path: Path) -> None:
    source = (
        'events = [EventSpec("acme.booking.changed", "It was")]\n'
        "async def handle_webhook(self, payload):\n"
        '    return Event(type="acme.booking.changed", external_id=payload["id"], payload=payload)\n'
    )
    async with running_platform(tmp_path, _class_with(source)) as platform:
        url = (await platform.connect("acme"))["webhook_url"]
        for room, revision in (("A", 1), ("B", 2), ("B", 2), ("A", 3), ("A", 1)):
            body = {"id": "bk_1", "room": room, "revision": revision}
            assert (await platform.client.post(url, json=body)).status_code == 200
        assert len(await platform.settled()) == 5
        events = await platform.feed()
    assert [(event["payload"]["revision"], event["conflicting"]) for event in events] == [
        (1, False),
        (2, True),
        (3, True),
    ]
