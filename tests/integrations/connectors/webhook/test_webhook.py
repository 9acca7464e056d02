import hashlib
import hmac
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import ValidationError
from standardwebhooks import Webhook

from app.integrations.connectors.webhook.client import MAX_ANSWER
from app.integrations.connectors.webhook.connector import WebhookConnector
from app.integrations.connectors.webhook.schemas import WebhookSettings
from app.integrations.errors import (
    InvalidActionPayload,
    InvalidBody,
    KeyUnavailable,
    NotSent,
    RateLimited,
    Refused,
    Rejected,
    Unavailable,
)
from app.integrations.http import AttemptTrace, current_attempt
from app.integrations.models import Event
from app.integrations.registry import Integration, check_declarations
from app.integrations.requests import Headers, WebhookRequest
from app.integrations.verification import Hmac, StandardWebhooks, StaticToken
from tests.support.edge import (
    Edge,
    assert_described,
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
URL = "https://hooks.example/webhooks/webhook/{token}"
# From the tests of the Standard Webhooks libraries.
VECTOR = {
    "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "timestamp": "1614265330",
    "body": b'{"test": 2432232314}',
    "signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}


@pytest.fixture
def edge() -> Edge:
    return Edge()


def connector(
    edge: Edge | None = None,
    *,
    sending_secret: str | None = None,
    authorization: str | None = None,
    **settings: Any,
) -> WebhookConnector:
    http = (edge or Edge()).http()
    return WebhookConnector(WebhookSettings(**settings), http, sending_secret, authorization)


def request_of(body: bytes, **headers: str) -> WebhookRequest:
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return WebhookRequest("POST", URL, Headers(pairs), body, WebhookConnector.body)


async def event_of(body: bytes, headers: dict[str, str] | None = None, **settings: Any) -> Event:
    (event,) = await events_of(connector(**settings), request_of(body, **(headers or {})))
    return event


# Declarations and verification.


def test_the_declarations_are_sound():
    check_declarations(WebhookConnector)
    assert_described(WebhookConnector)
    assert {path.stem.split("__")[0] for path in FIXTURES} == {spec.name for spec in WebhookConnector.events}


INTEGRATION = Integration(WebhookConnector, "here")


@pytest.mark.parametrize(
    ("settings", "check"),
    [
        ({}, StandardWebhooks(secret="signing_secret")),
        (
            {"scheme": "hmac", "header": "X-Sig", "algorithm": "sha1", "encoding": "base64", "prefix": "v1="},
            Hmac("X-Sig", "signing_secret", "base64", "v1=", algorithm="sha1"),
        ),
        (
            {"scheme": "token", "header": "Authorization", "prefix": "Bearer "},
            StaticToken("Authorization", "signing_secret", "Bearer "),
        ),
        ({"scheme": "none"}, None),
    ],
)
def test_settings_choose_the_check(settings, check):
    chosen = INTEGRATION.verification_for(settings)
    if isinstance(check, StandardWebhooks):  # its key function is never equal to another
        assert isinstance(chosen, StandardWebhooks)
    else:
        assert chosen == check


@pytest.mark.parametrize(
    "settings", [{"scheme": "hmac"}, {"scheme": "token"}, {"scheme": "other"}, {"header": "a b"}]
)
def test_a_check_that_cannot_be_made_is_no_setting(settings):
    with pytest.raises(ValidationError):
        INTEGRATION.verification_for(settings)


def test_a_check_that_was_not_chosen_lets_nothing_through():
    with pytest.raises(KeyUnavailable):
        WebhookConnector.verification.verify(request_of(b"{}"), {"signing_secret": ["s"]}, 0.0)


def test_the_published_vector_of_standard_webhooks_is_genuine_at_its_time():
    check, live = INTEGRATION.verification_for({}), {"signing_secret": [VECTOR["secret"]]}
    headers = {name: VECTOR[name.removeprefix("webhook_")] for name in
               ("webhook_id", "webhook_timestamp", "webhook_signature")}  # fmt: skip
    check.verify(request_of(VECTOR["body"], **headers), live, int(VECTOR["timestamp"]) + 10)
    for body, now in ((b"{}", 10), (VECTOR["body"], 301)):
        with pytest.raises(Refused):
            check.verify(request_of(body, **headers), live, int(VECTOR["timestamp"]) + now)


# Messages.


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
async def test_each_fixture_becomes_messages(path):
    instance = connector()
    events = await events_of(instance, fixture_request(WebhookConnector, path))
    assert len(events) == (2 if path.stem.endswith("batch") else 1)
    for event in events:
        assert event.type == "webhook.message.received"
        assert_sound(instance, event)


BODY = b'{"event": {"type": "order.paid", "id": 41}, "items": [{"id": "x"}], "flag": true}'


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"id_path": "event.id", "type_path": "event.type"}, ("41", "order.paid")),
        ({"id_path": "items.0.id", "type_header": "X-Kind"}, ("x", "from header")),
        ({"id_header": "X-Id", "type_path": "event.nothing"}, ("from header", None)),
        ({"id_path": "items.7.id", "type_path": "items.id"}, (None, None)),
        ({"id_path": "flag", "type_path": "event"}, (None, None)),
        ({"scheme": "standard"}, ("msg_1", None)),
        ({"scheme": "none"}, (None, None)),
    ],
)
async def test_id_and_type_are_where_settings_say(settings, found):
    headers = {"x_kind": "from header", "x_id": "from header", "webhook_id": "msg_1"}
    event = await event_of(BODY, headers, **settings)
    assert (event.payload["id"], event.payload["type"]) == found
    assert event.external_id == found[0]
    assert event.payload["data"] == json.loads(BODY)


async def test_only_wanted_headers_are_kept():
    event = await event_of(b"{}", {"x_kind": "a", "x_secret": "planted"}, keep_headers=["X-Kind", "X-None"])
    assert event.payload["headers"] == {"x-kind": "a"}


async def test_an_array_is_one_message_or_several():
    body = b'[{"id": "a"}, {"id": "b"}]'
    assert (await event_of(body)).payload["data"] == [{"id": "a"}, {"id": "b"}]
    several = connector(split=True, id_path="id")
    assert [e.external_id for e in await events_of(several, request_of(body))] == ["a", "b"]
    by_header = connector(split=True)
    events = await events_of(by_header, request_of(body, webhook_id="m"))
    assert [event.external_id for event in events] == ["m:0", "m:1"]


@pytest.mark.parametrize(
    ("body", "content_type", "data", "data_base64"),
    [
        (b"", "", None, None),
        (b"5", "application/json", 5, None),
        (b'{"a":1}', "application/x-www-form-urlencoded", {"a": 1}, None),
        (b"a=1&b=2&b=3", "application/x-www-form-urlencoded", {"a": "1", "b": ["2", "3"]}, None),
        (b"<a/>", "text/xml; charset=utf-8", "<a/>", None),
        (b"\x00\xff", "application/octet-stream", None, "AP8="),
    ],
)
async def test_content_is_json_unless_it_says_something_else_and_is_that(
    body, content_type, data, data_base64
):
    event = await event_of(body, {"content_type": content_type})
    assert (event.payload["data"], event.payload["data_base64"]) == (data, data_base64)


@pytest.mark.parametrize(
    ("body", "headers", "code"),
    [
        (b"planted", {}, "not_json"),
        (b"planted", {"content_type": "application/json"}, "not_json"),
        (b'{"a":1,"a":2}', {"content_type": "application/vnd.x+json"}, "duplicate_key"),
        (b"\xff", {"content_type": "application/x-www-form-urlencoded"}, "not_utf8"),
        (b"{}", {"content_type": "application/cloudevents+json"}, "invalid_cloudevent"),
        (b"{}", {"content_type": "application/cloudevents-batch+json"}, "invalid_cloudevent"),
        (b"[5]", {"content_type": "application/cloudevents-batch+json"}, "invalid_cloudevent"),
        (b"{}", {"ce_specversion": "1.0", "ce_id": "planted"}, "invalid_cloudevent"),
        (
            b"{}",
            {"ce_specversion": "2.0", "ce_id": "1", "ce_source": "/", "ce_type": "t"},
            "invalid_cloudevent",
        ),
    ],
)
async def test_what_cannot_be_read_is_a_named_error(body, headers, code):
    with pytest.raises(InvalidBody) as caught:
        await event_of(body, headers)
    assert caught.value.code == code
    assert "planted" not in str(caught.value)


async def test_an_id_that_cannot_be_stored_is_replaced_by_its_hash():
    for text in ("x" * 600, "a\x00b"):
        event = await event_of(json.dumps({"id": text}).encode(), id_path="id")
        assert event.external_id == hashlib.sha256(text.encode()).hexdigest()


# CloudEvents, as the Python SDK 2.2.0 writes them.

ATTRIBUTES = {"specversion": "1.0", "type": "com.example.someevent", "source": "/mycontext", "id": "1"}


async def test_a_cloudevent_says_the_same_in_both_modes():
    binary = {f"ce_{name}": value for name, value in ATTRIBUTES.items()} | {
        "ce_subject": "Euro%20%E2%82%AC%20%F0%9F%98%80",
        "ce_time": "2018-04-05T17:31:00Z",
        "content_type": "application/json",
    }
    event = await event_of(b'{"a": 1}', binary, type_path="a")
    structured = (
        b'{"type": "com.example.someevent", "source": "/mycontext", "id": "1", "specversion": "1.0", '
        b'"subject": "Euro \\u20ac \\ud83d\\ude00", "time": "2018-04-05T17:31:00Z", '
        b'"datacontenttype": "application/json", "data": {"a": 1}}'
    )
    same = await event_of(structured, {"content_type": "application/cloudevents+json; charset=utf-8"})
    assert event == same
    assert event.external_id == "/mycontext#1"
    assert (event.payload["type"], event.payload["id"]) == ("com.example.someevent", "1")
    assert event.payload["data"] == {"a": 1}
    assert event.payload["attributes"]["subject"] == "Euro € 😀"


async def test_binary_data_of_a_cloudevent_is_base64_in_both_modes():
    binary = {f"ce_{name}": value for name, value in ATTRIBUTES.items()}
    event = await event_of(b"\x00\xff", binary | {"content_type": "application/octet-stream"})
    structured = json.dumps({**ATTRIBUTES, "data_base64": "AP8="}).encode()
    same = await event_of(structured, {"content_type": "application/cloudevents+json"})
    assert event.payload["data_base64"] == same.payload["data_base64"] == "AP8="


# Requests that are sent.


async def send(instance: WebhookConnector, **payload: Any) -> Any:
    return await run(instance, "send_request", **{"url": "https://api.example/hook"} | payload)


async def test_json_and_text_are_sent_as_told(edge):
    edge.say({"ok": True})
    result = await send(connector(edge), json={"name": "Ünal"}, headers={"X-Kind": "a"})
    assert result == {
        "status": 200,
        "content_type": "application/json",
        "body": {"ok": True},
        "body_base64": None,
        "truncated": False,
    }
    sent = edge.requests[-1]
    assert (sent.method, sent.content) == ("POST", '{"name":"Ünal"}'.encode())
    assert (sent.headers["content-type"], sent.headers["x-kind"]) == ("application/json", "a")
    assert "webhook-id" not in sent.headers
    await send(connector(edge), body="a=1", method="PUT", headers={"Content-Type": "text/plain"})
    assert edge.requests[-1].headers.get_list("content-type") == ["text/plain"]
    await send(connector(edge), json=None)
    assert edge.requests[-1].content == b"null"


@pytest.mark.parametrize(
    ("content", "body", "body_base64"),
    [(b"", None, None), (b"done", "done", None), (b"\xff\x00", None, "/wA="), (b"[1]", [1], None)],
)
async def test_an_answer_is_json_text_or_base64(edge, content, body, body_base64):
    edge.say(httpx2.Response(202, content=content))
    result = await send(connector(edge), method="GET")
    assert (result["status"], result["body"], result["body_base64"]) == (202, body, body_base64)


@pytest.mark.parametrize(
    "payload",
    [
        *(
            {"url": url}
            for url in ("ftp://a.b", "//a.b", "a.b", "https://", "https://u:p@a.b", "http://a:x", "http://[")
        ),
        {"headers": {"Host": "internal"}},
        {"headers": {"Content-Length": "5"}},
        {"headers": {"Webhook-Signature": "v1,x"}},
        {"headers": {"a b": "c"}},
        {"headers": {"a": "b\r\nc: d"}},
        {"json": 1, "body": "1"},
        {"method": "CONNECT"},
    ],
)
async def test_what_must_not_be_sent_is_refused_before(edge, payload):
    with pytest.raises(InvalidActionPayload):
        await send(connector(edge), **payload)
    assert edge.requests == []


async def test_a_request_is_signed_and_keeps_its_id_through_attempts(edge):
    edge.say({})
    instance = connector(edge, sending_secret=VECTOR["secret"])
    token = current_attempt.set(AttemptTrace(key="act_1"))
    try:
        for _ in range(2):
            await send(instance, json={"a": "ü"})
    finally:
        current_attempt.reset(token)
    for sent in edge.requests:
        assert sent.headers["webhook-id"] == "act_1"
        assert Webhook(VECTOR["secret"]).verify(sent.content, dict(sent.headers)) == {"a": "ü"}
    await send(instance)
    assert edge.requests[-1].headers["webhook-id"].startswith("msg_")
    assert Webhook(VECTOR["secret"]).verify(b"", dict(edge.requests[-1].headers), json_parse=False) is None


@pytest.mark.parametrize("secret", ["whsec_", "planted!", "whsec_plänted", "whsec_plant"])
async def test_a_secret_that_cannot_sign_is_named_and_not_shown(edge, secret):
    with pytest.raises(Rejected, match="sending_secret") as caught:
        await send(connector(edge, sending_secret=secret))
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("api.example", True),
        ("API.example", True),
        ("a.b.partner.example", True),
        ("partner.example", False),
        ("evilpartner.example", False),
        ("api.example.evil.example", False),
        ("other.example", False),
    ],
)
async def test_only_named_hosts_are_asked(edge, host, allowed):
    edge.say({})
    instance = connector(edge, allowed_hosts=["api.example", "*.partner.example"])
    if allowed:
        await send(instance, url=f"https://{host}:8443/x")
    else:
        with pytest.raises(Rejected, match="allowed_hosts"):
            await send(instance, url=f"https://{host}/x")
    assert len(edge.requests) == allowed


async def test_the_authorization_goes_to_named_hosts_only(edge):
    edge.say({})
    with pytest.raises(Rejected, match="allowed_hosts") as caught:
        await send(connector(edge, authorization="Bearer planted"))
    assert "planted" not in str(caught.value)
    await send(connector(edge, authorization="Bearer planted", allowed_hosts=["api.example"]))
    assert edge.requests[-1].headers["authorization"] == "Bearer planted"


async def test_faults_become_the_right_errors(edge):
    instance = connector(edge, authorization="Bearer plantedValue", allowed_hosts=["api.example"])
    faults = [
        (httpx2.Response(429, headers={"retry-after": "7"}), RateLimited),
        (httpx2.Response(500), Unavailable),
        (httpx2.Response(400), Rejected),
        (httpx2.Response(301, headers={"location": "http://127.0.0.1"}), Rejected),
        (httpx2.ReadTimeout("Bearer plantedValue"), Unavailable),
        (httpx2.ConnectError("Bearer plantedValue"), NotSent),
    ]
    for answer, kind in faults:
        error = await failure(edge, lambda: send(instance), answer)
        assert type(error) is kind
        assert "plantedValue" not in str(error)
    assert error.retry_after is None


# End to end.


def standard(body: bytes, secret: str) -> dict[str, str]:
    now = datetime.now(UTC)
    signature = Webhook(secret).sign("msg_1", now, body.decode())
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature,
    }


async def test_signed_messages_come_in_by_the_scheme_of_the_settings_as_it_is_now(tmp_path):
    async with running_platform(tmp_path, WebhookConnector) as platform:
        secret = VECTOR["secret"]
        connection = await platform.connect(
            "webhook", secrets={"signing_secret": secret}, settings={"type_path": "type"}
        )
        url, path = connection["webhook_url"], f"/api/v1/connections/{connection['id']}"
        body = b'{"type": "order.paid"}'

        async def post(**headers: str) -> int:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return (await platform.client.post(url, content=body, headers=named)).status_code

        assert [await post(**standard(body, secret)) for _ in range(2)] == [200, 200]
        assert await post(**standard(b"{}", secret)) == 401
        assert await post() == 401
        await platform.settled()

        hmac_of_body = {"scheme": "hmac", "header": "X-Sig", "prefix": "v1="}
        await platform.client.patch(path, json={"settings": hmac_of_body})
        digest = hmac.digest(secret.encode(), body, hashlib.sha256).hex()
        assert await post(x_sig=f"v1={digest}") == 200
        assert await post(**standard(body, secret)) == 401, "the scheme is another now"

        await platform.client.patch(path, json={"settings": {"scheme": "token", "header": "X-Token"}})
        assert await post(x_token=secret) == 200
        assert await post(x_token="other") == 401
        await platform.client.patch(path, json={"settings": {"scheme": "none"}})
        assert await post() == 200

        await platform.settled()
        events = await platform.feed_of(4)
        assert [event["payload"]["type"] for event in events] == ["order.paid", None, None, None]
        stored = [await platform.get(f"/api/v1/webhooks/{hook['id']}") for hook in await platform.webhooks()]
        assert secret not in json.dumps(stored), "the shared token is a credential"


async def test_without_a_secret_nothing_comes_in_and_that_is_our_fault(tmp_path):
    async with running_platform(tmp_path, WebhookConnector) as platform:
        connection = await platform.connect("webhook")
        headers = standard(b"{}", VECTOR["secret"])
        answer = await platform.client.post(connection["webhook_url"], content=b"{}", headers=headers)
        assert answer.status_code == 503
        (refusal,) = (await platform.get(f"/api/v1/connections/{connection['id']}/refusals"))["items"]
        assert refusal["code"] == "secret_missing"


async def test_requests_go_out_signed_but_not_into_our_own_network(tmp_path):
    bodies: list[bytes] = []

    async def behaviour(exchange: Exchange) -> None:
        while head := await exchange.request():
            bodies.append(head)
            await exchange.answer(200, b"x" * (MAX_ANSWER + 5000))

    async with wire_server(behaviour) as server, running_platform(tmp_path, WebhookConnector) as platform:
        connection = await platform.connect("webhook", secrets={"sending_secret": VECTOR["secret"]})
        request = {"url": f"{server.url}/hook", "json": {"a": 1}}
        refused = await platform.act(connection["id"], "send_request", request)
        assert (refused["state"], refused["error"]["code"]) == ("failed", "rejected")
        assert bodies == []
        path = f"/api/v1/connections/{connection['id']}"
        await platform.client.patch(path, json={"settings": {"allow_private": True}})
        action = await platform.act(connection["id"], "send_request", request)
        assert action["state"] == "succeeded"
        assert (action["result"]["truncated"], len(action["result"]["body"])) == (True, MAX_ANSWER)
        assert f"webhook-id: {action['id']}".encode() in bodies[0]
