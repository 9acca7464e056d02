import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.integrations.connectors.hubspot.connector import HubspotConnector
from app.integrations.connectors.hubspot.schemas import HubspotSettings
from app.integrations.errors import (
    AuthenticationFailed,
    InvalidActionPayload,
    InvalidBody,
    RateLimited,
    Refused,
    Rejected,
)
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
from tests.support.platform import running_platform
from tests.support.wire import Exchange, wire_server

HERE = Path(__file__).parent
FIXTURES = fixture_files(HERE / "fixtures")
VECTORS = {
    v["name"]: v
    for v in json.loads((HERE.parents[2] / "fixtures" / "signatures.json").read_text())["vectors"]
}
TOKEN = "pat-eu1-plantedTokenValue"
CONTACT = {"id": "512", "properties": {"email": "ann@example.com"}, "archived": False}


@pytest.fixture
def edge() -> Edge:
    return Edge()


@pytest.fixture
def connector(edge: Edge) -> HubspotConnector:
    return HubspotConnector(TOKEN, HubspotSettings(), edge.http())


def load(name: str) -> list[dict[str, Any]]:
    return json.loads((HERE / "fixtures" / f"{name}.json").read_text())


# Declarations and events.


def test_the_declarations_are_sound():
    check_declarations(HubspotConnector)
    assert_described(HubspotConnector)
    assert {path.stem.split("__")[0] for path in FIXTURES} == {spec.name for spec in HubspotConnector.events}


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
async def test_each_fixture_becomes_the_events_it_is_named_after(connector, path):
    request = fixture_request(HubspotConnector, path)
    events = await events_of(connector, request)
    assert len(events) == len(json.loads(request.body)) == len({event.external_id for event in events})
    for event in events:
        assert event.type == path.stem.split("__")[0]
        assert_sound(connector, event)


async def test_a_change_names_record_property_and_value(connector):
    event = await connector.handle_webhook(load("hubspot.deal.updated__generic")[0])
    raw = event.payload.pop("raw")
    assert raw["isSensitive"] is False
    assert event.payload == {
        "subscription_type": "object.propertyChange",
        "object_type": "deal",
        "object_id": "1246991",
        "occurred_at": 1781170052000,
        "portal_id": "62515",
        "app_id": "54321",
        "change_source": "CRM_UI",
        "source_id": None,
        "attempt": 0,
        "property_name": "amount",
        "property_value": "1200",
    }


async def test_another_attempt_is_the_same_event_and_nothing_else_is(connector):
    item = load("hubspot.association.changed")[0]
    first = (await connector.handle_webhook(item)).external_id
    assert (await connector.handle_webhook(item | {"attemptNumber": 3})).external_id == first
    # HubSpot does not promise that eventId is unique; a primary association is announced twice.
    for other in ({"occurredAt": 1}, {"subscriptionId": 1}, {"portalId": 1}, {"isPrimaryAssociation": False}):
        assert (await connector.handle_webhook(item | other)).external_id != first
    assert first.startswith("62515-20055-")


async def test_merges_and_associations_name_both_sides(connector):
    merged = (await connector.handle_webhook(load("hubspot.contact.merged")[0])).payload
    assert (merged["primary_object_id"], merged["merged_object_ids"]) == ("1246965", ["1247065"])
    associated = (await connector.handle_webhook(load("hubspot.association.changed")[0])).payload
    assert (associated["from_object_id"], associated["to_object_id"]) == ("1246965", "1246966")
    assert associated["removed"] is False


async def test_a_custom_object_is_named_by_its_type(connector):
    event = await connector.handle_webhook(load("hubspot.notification.received__custom_object")[0])
    assert event.payload["object_type"] == "2-3456"


@pytest.mark.parametrize(
    "item",
    [5, None, [], {}, {"eventId": 1, "subscriptionType": "contact.creation"}, {"eventId": "planted\x00"}],
)
async def test_what_is_no_notification_is_a_named_error(connector, item):
    with pytest.raises(InvalidBody) as caught:
        await connector.handle_webhook(item)
    assert caught.value.code == "invalid_notification"
    assert "planted" not in str(caught.value)


# Verification.


def signed(body: bytes, url: str, secret: str, at: float) -> dict[str, str]:
    stamp = str(int(at * 1000))
    message = b"POST" + url.encode() + body + stamp.encode()
    signature = base64.b64encode(hmac.digest(secret.encode(), message, hashlib.sha256)).decode()
    return {"X-HubSpot-Signature-v3": signature, "X-HubSpot-Request-Timestamp": stamp}


def request_of(vector: dict[str, Any], **changed: Any) -> WebhookRequest:
    made = vector | changed
    headers = [(made["header"], made["value"]), (made["timestamp_header"], made["timestamp"])]
    body = made["body"].encode()
    return WebhookRequest(made["method"], made["url"], Headers(headers), body, HubspotConnector.body)


def test_hubspots_own_vector_is_genuine_at_its_time():
    vector = VECTORS["hubspot v3"]
    live, now = {"client_secret": [vector["secret"]]}, int(vector["timestamp"]) / 1000
    HubspotConnector.verification.verify(request_of(vector), live, now)
    for changed in ({"url": vector["url"] + "?x=1"}, {"method": "PUT"}, {"body": "{}"}):
        with pytest.raises(Refused):
            HubspotConnector.verification.verify(request_of(vector, **changed), live, now)
    with pytest.raises(Refused) as caught:
        HubspotConnector.verification.verify(request_of(vector), live, now + 301)
    assert caught.value.code == "timestamp_old"


def test_a_query_is_signed_decoded():
    sent, decoded = (
        "https://h.example/w?src=hs%3Aapp%2Fv3&x=%28a%29",
        "https://h.example/w?src=hs:app/v3&x=(a)",
    )
    headers = signed(b"[]", decoded, "s", 1000.0)
    request = WebhookRequest("POST", sent, Headers(headers.items()), b"[]", HubspotConnector.body)
    HubspotConnector.verification.verify(request, {"client_secret": ["s"]}, 1000.0)


# Actions.


async def test_contacts_are_created_updated_and_upserted(edge, connector):
    edge.say(CONTACT)
    assert (await run(connector, "create_contact", properties={"email": "ann@example.com"}))["id"] == "512"
    assert edge.sent() == (
        "POST",
        "/crm/objects/2026-09/contacts",
        {"properties": {"email": "ann@example.com"}},
    )
    assert edge.requests[-1].headers["authorization"] == f"Bearer {TOKEN}"
    await run(
        connector, "update_contact", contact_id="a/b@x.com", id_property="email", properties={"phone": ""}
    )
    method, path, content = edge.sent()
    assert (method, path) == ("PATCH", "/crm/objects/2026-09/contacts/a%2Fb%40x.com?idProperty=email")
    assert content == {"properties": {"phone": ""}}
    edge.say({"status": "COMPLETE", "results": [{**CONTACT, "new": True}]})
    result = await run(connector, "upsert_contact", id="ann@example.com", properties={"firstname": "Ann"})
    assert result["new"]
    assert edge.sent()[1:] == (
        "/crm/objects/2026-09/contacts/batch/upsert",
        {"inputs": [{"id": "ann@example.com", "idProperty": "email", "properties": {"firstname": "Ann"}}]},
    )


async def test_an_upsert_that_hubspot_could_not_do_is_rejected_with_its_words(edge, connector):
    part = {"results": [], "errors": [{"message": "email is not valid", "status": "error"}]}
    error = await failure(
        edge, lambda: run(connector, "upsert_contact", id="x", properties={"a": "b"}), part, status=207
    )
    assert type(error) is Rejected
    assert "email is not valid" in str(error)


async def test_contacts_are_found_by_address(edge, connector):
    edge.say({"total": 1, "results": [CONTACT]})
    found = await run(connector, "find_contact", email="ann@example.com", properties=["email"])
    assert found["results"][0]["id"] == "512"
    assert edge.sent()[2] == {
        "properties": ["email"],
        "limit": 10,
        "filterGroups": [
            {"filters": [{"propertyName": "email", "operator": "EQ", "value": "ann@example.com"}]}
        ],
    }
    with pytest.raises(InvalidActionPayload, match="email or query"):
        await run(connector, "find_contact")


async def test_deals_and_notes_are_associated_by_hubspots_own_types(edge, connector):
    def types(sent: dict[str, Any]) -> list[tuple[str, int]]:
        return [(a["to"]["id"], a["types"][0]["associationTypeId"]) for a in sent["associations"]]

    edge.say({"id": "9", "properties": {}})
    await run(connector, "create_deal", properties={"dealname": "A"}, contact_ids=["1", 2], company_id=3)
    assert types(edge.sent()[2]) == [("1", 3), ("2", 3), ("3", 5)]
    await run(
        connector, "create_note", hs_note_body="Hi", hs_timestamp="2026-11-22T10:00:00Z",
        contact_ids=["1"], company_ids=["2"], deal_ids=["3"], ticket_ids=["4"],
    )  # fmt: skip
    method, path, note = edge.sent()
    assert (method, path) == ("POST", "/crm/objects/2026-09/notes")
    assert types(note) == [("1", 202), ("2", 190), ("3", 214), ("4", 228)]
    assert note["properties"] == {"hs_note_body": "Hi", "hs_timestamp": "2026-11-22T10:00:00Z"}
    with pytest.raises(InvalidActionPayload, match="at least one record"):
        await run(connector, "create_note", hs_note_body="Hi")


# The client.


async def test_every_fault_becomes_the_right_error(edge, connector):
    await assert_faults(edge, lambda: run(connector, "create_contact", properties={"a": "b"}), TOKEN)


@pytest.mark.parametrize(("policy", "pause"), [("TEN_SECONDLY_ROLLING", 10), ("DAILY", 3600), ("NEW", None)])
async def test_a_limit_without_retry_after_is_waited_for_by_its_name(edge, connector, policy, pause):
    said = {"status": "error", "message": "limit", "errorType": "RATE_LIMIT", "policyName": policy}
    error = await failure(edge, connector.check, said, status=429)
    assert type(error) is RateLimited
    assert error.retry_after == pause


async def test_hubspots_words_are_in_errors_and_the_token_is_not(edge, connector):
    said = {"status": "error", "message": f"oauth-token {TOKEN} has no scope", "category": "MISSING_SCOPES"}
    error = await failure(edge, connector.check, said, status=403)
    assert type(error) is AuthenticationFailed
    assert "MISSING_SCOPES" in str(error)
    assert TOKEN not in str(error)


async def test_the_check_asks_for_the_account(edge, connector):
    edge.say({"portalId": 1})
    await connector.check()
    assert edge.sent()[:2] == ("GET", "/account-info/2026-09/details")


# End to end.


async def test_a_signed_webhook_becomes_events_once_and_an_action_reaches_hubspot(tmp_path):
    async def behaviour(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.answer(201, json.dumps(CONTACT).encode())

    async with (
        wire_server(behaviour) as hubspot,
        running_platform(tmp_path, HubspotConnector) as platform,
    ):
        connection = await platform.connect(
            "hubspot",
            secrets={"access_token": TOKEN, "client_secret": "s3cret"},
            settings={"base_url": hubspot.url},
        )
        url = connection["webhook_url"]
        items = load("hubspot.contact.created__batch")
        send: Callable[..., Any] = platform.client.post
        for attempt in (0, 1):
            body = json.dumps([item | {"attemptNumber": attempt} for item in items]).encode()
            answer = await send(url, content=body, headers=signed(body, url, "s3cret", time.time()))
            assert answer.status_code == 200
        forged = await send(url, content=body, headers=signed(body, url, "other", time.time()))
        assert forged.status_code == 401
        await platform.settled()
        events = await platform.feed_of(3)
        assert [event["payload"]["object_id"] for event in events] == ["1247000", "1247001", "1247002"]
        action = await platform.act(connection["id"], "create_contact", {"properties": {"email": "a@b.c"}})
        assert (action["state"], action["result"]["id"]) == ("succeeded", "512")
        assert b"POST /crm/objects/2026-09/contacts" in hubspot.requests[0]
