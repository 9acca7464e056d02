import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode

import httpx2
import pytest

from app.integrations.connectors.twilio.connector import TwilioConnector, twiml
from app.integrations.connectors.twilio.schemas import TwilioSettings
from app.integrations.errors import (
    AuthenticationFailed,
    InvalidActionPayload,
    InvalidBody,
    NotSent,
    RateLimited,
    Refused,
    Rejected,
    Unavailable,
)
from app.integrations.http import ConnectorHttp
from app.integrations.models import Action, Event
from app.integrations.registry import check_declarations
from app.integrations.requests import Headers, Reply, WebhookRequest
from tests.support.platform import running_platform
from tests.support.wire import Exchange, wire_server

FIXTURES = Path(__file__).parent / "fixtures"
BODIES = sorted(
    p for p in FIXTURES.iterdir() if p.suffix in (".form", ".json") and ".headers" not in p.suffixes
)
ACCOUNT = "AC" + "0a" * 16
SMS = "SM" + "1b" * 16
NUMBER = "PN" + "7f" * 16
TOKEN = "12345plantedAuthToken"
EMPTY = b"<?xml version='1.0' encoding='utf-8'?>\n<Response />"


def connector(respond: Any = None, key_secret: str | None = None, **settings: Any) -> TwilioConnector:
    http = ConnectorHttp(transport=httpx2.MockTransport(respond) if respond else None)
    return TwilioConnector(TOKEN, TwilioSettings(account_sid=ACCOUNT, **settings), http, key_secret)


def request(body: bytes, url: str = "https://p.example/webhooks/twilio/t", **headers: str) -> WebhookRequest:
    pairs = {"content-type": "application/x-www-form-urlencoded"}
    pairs |= {name.replace("_", "-"): value for name, value in headers.items()}
    return WebhookRequest("POST", url, Headers(pairs.items()), body, TwilioConnector.body)


def of_fixture(path: Path) -> WebhookRequest:
    beside = path.with_name(f"{path.stem}.headers.json")
    headers = json.loads(beside.read_text()) if beside.exists() else {}
    kind = "application/json" if path.suffix == ".json" else "application/x-www-form-urlencoded"
    return request(path.read_bytes().rstrip(b"\n"), content_type=kind, **headers)


async def event_of(name: str) -> Event:
    made = await connector().receive(of_fixture(FIXTURES / f"{name}.form"))
    return made.events[0] if isinstance(made, Reply) else made


# Events.


def test_the_declarations_are_sound():
    check_declarations(TwilioConnector)
    named = {path.name.partition("__")[0].removesuffix(path.suffix) for path in BODIES}
    assert named == {spec.name for spec in TwilioConnector.events}


@pytest.mark.parametrize("path", BODIES, ids=lambda path: path.name)
async def test_each_fixture_becomes_the_event_it_is_named_after(path):
    made = await connector().receive(of_fixture(path))
    event = made.events[0] if isinstance(made, Reply) else made
    assert event.type == path.stem.partition("__")[0]
    assert isinstance(made, Reply) == (event.type == "twilio.message.received")
    TwilioConnector.event_spec(event.type).model.model_validate(event.payload)
    json.dumps(event.payload)


async def test_a_message_is_laid_out_flat_beside_the_original():
    event = await event_of("twilio.message.received")
    raw = event.payload.pop("raw")
    assert raw["ToCity"] == "SAUSALITO"
    assert event.external_id == SMS
    assert event.payload == {
        "message_sid": SMS,
        "account_sid": ACCOUNT,
        "messaging_service_sid": None,
        "from": "+15558675310",
        "to": "+14017122661",
        "body": "Ahoy! Let's build something & more, größer 🚀",
        "media": [],
        "profile_name": None,
        "from_city": "SAN FRANCISCO",
        "from_country": "US",
    }


async def test_attachments_are_a_list():
    payload = (await event_of("twilio.message.received__mms")).payload
    assert [media["content_type"] for media in payload["media"]] == ["image/jpeg", "text/vcard"]
    assert payload["media"][1]["url"].endswith("ME" + "5f" * 16)


async def test_each_status_of_a_message_is_an_event_of_its_own():
    delivered = await event_of("twilio.message_status.updated")
    assert delivered.external_id == f"{SMS}:delivered"
    assert (delivered.payload["status"], delivered.payload["error_code"]) == ("delivered", None)
    undelivered = await event_of("twilio.message_status.updated__undelivered")
    assert undelivered.external_id == f"{SMS}:undelivered"
    assert undelivered.payload["error_code"] == 30003
    assert (await event_of("twilio.message_status.updated__scheduled_no_sender")).payload["from"] is None


async def test_a_webhook_that_is_not_about_a_message_is_known_by_its_token():
    event = await event_of("twilio.webhook.received")
    assert event.external_id == "8a1f6f4e-6f0b-4f0e-9d8c-2f6a3f1f5a77"
    assert event.payload["raw"]["CallStatus"] == "ringing"


@pytest.mark.parametrize(
    "fields",
    [
        {"MessageSid": SMS},
        {"MessageSid": "S" * 300, "From": "+1", "To": "+2"},
        {"MessageSid": SMS, "From": "+1", "To": "+2", "NumMedia": "planted value"},
        {"MessageSid": SMS, "From": "+1", "To": "+2", "NumMedia": "9999999"},
        {"MessageSid": "SM\x00", "From": "+1", "To": "+2"},
        {"MessageSid": SMS, "MessageStatus": "x" * 600},
        {"MessageSid": SMS, "MessageStatus": "failed", "ErrorCode": "planted value"},
    ],
)
async def test_malformed_fields_are_a_named_error_without_their_values(fields):
    with pytest.raises(InvalidBody) as caught:
        await connector().receive(request(urlencode(fields).encode()))
    assert caught.value.code in ("invalid_message", "invalid_status_callback")
    assert "planted value" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


# Answers.


async def test_a_message_is_answered_with_twiml():
    made = await connector().receive(of_fixture(FIXTURES / "twilio.message.received.form"))
    assert (made.status, made.content_type, made.body) == (200, "text/xml", EMPTY)
    made = await connector(reply="Thanks <b> & bye 🚀").receive(
        of_fixture(FIXTURES / "twilio.message.received.form")
    )
    assert made.body.endswith(
        "<Response><Message>Thanks &lt;b&gt; &amp; bye 🚀</Message></Response>".encode()
    )
    assert twiml(None) == EMPTY


@pytest.mark.parametrize("reply", ["", "\x00", "a\x1fb", "x" * 1601])
def test_a_reply_that_xml_cannot_hold_is_no_setting(reply):
    with pytest.raises(ValueError, match="reply"):
        TwilioSettings(account_sid=ACCOUNT, reply=reply)


# Verification: the vectors of twilio-python's tests/unit/test_request_validator.py.

URL = "https://mycompany.com/myapp.php?foo=1&bar=2"
PARAMS = {
    "CallSid": "CA1234567890ABCDE",
    "Digits": "1234",
    "From": "+14158675309",
    "To": "+18005551212",
    "Caller": "+14158675309",
}
FORM = urlencode(PARAMS).encode()
JSON = b'{"property": "value", "boolean": true}'
JSON_URL = f"{URL}&bodySHA256=0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620"


def verify(asked: WebhookRequest, *tokens: str) -> None:
    TwilioConnector.verification.verify(asked, {"auth_token": tokens or ("12345",)}, 0.0)


def on_http(url: str) -> str:
    return url.replace("https", "http")


def on_port_1234(url: str) -> str:
    return url.replace(".com", ".com:1234")


@pytest.mark.parametrize(
    ("url", "body", "signature"),
    [
        (URL, FORM, "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
        (on_port_1234(URL), FORM, "RSOYDt4T1cUTdK1PDd93/VVr8B8="),
        (on_port_1234(on_http(URL)), FORM, "Zmvh+3yNM1Phv2jhDCwEM3q5ebU="),
        (URL, FORM, "kvajT1Ptam85bY51eRf/AJRuM3w="),
        (on_http(URL), FORM, "0ZXoZLH/DfblKGATFgpif+LLRf4="),
        (URL, b"Sid=CA123&SidAccount=AC123&Digits=5678&Digits=1234", "IK+Dwps556ElfBT0I3Rgjkr1wJU="),
        (JSON_URL, JSON, "a9nBmqA0ju/hNViExpshrM61xv4="),
    ],
    ids=["plain", "port removed", "port kept", "port added", "http port added", "repeated field", "json"],
)
def test_twilios_own_vectors_are_genuine(url, body, signature):
    verify(request(body, url, X_Twilio_Signature=signature))
    verify(request(body, url, X_Twilio_Signature=signature), "newer", "12345")
    for wrong in (
        request(body + b"x", url, X_Twilio_Signature=signature),
        request(body, url.replace("foo", "fou"), X_Twilio_Signature=signature),
    ):
        with pytest.raises(Refused):
            verify(wrong)
    with pytest.raises(Refused) as caught:
        verify(request(body, url, X_Twilio_Signature=signature), "other")
    assert caught.value.code == "signature_differs"


def test_a_signed_url_does_not_vouch_for_another_json_body():
    with pytest.raises(Refused):
        verify(request(b'{"property": "other"}', JSON_URL, X_Twilio_Signature="a9nBmqA0ju/hNViExpshrM61xv4="))


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "header_missing"),
        ("", "header_missing"),
        ("RSOYDt4T1cUTdK1PDd93/VVr8B8", "signature_malformed"),
        ("RSOY", "signature_malformed"),
        ("ü" * 28, "signature_malformed"),
        ("AAAADt4T1cUTdK1PDd93/VVr8B8=", "signature_differs"),
    ],
)
def test_anything_else_is_refused(value, code):
    headers = {} if value is None else {"X_Twilio_Signature": value}
    with pytest.raises(Refused) as caught:
        verify(request(FORM, URL, **headers))
    assert caught.value.code == code


# Actions.

MESSAGE = {"sid": SMS, "status": "queued", "from": "+14017122661", "to": "+1555", "body": "Hi", "price": None}


class Recorder:
    """Answers with `answer` and keeps the requests."""

    def __init__(self, answer: Any = MESSAGE, status: int = 200, **headers: str) -> None:
        self.answer, self.status = answer, status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        content = self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()
        return httpx2.Response(self.status, content=content, headers=self.headers)

    @property
    def called(self) -> tuple[str, str]:
        last = self.requests[-1]
        path = last.url.raw_path.decode().removeprefix("/2010-04-01/Accounts/")
        return last.method, path

    @property
    def form(self) -> dict[str, list[str]]:
        return parse_qs(self.requests[-1].content.decode(), keep_blank_values=True)

    @property
    def user(self) -> str:
        return base64.b64decode(self.requests[-1].headers["authorization"].removeprefix("Basic ")).decode()


async def run(chosen: TwilioConnector, type_: str, **payload: Any) -> dict[str, Any]:
    result = await chosen.execute(Action(type=type_, payload=payload))
    json.dumps(result)
    TwilioConnector.action_spec(type_).result.model_validate(result)
    return result


ACTIONS = [
    (
        "send_message",
        {
            "To": "+1555",
            "From": "+14017122661",
            "Body": "Hi ü & +",
            "MediaUrl": ["https://a/1", "https://a/2"],
        },
        ("POST", f"{ACCOUNT}/Messages.json"),
        {
            "To": ["+1555"],
            "From": ["+14017122661"],
            "Body": ["Hi ü & +"],
            "MediaUrl": ["https://a/1", "https://a/2"],
        },
    ),
    (
        "send_message",
        {
            "To": "whatsapp:+1555",
            "MessagingServiceSid": "MG1",
            "ContentSid": "HX1",
            "ContentVariables": {"1": "Ann"},
            "ScheduleType": "fixed",
            "SendAt": "2026-12-01T09:00:00Z",
            "ValidityPeriod": 600,
        },
        ("POST", f"{ACCOUNT}/Messages.json"),
        {
            "To": ["whatsapp:+1555"],
            "MessagingServiceSid": ["MG1"],
            "ContentSid": ["HX1"],
            "ContentVariables": ['{"1": "Ann"}'],
            "ScheduleType": ["fixed"],
            "SendAt": ["2026-12-01T09:00:00Z"],
            "ValidityPeriod": ["600"],
        },
    ),
    ("fetch_message", {"Sid": SMS}, ("GET", f"{ACCOUNT}/Messages/{SMS}.json"), {}),
    ("fetch_message", {"Sid": "../x"}, ("GET", f"{ACCOUNT}/Messages/..%2Fx.json"), {}),
    (
        "cancel_message",
        {"Sid": SMS},
        ("POST", f"{ACCOUNT}/Messages/{SMS}.json"),
        {"Status": ["canceled"]},
    ),
    ("redact_message", {"Sid": SMS}, ("POST", f"{ACCOUNT}/Messages/{SMS}.json"), {"Body": [""]}),
]


@pytest.mark.parametrize(("type_", "payload", "called", "sent"), ACTIONS, ids=lambda value: str(value)[:20])
async def test_an_action_calls_the_api(type_, payload, called, sent):
    twilio = Recorder()
    result = await run(connector(twilio), type_, **payload)
    assert {name: result[name] for name in MESSAGE} == MESSAGE
    assert twilio.called == called
    assert twilio.form == sent
    assert twilio.user == f"{ACCOUNT}:{TOKEN}"


async def test_a_deletion_and_its_repetition():
    twilio = Recorder(b"", 204)
    assert await run(connector(twilio), "delete_message", Sid=SMS) == {"deleted": True}
    assert twilio.called == ("DELETE", f"{ACCOUNT}/Messages/{SMS}.json")
    gone = Recorder({"code": 20404, "message": "not found", "status": 404}, 404)
    assert await run(connector(gone), "delete_message", Sid=SMS) == {"deleted": False}
    busy = Recorder({"code": 20009, "message": "in progress", "status": 409}, 409)
    with pytest.raises(Rejected):
        await run(connector(busy), "delete_message", Sid=SMS)


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        ({"To": "+1", "Body": "x"}, "From or MessagingServiceSid"),
        ({"To": "+1", "From": "+2"}, "Body, MediaUrl or ContentSid"),
        (
            {"To": "+1", "From": "+2", "Body": "x", "SendAt": "2026-12-01T09:00:00Z"},
            "SendAt and ScheduleType",
        ),
        ({"From": "+2", "Body": "x"}, "To"),
        ({"To": "+1", "From": "+2", "Body": "x", "to": "+3"}, "to"),
    ],
)
async def test_a_message_that_cannot_be_meant_says_what_is_missing(payload, words):
    with pytest.raises(InvalidActionPayload, match=words):
        await connector(Recorder()).execute(Action(type="send_message", payload=payload))


def problem(code: int, status: int) -> dict[str, Any]:
    more = f"https://www.twilio.com/docs/errors/{code}"
    return {"code": code, "message": "Said by Twilio.", "more_info": more, "status": status}


@pytest.mark.parametrize(
    ("status", "answer", "headers", "error", "words"),
    [
        (400, problem(21211, 400), {}, Rejected, "21211"),
        (401, problem(20003, 401), {}, AuthenticationFailed, "console"),
        (403, problem(20403, 403), {}, AuthenticationFailed, "20403"),
        (404, problem(20404, 404), {}, Rejected, "20404"),
        (429, problem(20429, 429), {"retry_after": "3"}, RateLimited, "20429"),
        (500, problem(20500, 500), {}, Unavailable, "20500"),
        (503, b"upstream", {}, Unavailable, "503"),
        (401, b"<html>a proxy</html>", {}, AuthenticationFailed, "401"),
        (200, b"<html>a portal</html>", {}, Unavailable, "base_url"),
        (307, b"", {"location": "https://elsewhere.example"}, Rejected, "307"),
    ],
)
async def test_an_error_answer_is_explained(status, answer, headers, error, words):
    with pytest.raises(error) as caught:
        await run(connector(Recorder(answer, status, **headers)), "fetch_message", Sid=SMS)
    assert type(caught.value) is error
    assert words in str(caught.value)
    assert caught.value.status == status
    assert caught.value.retry_after == (3 if "retry_after" in headers else None)


async def test_an_outage_is_not_a_bad_credential_and_no_error_shows_one():
    for fault, error in [(httpx2.ConnectError("no"), NotSent), (httpx2.ReadTimeout("slow"), Unavailable)]:

        def respond(request: httpx2.Request, fault: Exception = fault) -> httpx2.Response:
            raise fault

        with pytest.raises(error):
            await connector(respond).check()
    basic = base64.b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
    echo = Recorder({"code": 20003, "message": f"bad {TOKEN} in {basic}"}, 401)
    with pytest.raises(AuthenticationFailed) as caught:
        await connector(echo).check()
    assert TOKEN not in str(caught.value)
    assert basic not in str(caught.value)


async def test_a_check_asks_for_the_account_and_with_a_key_for_messages():
    twilio = Recorder({"status": "active"})
    await connector(twilio).check()
    assert twilio.called == ("GET", f"{ACCOUNT}.json")
    with pytest.raises(Rejected, match="suspended"):
        await connector(Recorder({"status": "suspended"})).check()
    key = "SK" + "9b" * 16
    await connector(twilio, "keySecret", api_key_sid=key).check()
    assert twilio.called == ("GET", f"{ACCOUNT}/Messages.json?PageSize=1")
    assert twilio.user == f"{key}:keySecret"


async def test_a_number_gets_the_url_and_loses_only_ours():
    ours = "https://p.example/webhooks/twilio/t"
    twilio = Recorder({"sms_url": "https://earlier.example/webhooks/twilio/t"})
    await connector(twilio).register_webhook(ours, {})
    await connector(twilio).unregister_webhook([ours])
    assert twilio.requests == []
    chosen = connector(twilio, phone_number_sid=NUMBER)
    await chosen.register_webhook(ours, {})
    assert twilio.called == ("POST", f"{ACCOUNT}/IncomingPhoneNumbers/{NUMBER}.json")
    assert twilio.form == {"SmsUrl": [ours], "SmsMethod": ["POST"]}
    await chosen.unregister_webhook([ours])
    assert twilio.form["SmsUrl"] == [""]
    twilio.answer = {"sms_url": "https://another.example/sms"}
    await chosen.unregister_webhook([ours])
    assert twilio.called[0] == "GET"


# End to end.


def signature(url: str, body: bytes) -> str:
    pairs = sorted(parse_qsl(body.decode(), keep_blank_values=True))
    text = url + "".join(name + value for name, value in pairs)
    return base64.b64encode(hmac.new(TOKEN.encode(), text.encode(), hashlib.sha1).digest()).decode()


async def test_a_message_comes_in_and_is_answered_and_one_goes_out(tmp_path):
    async def twilio(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.answer(201, json.dumps(MESSAGE).encode())

    async with wire_server(twilio) as provider, running_platform(tmp_path, TwilioConnector) as running:
        connection = await running.connect(
            "twilio",
            secrets={"auth_token": TOKEN},
            settings={"account_sid": ACCOUNT, "base_url": provider.url, "reply": "Thanks"},
        )
        url = connection["webhook_url"]
        body = (FIXTURES / "twilio.message.received.form").read_bytes().rstrip()
        headers = {
            "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
            "X-Twilio-Signature": signature(url, body),
        }
        for _ in range(2):
            answer = await running.client.post(url, content=body, headers=headers)
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "text/xml"
            assert b"<Message>Thanks</Message>" in answer.content
        refused = await running.client.post(url, content=body + b"&x=y", headers=headers)
        assert refused.status_code == 401
        status = (FIXTURES / "twilio.message_status.updated.form").read_bytes().rstrip()
        headers["X-Twilio-Signature"] = signature(url, status)
        answer = await running.client.post(url, content=status, headers=headers)
        assert (answer.status_code, answer.content) == (200, b"")
        events = await running.feed_of(2)
        assert [event["type"] for event in events] == [
            "twilio.message.received",
            "twilio.message_status.updated",
        ]

        webhooks = await running.settled()
        again = await running.client.post(f"/api/v1/webhooks/{webhooks[-1]['id']}/replay")
        assert again.status_code in (200, 202), again.text
        assert {webhook["state"] for webhook in await running.settled()} == {"processed"}

        action = await running.act(
            connection["id"], "send_message", {"To": "+1555", "From": "+14017122661", "Body": "Hi"}
        )
        assert (action["state"], action["result"]["sid"]) == ("succeeded", SMS)
        assert b"To=%2B1555&From=%2B14017122661&Body=Hi" in provider.requests[0]
