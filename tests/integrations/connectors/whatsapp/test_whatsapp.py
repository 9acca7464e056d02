import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from app.integrations.connectors.whatsapp.connector import MAX_DOWNLOAD, WhatsAppConnector
from app.integrations.connectors.whatsapp.schemas import WhatsAppSettings
from app.integrations.errors import (
    AuthenticationFailed,
    InvalidActionPayload,
    InvalidBody,
    ProviderError,
    RateLimited,
    Refused,
    Rejected,
    Unavailable,
)
from app.integrations.http import ConnectorHttp
from app.integrations.models import Action, Event
from app.integrations.requests import Headers, WebhookRequest
from tests.support.platform import running_platform
from tests.support.wire import Exchange, wire_server

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = sorted(path.stem for path in FIXTURES.glob("*.json"))
TOKEN, APP_SECRET, VERIFY_TOKEN = "EAAplantedAccessToken", "planted-app-secret", "planted-verify-token"
SENT = {
    "messaging_product": "whatsapp",
    "contacts": [{"input": "+16505551234", "wa_id": "16505551234"}],
    "messages": [{"id": "wamid.1", "message_status": "accepted"}],
}


def connector(respond: Any = None, **settings: Any) -> WhatsAppConnector:
    transport = httpx2.MockTransport(respond) if respond else None
    made = WhatsAppSettings(**{"phone_number_id": "106540352242922", **settings})
    return WhatsAppConnector(TOKEN, made, ConnectorHttp(transport=transport))


def fixture(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / f"{name}.json").read_text())


def request(item: Any, method: str = "POST", query: str = "", **headers: str) -> WebhookRequest:
    body = item if isinstance(item, bytes) else json.dumps(item).encode()
    url = f"https://p.example/webhooks/whatsapp/t{query}"
    return WebhookRequest(method, url, Headers(headers.items()), body, WhatsAppConnector.body)


async def events_of(item: Any) -> list[Event]:
    made = await connector().receive(request(item))
    assert isinstance(made, list)
    return made


async def payload_of(name: str) -> dict[str, Any]:
    [event] = await events_of(fixture(name))
    return event.payload


def signature(body: bytes) -> str:
    return "sha256=" + hmac.new(APP_SECRET.encode(), body, hashlib.sha256).hexdigest()


# Verification and handshake.


def test_the_signature_is_over_the_bytes_as_sent_escapes_included():
    body = rb'{"text":"\u00e4\u00f6"}'
    verify = WhatsAppConnector.verification.verify
    verify(request(body, **{"X-Hub-Signature-256": signature(body)}), {"app_secret": [APP_SECRET]}, 0.0)
    read_and_written = json.dumps(json.loads(body), ensure_ascii=False).encode()
    with pytest.raises(Refused):
        verify(
            request(body, **{"X-Hub-Signature-256": signature(read_and_written)}),
            {"app_secret": [APP_SECRET]},
            0.0,
        )


CHALLENGE = "?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token="


def test_the_callback_url_is_verified_by_its_challenge():
    answer = WhatsAppConnector.handshake.answer
    secrets = {"verify_token": [VERIFY_TOKEN]}
    assert answer(request(b"", "GET", CHALLENGE + VERIFY_TOKEN), secrets).body == b"1158201444"
    with pytest.raises(Refused):
        answer(request(b"", "GET", CHALLENGE + "meatyhamhock"), secrets)


# Events.


@pytest.mark.parametrize("name", NAMES)
async def test_each_fixture_becomes_the_event_it_is_named_after(name):
    events = await events_of(fixture(name))
    assert events[0].type == name.partition("__")[0]
    for event in events:
        WhatsAppConnector.event_spec(event.type).model.model_validate(event.payload)


async def test_a_message_is_laid_out_flat_beside_the_original():
    [event] = await events_of(fixture("whatsapp.message.received"))
    assert event.external_id == "wamid.HBgLMTY1MDM4Nzk0MzkVAgASGBQzQTRBNjU5OUFFRTAzODEwMTQ0RgA="
    assert event.payload == {
        "waba_id": "102290129340398",
        "phone_number_id": "106540352242922",
        "display_phone_number": "15550783881",
        "message_id": event.external_id,
        "type": "text",
        "timestamp": 1749416383,
        "from_number": "16505551234",
        "from_user_id": None,
        "from_name": "Sheena Nelson",
        "from_username": None,
        "group_id": None,
        "text": "Does it come in another color?",
        "reply_id": None,
        "response_json": None,
        "media_id": None,
        "mime_type": None,
        "filename": None,
        "context_message_id": None,
        "raw": fixture("whatsapp.message.received")["entry"][0]["changes"][0]["value"]["messages"][0],
    }


ANSWERED = "wamid.HBgLMTQxMjU1NTA4MjkVAgASGBQzQUNCNjk5RDUwNUZGMUZEM0VBRAA="


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        (
            "hidden_number",
            {
                "from_number": None,
                "from_user_id": "US.13491208655302741918",
                "from_name": "Sheena Nelson",
                "from_username": "@realsheenanelson",
            },
        ),
        (
            "image",
            {
                "text": "The best succulent ever?",
                "media_id": "1003383421387256",
                "mime_type": "image/jpeg",
                "reply_id": None,
            },
        ),
        ("document", {"filename": "invoice.pdf", "media_id": "1003383421387257", "text": None}),
        (
            "button_reply",
            {"text": "Cancel", "reply_id": "cancel-button", "context_message_id": ANSWERED, "media_id": None},
        ),
        ("list_reply", {"text": "Priority Mail Express", "reply_id": "priority_express"}),
        ("flow", {"text": "Sent", "response_json": '{"flow_token":"t","rating":5}'}),
        ("template_button", {"text": "Unsubscribe", "reply_id": "unsubscribe"}),
        ("reaction", {"text": "👍", "context_message_id": ANSWERED}),
        ("location", {"text": "Philz Coffee"}),
        ("contacts", {"type": "contacts", "text": None}),
        ("unsupported", {"type": "unsupported", "text": None}),
    ],
)
async def test_every_type_of_message_gives_what_it_has(variant, expected):
    payload = await payload_of(f"whatsapp.message.received__{variant}")
    assert {field: payload[field] for field in expected} == expected


async def test_a_batch_becomes_all_its_events_in_order():
    events = await events_of(fixture("whatsapp.message.received__batch"))
    assert [(event.type, event.payload.get("text")) for event in events] == [
        ("whatsapp.message.received", "one"),
        ("whatsapp.message.received", "two"),
        ("whatsapp.message_status.updated", None),
        ("whatsapp.message.received", "three"),
        ("whatsapp.change.received", None),
    ]
    assert events[3].payload["waba_id"] == "102290129340399"
    assert events[4].payload["value"]["event"] == "VERIFIED_ACCOUNT"


async def test_a_status_is_known_by_message_status_and_in_groups_by_person():
    wamid = "wamid.HBgLMTY1MDM4Nzk0MzkVAgASGBQzQTRBNjU5OUFFRTAzODEwMTQ0RgZ="
    [event] = await events_of(fixture("whatsapp.message_status.updated"))
    assert event.external_id == f"{wamid}:delivered"
    assert event.payload["biz_opaque_callback_data"] == "order-7"
    failed = await payload_of("whatsapp.message_status.updated__failed")
    assert failed["error_code"] == 131049
    assert failed["error_title"].startswith("This message was not delivered")
    group = await events_of(fixture("whatsapp.message_status.updated__group"))
    assert [event.external_id for event in group] == [f"{wamid}:read:1650555{n}" for n in ("1234", "9999")]


async def test_a_message_that_is_not_understood_is_kept_with_its_change():
    payload = await payload_of("whatsapp.change.received__message_of_tomorrow")
    assert payload["field"] == "messages"
    assert payload["value"]["messages"][0]["kind"] == "hologram"


@pytest.mark.parametrize(
    "item",
    [
        {},
        {"object": "whatsapp_business_account", "entry": "planted"},
        {"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": ["planted"]}]},
        {"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [{"value": "planted"}]}]},
    ],
)
async def test_a_malformed_notification_is_a_named_error_without_its_values(item):
    with pytest.raises(InvalidBody) as caught:
        await events_of(item)
    assert caught.value.code == "invalid_notification"
    assert "planted" not in str(caught.value)


# Actions.


class Graph:
    """Answers by the last part of the path and keeps what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.requests: list[httpx2.Request] = []

    def __call__(self, asked: httpx2.Request) -> httpx2.Response:
        self.requests.append(asked)
        answer = self.answers.get(asked.url.path.rpartition("/")[2], SENT)
        return answer if isinstance(answer, httpx2.Response) else httpx2.Response(200, json=answer)

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(asked.content) for asked in self.requests]


async def run(graph: Graph, kind: str, payload: dict[str, Any]) -> Any:
    made = await connector(graph).execute(Action(type=kind, payload=payload))
    return made.model_dump(mode="json", exclude_none=True)


TO = {"to": "+16505551234"}


@pytest.mark.parametrize(
    ("kind", "payload", "sent"),
    [
        (
            "send_text",
            {"text": {"body": "hi", "preview_url": True}, "context": {"message_id": "wamid.0"}},
            {
                "type": "text",
                "text": {"body": "hi", "preview_url": True},
                "context": {"message_id": "wamid.0"},
            },
        ),
        (
            "send_template",
            {"template": {"name": "hello", "language": {"code": "en_US"}}, "biz_opaque_callback_data": "7"},
            {
                "type": "template",
                "template": {"name": "hello", "language": {"code": "en_US"}},
                "biz_opaque_callback_data": "7",
            },
        ),
        (
            "send_media",
            {"type": "image", "media": {"link": "https://a.example/x.png", "caption": "look"}},
            {"type": "image", "image": {"link": "https://a.example/x.png", "caption": "look"}},
        ),
        (
            "send_reaction",
            {"message_id": "wamid.0", "emoji": "👍"},
            {"type": "reaction", "reaction": {"message_id": "wamid.0", "emoji": "👍"}},
        ),
    ],
)
async def test_messages_are_sent_as_the_api_wants_them(kind, payload, sent):
    graph = Graph()
    result = await run(graph, kind, {**TO, **payload})
    assert result == {"message_id": "wamid.1", "message_status": "accepted", "wa_id": "16505551234"}
    [asked] = graph.requests
    assert str(asked.url) == "https://graph.facebook.com/v26.0/106540352242922/messages"
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"
    common = {"messaging_product": "whatsapp", "recipient_type": "individual", **TO}
    assert graph.bodies == [common | sent]


async def test_a_hidden_number_is_written_to_from_another_number():
    graph = Graph()
    text = {"recipient": "US.13491208655302741918", "text": {"body": "hi"}, "phone_number_id": "77"}
    await run(graph, "send_text", text)
    assert graph.requests[0].url.path == "/v26.0/77/messages"
    assert graph.bodies[0]["recipient"] == "US.13491208655302741918"
    assert "to" not in graph.bodies[0]


async def test_a_message_is_marked_as_read():
    graph = Graph(messages={"success": True})
    assert await run(graph, "mark_as_read", {"message_id": "wamid.0", "typing": True}) == {"success": True}
    assert graph.bodies == [
        {
            "messaging_product": "whatsapp",
            "status": "read",
            "message_id": "wamid.0",
            "typing_indicator": {"type": "text"},
        }
    ]


async def test_a_file_is_uploaded():
    graph = Graph(media={"id": "4490709327384033"})
    file = {"filename": "x.png", "content_base64": "iVBORw=="}
    uploaded = await run(graph, "upload_media", {"file": file, "type": "image/png"})
    assert uploaded == {"id": "4490709327384033"}
    content = graph.requests[0].content
    for part in (b'name="messaging_product"\r\n\r\nwhatsapp', b'name="type"\r\n\r\nimage/png', b"\x89PNG"):
        assert part in content


INFO = {
    "messaging_product": "whatsapp",
    "url": "https://lookaside.fbsbx.com/whatsapp_business/attachments/file?mid=1&hash=planted",
    "mime_type": "image/jpeg",
    "sha256": "29ed500f",
    "file_size": 5,
    "id": "1003",
}


async def test_a_file_is_fetched():
    graph = Graph(**{"1003": INFO, "file": httpx2.Response(200, content=b"hello")})
    assert "content_base64" not in await run(graph, "get_media", {"media_id": "1003"})
    fetched = await run(graph, "get_media", {"media_id": "1003", "download": True})
    assert fetched["content_base64"] == "aGVsbG8="
    assert "url" not in fetched
    assert graph.requests[-1].headers["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"url": "https://fbsbx.com.evil.example/file"}, "not Meta's"),
        ({"url": "http://lookaside.fbsbx.com/file"}, "not Meta's"),
        ({"url": "http://["}, "not Meta's"),
        ({"file_size": MAX_DOWNLOAD + 1}, "too large"),
    ],
)
async def test_a_file_is_not_fetched_from_a_stranger_nor_if_it_is_too_large(change, words):
    graph = Graph(**{"1003": {**INFO, **change}})
    with pytest.raises(Rejected, match=words):
        await run(graph, "get_media", {"media_id": "1003", "download": True})
    assert len(graph.requests) == 1


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("send_text", {"text": {"body": "hi"}}),
        ("send_text", {**TO, "text": {"body": ""}}),
        ("send_media", {**TO, "type": "image", "media": {"id": "1", "link": "https://a.example"}}),
        ("send_media", {**TO, "type": "image", "media": {}}),
        ("get_media", {"media_id": "../1"}),
    ],
)
async def test_an_order_that_makes_no_sense_is_refused(kind, payload):
    with pytest.raises(InvalidActionPayload):
        await run(Graph(), kind, payload)


def refusal(status: int, code: int) -> httpx2.Response:
    details = {"messaging_product": "whatsapp", "details": f"Because of {TOKEN}"}
    error = {"message": f"(#{code}) No", "type": "OAuthException", "code": code, "error_data": details}
    return httpx2.Response(status, json={"error": error})


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (401, 190, AuthenticationFailed),
        (400, 190, AuthenticationFailed),
        (401, 0, AuthenticationFailed),
        (500, 3, AuthenticationFailed),
        (403, 10, AuthenticationFailed),
        (403, 200, AuthenticationFailed),
        (400, 4, RateLimited),
        (400, 80007, RateLimited),
        (400, 130429, RateLimited),
        (400, 131056, RateLimited),
        (400, 131047, Rejected),
        (400, 131048, Rejected),
        (400, 100, Rejected),
        (500, 131000, Unavailable),
        (503, 131016, Unavailable),
    ],
)
async def test_metas_errors_go_by_their_code(status, code, error):
    with pytest.raises(ProviderError, match=f"Because of .*{code}") as caught:
        await connector(Graph(**{"106540352242922": refusal(status, code)})).check()
    assert type(caught.value) is error
    assert TOKEN not in str(caught.value)


async def test_webhooks_are_directed_here_only_where_that_was_asked_for():
    graph = Graph(subscribed_apps={"success": True})
    url, secrets = "https://p.example/webhooks/whatsapp/t", {"verify_token": VERIFY_TOKEN}
    await connector(graph).register_webhook(url, secrets)
    await connector(graph).unregister_webhook()
    assert graph.requests == []
    asked_for = connector(graph, waba_id="102290129340398")
    await asked_for.register_webhook(url, secrets)
    await asked_for.unregister_webhook()
    assert {asked.url.path for asked in graph.requests} == {"/v26.0/102290129340398/subscribed_apps"}
    given, taken_back = graph.requests
    assert json.loads(given.content) == {"override_callback_uri": url, "verify_token": VERIFY_TOKEN}
    assert taken_back.content == b""


# Through the platform.


async def test_a_message_is_received_and_answered(tmp_path):
    async def graph(exchange: Exchange) -> None:
        while True:
            await exchange.request()
            await exchange.answer(200, json.dumps(SENT).encode())

    async with wire_server(graph) as api, running_platform(tmp_path, WhatsAppConnector) as running:
        connection = await running.connect(
            "whatsapp",
            secrets={"access_token": TOKEN, "app_secret": APP_SECRET, "verify_token": VERIFY_TOKEN},
            settings={"base_url": api.url, "phone_number_id": "106540352242922"},
        )
        url = connection["webhook_url"]
        answer = await running.client.get(url + CHALLENGE + VERIFY_TOKEN)
        assert (answer.status_code, answer.text) == (200, "1158201444")
        assert (await running.client.get(url + CHALLENGE + "x")).status_code == 401

        body = (FIXTURES / "whatsapp.message.received__batch.json").read_bytes()
        again = json.dumps({"object": "x", "entry": json.loads(body)["entry"][:1]}).encode()
        for sent in (body, again):  # the second batch repeats three of the five, put together differently
            headers = {"X-Hub-Signature-256": signature(sent)}
            assert (await running.client.post(url, content=sent, headers=headers)).status_code == 200
        headers = {"X-Hub-Signature-256": signature(b"another body")}
        assert (await running.client.post(url, content=body, headers=headers)).status_code == 401
        await running.settled()
        events = await running.feed_of(5)
        assert len(events) == 5
        assert events[0]["payload"]["text"] == "one"

        order = {"to": events[0]["payload"]["from_number"], "text": {"body": "Yes, in blue"}}
        action = await running.act(connection["id"], "send_text", order)
        assert action["state"] == "succeeded"
        assert action["result"]["message_id"] == "wamid.1"
        assert api.requests[-1].startswith(b"POST /v26.0/106540352242922/messages")
