import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError

from app.integrations.connectors.kommo.connector import KommoConnector
from app.integrations.connectors.kommo.schemas import WEBHOOK_SETTINGS, KommoSettings
from app.integrations.errors import (
    AuthenticationFailed,
    InboundError,
    InvalidActionPayload,
    InvalidBody,
    RateLimited,
    Rejected,
)
from app.integrations.models import Event
from app.integrations.registry import check_declarations
from app.integrations.requests import Headers, WebhookRequest
from tests.support.edge import (
    Edge,
    assert_described,
    assert_faults,
    assert_sound,
    events_of,
    failure,
    fixture_files,
    fixture_request,
    run,
)
from tests.support.platform import eventually, running_platform
from tests.support.wire import Exchange, wire_server

HERE = Path(__file__).parent
FIXTURES = fixture_files(HERE / "fixtures")
TOKEN = "plantedLongLivedToken"
URL = "https://hooks.example/webhooks/kommo/plantedUrlToken"


@pytest.fixture
def edge() -> Edge:
    return Edge()


@pytest.fixture
def connector(edge: Edge) -> KommoConnector:
    return KommoConnector(TOKEN, KommoSettings(subdomain="acme"), edge.http())


def request_of(body: str) -> WebhookRequest:
    headers = Headers([("content-type", "application/x-www-form-urlencoded")])
    url = "https://hooks.example/webhooks/kommo/{token}"
    return WebhookRequest("POST", url, headers, body.encode(), KommoConnector.body)


async def from_fixture(connector: KommoConnector, name: str) -> list[Event]:
    path = HERE / "fixtures" / f"{name}.form"
    return await events_of(connector, fixture_request(KommoConnector, path))


def embedded(kind: str, *items: dict[str, Any]) -> dict[str, Any]:
    return {"_links": {}, "_embedded": {kind: list(items)}}


# Declarations, settings and events.


def test_the_declarations_are_sound():
    check_declarations(KommoConnector)
    assert_described(KommoConnector)
    assert {path.stem.split("__")[0] for path in FIXTURES} == {spec.name for spec in KommoConnector.events}


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({"subdomain": "acme"}, "https://acme.kommo.com"),
        ({"subdomain": "acme-2", "domain": "amocrm.ru"}, "https://acme-2.amocrm.ru"),
        ({"base_url": "http://127.0.0.1:8081/"}, "http://127.0.0.1:8081"),
    ],
)
def test_settings_lead_to_the_account(settings, url):
    assert KommoSettings(**settings).api_url == url


@pytest.mark.parametrize(
    "settings",
    [{}, *({"subdomain": bad} for bad in ("", "a.b", "a/b", "a@b", "evil.example#", "-a", "Acme", "a:1"))],
)
def test_the_token_goes_nowhere_else(settings):
    with pytest.raises(ValidationError):
        KommoSettings(**settings)
    with pytest.raises(ValidationError):
        KommoSettings(subdomain="a", domain="evil.example")


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
async def test_each_fixture_becomes_the_events_it_is_named_after(connector, path):
    events = await events_of(connector, fixture_request(KommoConnector, path))
    assert len(events) == (2 if path.stem.endswith(("__two", "__numbered_from_5")) else 1)
    for event in events:
        assert event.type == path.stem.split("__")[0]
        assert_sound(connector, event)


async def test_a_new_stage_names_both(connector):
    (event,) = await from_fixture(connector, "kommo.lead.status_changed")
    raw = event.payload.pop("raw")
    assert raw["custom_fields"][1]["values"] == ["1542067200"]
    assert event.external_id == "lead:25399013:status:1781170000"
    assert event.payload == {
        "entity": "leads",
        "action": "status",
        "entity_id": "25399013",
        "account_id": "7039099",
        "account_subdomain": "acme",
        "responsible_user_id": "504141",
        "modified_user_id": "504141",
        "time": 1781170000,
        "name": "Fifty chairs",
        "price": "1200",
        "status_id": "142",
        "old_status_id": "7039101",
        "pipeline_id": "3507",
        "old_pipeline_id": "3507",
    }


async def test_several_kinds_of_changes_in_one_request_are_several_events(connector):
    body = (
        "leads[add][0][id]=1&leads[add][0][updated_at]=5&leads[status][0][id]=1&leads[status][0][updated_at]=5"
        "&contacts[add][0][id]=2&contacts[add][0][type]=company&task[update][0][id]=3&account[subdomain]=acme"
    )
    events = await events_of(connector, request_of(body))
    assert [(event.type, event.external_id) for event in events] == [
        ("kommo.lead.created", "lead:1:add:5"),
        ("kommo.lead.status_changed", "lead:1:status:5"),
        ("kommo.company.created", None),
        ("kommo.task.updated", None),
    ]


async def test_notes_and_messages_say_where_they_belong(connector):
    (note,) = await from_fixture(connector, "kommo.contact.note_added")
    assert (note.payload["entity_id"], note.payload["note_id"]) == ("3372695", "60864725")
    assert note.payload["text"] == "Wants it by Friday"
    (message,) = await from_fixture(connector, "kommo.message.received")
    assert (message.payload["text"], message.payload["origin"]) == ("Hello?", "telegram")
    assert (message.payload["element_id"], message.payload["contact_id"]) == ("25399013", "3372695")


async def test_a_deletion_may_be_only_an_id_and_claims_none_of_its_own(connector):
    (event,) = await from_fixture(connector, "kommo.lead.deleted__bare")
    assert (event.payload["entity_id"], event.external_id) == ("25399013", None)


async def test_a_webhook_without_changes_makes_no_event(connector):
    assert await events_of(connector, request_of("account[subdomain]=acme")) == []
    assert await events_of(connector, request_of("")) == []


@pytest.mark.parametrize(
    "body",
    [
        "account[id][x]=1",
        "leads[add][0][id][planted]=1",
        "leads[add][0][name][planted]=1",
        "leads[add=1",
        "a&a",
    ],
)
async def test_what_is_no_webhook_is_a_named_error(connector, body):
    with pytest.raises(InboundError) as caught:
        await events_of(connector, request_of(body))
    assert isinstance(caught.value, InvalidBody)
    assert "planted" not in str(caught.value)


# Actions.


async def test_leads_are_created_and_updated(edge, connector):
    edge.say(embedded("leads", {"id": 7, "request_id": "0"}))
    lead = {"name": "Chairs", "price": 100, "contact_ids": [1, 2], "company_id": 3, "tags": ["web"]}
    assert (await run(connector, "create_lead", **lead))["id"] == 7
    method, path, content = edge.sent()
    assert (method, path, str(edge.requests[-1].url.host)) == ("POST", "/api/v4/leads", "acme.kommo.com")
    assert edge.requests[-1].headers["authorization"] == f"Bearer {TOKEN}"
    assert content == [
        {
            "name": "Chairs",
            "price": 100,
            "_embedded": {
                "tags": [{"name": "web"}],
                "contacts": [{"id": 1, "is_main": True}, {"id": 2}],
                "companies": [{"id": 3}],
            },
        }
    ]
    edge.say({"id": 7, "updated_at": 1})
    await run(connector, "update_lead", id=7, status_id=142, loss_reason_id=None)
    assert edge.sent() == ("PATCH", "/api/v4/leads/7", {"status_id": 142, "loss_reason_id": None})
    with pytest.raises(InvalidActionPayload, match="at least one field"):
        await run(connector, "update_lead", id=7)


async def test_contacts_are_created_and_found(edge, connector):
    edge.say(embedded("contacts", {"id": 8}))
    custom = [{"field_id": 5, "values": [{"value": "x"}]}]
    await run(connector, "create_contact", name="Ann", email="a@b.c", phone="+1", custom_fields_values=custom)
    (contact,) = edge.sent()[2]
    assert contact["custom_fields_values"] == [
        *custom,
        {"field_code": "EMAIL", "values": [{"value": "a@b.c", "enum_code": "WORK"}]},
        {"field_code": "PHONE", "values": [{"value": "+1", "enum_code": "WORK"}]},
    ]
    found = await run(connector, "find_contact", query="a@b.c", with_leads=True)
    assert found["contacts"] == [{"id": 8}]
    assert edge.sent()[1] == "/api/v4/contacts?query=a%40b.c&limit=10&with=leads"
    edge.say(httpx2.Response(204))
    assert (await run(connector, "find_contact", query="nobody"))["contacts"] == []


async def test_notes_are_written(edge, connector):
    edge.say(embedded("notes", {"id": 9, "entity_id": 7}))
    await run(connector, "add_note", entity_id=7, text="Hi")
    expected = [{"note_type": "common", "params": {"text": "Hi"}}]
    assert edge.sent() == ("POST", "/api/v4/leads/7/notes", expected)


# Registration.


async def test_kommo_is_told_and_the_connections_earlier_urls_are_taken_away(edge, connector):
    earlier = "https://hooks.example/webhooks/kommo/earlier"
    listed = [{"destination": d} for d in (earlier, URL, "https://hooks.example/webhooks/kommo/another")]
    edge.say(embedded("webhooks", *listed), {"id": 1}, httpx2.Response(204))
    await connector.register_webhook(URL, {}, former=[earlier])
    assert [edge.sent(i) for i in (1, 2)] == [
        ("POST", "/api/v4/webhooks", {"destination": URL, "settings": list(WEBHOOK_SETTINGS)}),
        ("DELETE", "/api/v4/webhooks", {"destination": earlier}),
    ]
    assert len(edge.requests) == 3


async def test_unregistering_takes_only_the_connections_urls_away(edge, connector):
    another = {"destination": "https://hooks.example/webhooks/kommo/another"}
    edge.say(embedded("webhooks", {"destination": URL}, another), httpx2.Response(204))
    await connector.unregister_webhook(urls=[URL])
    assert edge.sent() == ("DELETE", "/api/v4/webhooks", {"destination": URL})
    assert len(edge.requests) == 2


async def test_no_webhooks_yet_is_an_empty_answer(edge, connector):
    edge.say(httpx2.Response(204), httpx2.Response(400, json={"title": "Bad", "detail": URL}))
    with pytest.raises(Rejected) as caught:
        await connector.register_webhook(URL, {})
    assert "planted" not in str(caught.value)


def test_what_is_subscribed_to_is_in_kommos_words():
    assert {"add_lead", "status_lead", "note_company", "responsible_task"} <= set(WEBHOOK_SETTINGS)
    assert len(set(WEBHOOK_SETTINGS)) == len(WEBHOOK_SETTINGS)


# The client.


async def test_every_fault_becomes_the_right_error(edge, connector):
    await assert_faults(edge, lambda: run(connector, "add_note", entity_id=7, text="x"), TOKEN)


async def test_a_refusal_names_the_fields(edge, connector):
    said = {
        "validation-errors": [
            {"request_id": "0", "errors": [{"code": "X", "path": "price", "detail": "should be of type int"}]}
        ],
        "title": "Bad Request",
        "status": 400,
        "detail": "Request validation failed",
    }
    error = await failure(edge, lambda: run(connector, "create_lead", name="x"), said, status=400)
    assert type(error) is Rejected
    assert "price: should be of type int" in str(error)


async def test_a_blocked_account_is_told_from_a_bad_token(edge, connector):
    page = httpx2.Response(403, text="<html>403 Forbidden</html>", headers={"content-type": "text/html"})
    blocked = await failure(edge, connector.check, page)
    assert type(blocked) is RateLimited
    assert blocked.retry_after == 300
    scope = await failure(
        edge, connector.check, {"title": "Forbidden", "detail": "Invalid scope"}, status=403
    )
    assert type(scope) is AuthenticationFailed
    unpaid = await failure(edge, connector.check, {"title": "Payment Required"}, status=402)
    assert type(unpaid) is Rejected


# End to end.


async def test_kommo_is_told_sends_and_an_action_reaches_it(tmp_path):
    told: list[dict[str, Any]] = []

    async def behaviour(exchange: Exchange) -> None:
        while head := await exchange.request():
            method, path = head.split(b" ")[:2]
            content = head.partition(b"\r\n\r\n")[2]
            if method == b"GET":
                await exchange.answer(204)
            elif path == b"/api/v4/webhooks":
                told.append(json.loads(content))
                await exchange.answer(201, b"{}")
            else:
                await exchange.answer(200, json.dumps(embedded("leads", {"id": 7})).encode())

    async with (
        wire_server(behaviour) as kommo,
        running_platform(tmp_path, KommoConnector, public_url=True) as platform,
    ):
        connection = await platform.connect(
            "kommo", secrets={"access_token": TOKEN}, settings={"base_url": kommo.url}
        )
        path = f"/api/v1/connections/{connection['id']}"
        await eventually(lambda: platform.get(path), lambda c: c["registration"]["state"] == "done")
        body = (HERE / "fixtures" / "kommo.lead.updated__two.form").read_bytes().strip()
        headers = {"content-type": "application/x-www-form-urlencoded"}
        for _ in range(2):  # Kommo tries again what it holds for lost
            answer = await platform.client.post(told[0]["destination"], content=body, headers=headers)
            assert answer.status_code == 200
        stranger = connection["webhook_url"][:-4] + "xxxx"
        assert (await platform.client.post(stranger, content=body, headers=headers)).status_code == 404
        await platform.settled()
        events = await platform.feed_of(2)
        assert [event["payload"]["name"] for event in events] == ["Fifty chairs", "Ten desks"]
        action = await platform.act(connection["id"], "create_lead", {"name": "Chairs"})
        assert (action["state"], action["result"]["id"]) == ("succeeded", 7)
