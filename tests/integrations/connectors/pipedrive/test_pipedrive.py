import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.integrations.connectors.pipedrive.connector import PipedriveConnector
from app.integrations.connectors.pipedrive.schemas import PipedriveSettings
from app.integrations.errors import (
    AuthenticationFailed,
    InvalidActionPayload,
    InvalidBody,
    RateLimited,
    Rejected,
)
from app.integrations.registry import check_declarations
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
TOKEN = "plantedApiTokenValue0123456789abcdef"
URL = "https://hooks.example/webhooks/pipedrive/plantedUrlToken"
SECRETS = {"webhook_user": "u", "webhook_password": "plantedPassword"}


@pytest.fixture
def edge() -> Edge:
    return Edge()


@pytest.fixture
def connector(edge: Edge) -> PipedriveConnector:
    return PipedriveConnector(TOKEN, PipedriveSettings(), edge.http())


def load(name: str) -> dict[str, Any]:
    return json.loads((HERE / "fixtures" / f"{name}.json").read_text())


def ok(data: Any) -> dict[str, Any]:
    return {"success": True, "data": data}


# Declarations and events.


def test_the_declarations_are_sound():
    check_declarations(PipedriveConnector)
    assert_described(PipedriveConnector)
    assert {path.stem.split("__")[0] for path in FIXTURES} == {s.name for s in PipedriveConnector.events}


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
async def test_each_fixture_becomes_the_event_it_is_named_after(connector, path):
    (event,) = await events_of(connector, fixture_request(PipedriveConnector, path))
    assert event.type == path.stem.split("__")[0]
    assert_sound(connector, event)


async def test_a_change_says_what_changed(connector):
    event = await connector.handle_webhook(load("pipedrive.deal.updated"))
    raw = event.payload.pop("raw")
    assert raw["previous"] == {"stage_id": 2}
    assert event.payload == {
        "entity": "deal",
        "entity_id": "41",
        "action": "change",
        "name": "Fifty chairs",
        "changed": ["stage_id"],
        "timestamp": "2026-11-20T10:02:00.000Z",
        "user_id": "7654321",
        "company_id": "1234567",
        "change_source": "api",
        "is_bulk_edit": False,
        "merged_to_id": None,
        "merged_from_id": None,
        "attempt": 1,
    }


async def test_a_deletion_still_has_the_name_and_a_merge_says_with_what(connector):
    deleted = (await connector.handle_webhook(load("pipedrive.person.deleted__merged"))).payload
    assert (deleted["name"], deleted["merged_to_id"], deleted["changed"]) == ("Ann Lee", "11", [])


async def test_another_attempt_is_the_same_event(connector):
    body = load("pipedrive.deal.created")
    first = (await connector.handle_webhook(body)).external_id
    assert first == f"{body['meta']['id']}:deal:41"
    body["meta"]["attempt"] = 2
    assert (await connector.handle_webhook(body)).external_id == first


async def test_a_webhook_of_version_1_has_no_id_to_go_by(connector):
    event = await connector.handle_webhook(load("pipedrive.change.received__version_1"))
    assert event.external_id is None
    assert event.payload["entity"] == "deal"


@pytest.mark.parametrize("body", [{}, {"meta": {}}, {"meta": {"action": "planted", "id": []}}, {"meta": 1}])
async def test_what_is_no_webhook_is_a_named_error(connector, body):
    with pytest.raises(InvalidBody) as caught:
        await connector.handle_webhook(body)
    assert caught.value.code == "invalid_webhook"
    assert "planted" not in str(caught.value)


# Actions.


async def test_persons_are_created_updated_and_found(edge, connector):
    edge.say(ok({"id": 11, "name": "Ann"}))
    emails = [{"value": "ann@example.com", "primary": True}]
    assert (await run(connector, "create_person", name="Ann", emails=emails))["id"] == 11
    assert edge.sent() == ("POST", "/api/v2/persons", {"name": "Ann", "emails": emails})
    assert edge.requests[-1].headers["x-api-token"] == TOKEN
    await run(connector, "update_person", id=11, org_id=None, name="Ann Lee")
    assert edge.sent() == ("PATCH", "/api/v2/persons/11", {"org_id": None, "name": "Ann Lee"})
    with pytest.raises(InvalidActionPayload, match="at least one field"):
        await run(connector, "update_person", id=11)
    edge.say(ok({"items": [{"result_score": 0.9, "item": {"id": 11}}]}))
    found = await run(connector, "find_person", term="ann@example.com", fields="email", exact_match=True)
    assert found["items"][0]["item"] == {"id": 11}
    path = edge.sent()[1]
    assert path == "/api/v2/persons/search?term=ann%40example.com&fields=email&exact_match=true&limit=10"


async def test_deals_and_notes_are_made(edge, connector):
    edge.say(ok({"id": 41}))
    await run(connector, "create_deal", title="Chairs", value=12.5, currency="EUR", person_id=11)
    expected = {"title": "Chairs", "value": 12.5, "currency": "EUR", "person_id": 11}
    assert edge.sent() == ("POST", "/api/v2/deals", expected)
    await run(connector, "add_note", content="Hi", deal_id=41)
    assert edge.sent() == ("POST", "/api/v1/notes", {"content": "Hi", "deal_id": 41})
    with pytest.raises(InvalidActionPayload, match="a deal, person, organization or lead"):
        await run(connector, "add_note", content="Hi")


# Registration.


def hook(number: int, url: str) -> dict[str, Any]:
    return {"id": number, "subscription_url": url, "event_action": "*", "event_object": "*"}


async def test_a_new_webhook_takes_the_place_of_the_connections_old_ones_and_no_others(edge, connector):
    former = "https://hooks.example/webhooks/pipedrive/earlier"
    known = [
        hook(1, "https://old-address.example/webhooks/pipedrive/plantedUrlToken"),
        hook(2, former),
        hook(3, "https://hooks.example/webhooks/pipedrive/anotherConnection"),
    ]
    edge.say(ok(known), ok({"id": 1}), ok({"id": 4}), ok({"id": 2}))
    await connector.register_webhook(URL, SECRETS, former=[former])
    assert [edge.sent(i)[:2] for i in range(4)] == [
        ("GET", "/api/v1/webhooks"),
        ("DELETE", "/api/v1/webhooks/1"),  # the same URL with other credentials goes first
        ("POST", "/api/v1/webhooks"),
        ("DELETE", "/api/v1/webhooks/2"),
    ]
    assert edge.sent(2)[2] == {
        "subscription_url": URL,
        "event_action": "*",
        "event_object": "*",
        "version": "2.0",
        "http_auth_user": "u",
        "http_auth_password": "plantedPassword",
        "name": "Trunkline",
    }


async def test_unregistering_removes_the_connections_webhooks(edge, connector):
    edge.say(ok([hook(1, URL), hook(3, "https://x.example/webhooks/pipedrive/another")]), ok({"id": 1}))
    await connector.unregister_webhook(urls=[URL])
    assert [edge.sent(i)[:2] for i in range(2)] == [
        ("GET", "/api/v1/webhooks"),
        ("DELETE", "/api/v1/webhooks/1"),
    ]
    assert len(edge.requests) == 2


async def test_a_webhook_that_is_gone_already_is_no_error(edge, connector):
    edge.say(ok([hook(1, URL)]), httpx2.Response(404, json={"success": False, "error": "not found"}))
    await connector.unregister_webhook(urls=[URL])


async def test_a_refused_registration_does_not_show_url_or_password(edge, connector):
    said = {"success": False, "error": f"cannot reach {URL} with plantedPassword"}
    edge.say(ok(None), httpx2.Response(400, json=said))
    with pytest.raises(Rejected) as caught:
        await connector.register_webhook(URL, SECRETS)
    assert "planted" not in str(caught.value)


# The client.


async def test_every_fault_becomes_the_right_error(edge, connector):
    await assert_faults(edge, lambda: run(connector, "create_person", name="Ann"), TOKEN)


async def test_a_limit_of_the_plan_is_not_a_bad_token(edge, connector):
    said = {"success": False, "error": "Open deals limit reached.", "code": "feature_capping_deals_limit"}
    error = await failure(edge, lambda: run(connector, "create_deal", title="x"), said, status=403)
    assert type(error) is Rejected
    assert "feature_capping_deals_limit" in str(error)
    unauthorized = {"success": False, "error": "unauthorized access", "errorCode": 401}
    assert type(await failure(edge, connector.check, unauthorized, status=401)) is AuthenticationFailed


async def test_a_limit_says_when_it_ends(edge, connector):
    said = {"success": False, "error": "request over limit"}
    error = await failure(edge, connector.check, said, status=429, x_ratelimit_reset="2")
    assert type(error) is RateLimited
    assert error.retry_after == 2


async def test_an_answer_that_says_no_is_rejected(edge, connector):
    error = await failure(edge, connector.check, {"success": False, "error": "no"})
    assert type(error) is Rejected


# End to end.


async def test_pipedrive_is_told_sends_and_is_asked_to_stop(tmp_path):
    hooks: list[dict[str, Any]] = []

    async def behaviour(exchange: Exchange) -> None:
        while head := await exchange.request():
            method, path = head.split(b" ")[:2]
            content = head.partition(b"\r\n\r\n")[2]
            answer: Any = hooks
            if (method, path) == (b"POST", b"/api/v1/webhooks"):
                answer = json.loads(content) | {"id": len(hooks) + 1}
                hooks.append(answer)
            elif method == b"DELETE":
                hooks.clear()
            elif method == b"POST":
                answer = {"id": 11, **json.loads(content)}
            await exchange.answer(200, json.dumps(ok(answer)).encode())

    async with (
        wire_server(behaviour) as pipedrive,
        running_platform(tmp_path, PipedriveConnector, public_url=True) as platform,
    ):
        connection = await platform.connect(
            "pipedrive", secrets={"api_token": TOKEN}, settings={"base_url": pipedrive.url}
        )
        path = f"/api/v1/connections/{connection['id']}"
        await eventually(lambda: platform.get(path), lambda c: c["registration"]["state"] == "done")
        (registered,) = hooks
        basic = httpx2.BasicAuth(registered["http_auth_user"], registered["http_auth_password"])
        for attempt in (1, 2):
            body = load("pipedrive.deal.created")
            body["meta"]["attempt"] = attempt
            answer = await platform.client.post(registered["subscription_url"], json=body, auth=basic)
            assert answer.status_code == 200
        wrong = httpx2.BasicAuth("u", "wrong")
        refused = await platform.client.post(registered["subscription_url"], json=body, auth=wrong)
        assert refused.status_code == 401
        await platform.settled()
        (event,) = await platform.feed_of(1)
        assert (event["type"], event["payload"]["name"]) == ("pipedrive.deal.created", "Fifty chairs")
        action = await platform.act(connection["id"], "create_person", {"name": "Ann"})
        assert (action["state"], action["result"]["id"]) == ("succeeded", 11)
        await platform.client.delete(path)
        await eventually(_length(hooks), lambda count: count == 0)


def _length(hooks: list[Any]) -> Any:
    async def look() -> int:
        return len(hooks)

    return look
