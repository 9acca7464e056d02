import base64
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from app.integrations.connectors.sendgrid.connector import SendGridConnector
from app.integrations.connectors.sendgrid.schemas import SendGridSettings
from app.integrations.errors import (
    AuthenticationFailed,
    InvalidActionPayload,
    InvalidBody,
    KeyUnavailable,
    NotSent,
    RateLimited,
    Refused,
    Rejected,
    Unavailable,
)
from app.integrations.http import ConnectorHttp
from app.integrations.models import Action
from app.integrations.registry import check_declarations
from app.integrations.requests import Headers, WebhookRequest
from tests.support.platform import running_platform
from tests.support.wire import Exchange, wire_server

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = sorted(path.stem for path in FIXTURES.glob("*.json") if ".headers" not in path.name)
API_KEY = "SG.planted.ApiKeyValue"
SIGNATURE = "X-Twilio-Email-Event-Webhook-Signature"
TIMESTAMP = "X-Twilio-Email-Event-Webhook-Timestamp"


def connector(respond: Any = None, **settings: Any) -> SendGridConnector:
    http = ConnectorHttp(transport=httpx2.MockTransport(respond) if respond else None)
    return SendGridConnector(API_KEY, SendGridSettings(**settings), http)


def fixture(name: str) -> dict[str, Any]:
    [event] = json.loads((FIXTURES / f"{name}.json").read_bytes())
    return event


async def payload_of(name: str) -> dict[str, Any]:
    return (await connector().handle_webhook(fixture(name))).payload


# Events.


def test_the_declarations_are_sound():
    check_declarations(SendGridConnector)
    assert {name.partition("__")[0] for name in NAMES} == {spec.name for spec in SendGridConnector.events}


@pytest.mark.parametrize("name", NAMES)
async def test_each_fixture_becomes_the_event_it_is_named_after(name):
    sent = fixture(name)
    event = await connector().handle_webhook(sent)
    assert event.type == name.partition("__")[0]
    assert event.external_id == sent["sg_event_id"]
    assert event.payload["raw"] == sent
    SendGridConnector.event_spec(event.type).model.model_validate(event.payload)
    json.dumps(event.payload)


async def test_a_bounce_is_laid_out_flat_beside_the_original():
    payload = await payload_of("sendgrid.email.bounced")
    told = {name: value for name, value in payload.items() if value not in (None, [])}
    raw = told.pop("raw")
    assert told.pop("smtp_id") == raw["smtp-id"]
    assert told == {name: value for name, value in raw.items() if name not in ("smtp-id", "tls")}


async def test_categories_are_a_list_and_attempts_a_number():
    assert (await payload_of("sendgrid.email.processed"))["category"] == ["orders", "june"]
    assert (await payload_of("sendgrid.email.delivered"))["category"] == ["orders"]
    assert (await payload_of("sendgrid.email.deferred"))["attempt"] == 5


async def test_custom_arguments_that_hide_a_field_are_left_to_the_original():
    payload = await payload_of("sendgrid.event.received__custom_arguments_of_other_kinds")
    assert [payload[name] for name in ("status", "url", "attempt", "reason")] == [None] * 4
    assert (payload["category"], payload["timestamp"]) == (["orders"], 1781170200)


async def test_an_event_without_an_id_claims_none():
    event = await connector().handle_webhook({"event": "processed", "email": "a@b.c"})
    assert event.external_id is None


@pytest.mark.parametrize(
    "item",
    [None, 5, "planted value", [], {}, {"event": ["planted value"]}, {"event": "open", "sg_event_id": 5}]
    + [{"event": "open", "sg_event_id": value} for value in ("", "x" * 600, "a\x00")],
)
async def test_a_malformed_event_is_a_named_error_without_its_values(item):
    with pytest.raises(InvalidBody) as caught:
        await connector().handle_webhook(item)
    assert caught.value.code == "invalid_event"
    assert "planted value" not in str(caught.value)


# Verification.

PUBLISHED_KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNN"
    "RaINXvVpiglSI8eNEc6wEA3F+g=="
)
OTHER_KEY = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEqTxd43gyp8IOEto2LdIfjRQrIbsd4SXZkLW6jDutdhXSJCWHw8REntlo7aND"
    "thvj+y7GjUuFDb/R1NGe1OPzpA=="
)
OTHER_SIGNATURE = (
    "MEUCIQCtIHJeH93Y+qpYeWrySphQgpNGNr/U+UyUlBkU6n7RAwIgJTz2C+8a8xonZGi6BpSzoQsbVRamr2nlxFDWYNH3j/0="
)


def published(**changes: str | None) -> WebhookRequest:
    """The request that sendgrid-python publishes in test/unit/test_eventwebhook.py."""
    beside = json.loads((FIXTURES / "sendgrid.email.dropped.headers.json").read_text())
    headers = {name: value for name, value in {**beside, **changes}.items() if value is not None}
    body = (FIXTURES / "sendgrid.email.dropped.json").read_bytes()
    url = "https://p.example/webhooks/sendgrid/t"
    return WebhookRequest("POST", url, Headers(headers.items()), body, SendGridConnector.body)


def verify(asked: WebhookRequest, *keys: str) -> None:
    secrets = {"verification_key": keys or (PUBLISHED_KEY,)}
    SendGridConnector.verification.verify(asked, secrets, time.time())


def test_the_published_request_is_genuine_years_later():
    verify(published())
    verify(published(), OTHER_KEY, PUBLISHED_KEY)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (replace(published(), body=published().body.rstrip()), "signature_differs"),
        (replace(published(), body=b"payload"), "signature_differs"),
        (published(**{SIGNATURE: OTHER_SIGNATURE}), "signature_differs"),
        (published(**{TIMESTAMP: "timestamp"}), "signature_differs"),
        (published(**{TIMESTAMP: "1600112503"}), "signature_differs"),
        (published(**{SIGNATURE: "AAAA"}), "signature_differs"),
        (published(**{SIGNATURE: "no base64"}), "signature_malformed"),
        (published(**{SIGNATURE: "ü"}), "signature_malformed"),
        (published(**{SIGNATURE: ""}), "header_missing"),
        (published(**{SIGNATURE: None}), "header_missing"),
        (published(**{TIMESTAMP: None}), "header_missing"),
    ],
)
def test_anything_else_is_refused(asked, code):
    with pytest.raises(Refused) as caught:
        verify(asked)
    assert caught.value.code == code


def test_another_key_refuses_and_none_asks_to_come_again():
    with pytest.raises(Refused) as caught:
        verify(published(), OTHER_KEY)
    assert caught.value.code == "signature_differs"
    for keys in ({}, {"verification_key": ["no key"]}, {"verification_key": ["AAAA"]}):
        with pytest.raises(KeyUnavailable):
            SendGridConnector.verification.verify(published(), keys, 0.0)


# Mail.


class Recorder:
    """Answers with `answer` and keeps the requests."""

    def __init__(self, answer: Any = b"", status: int = 202, **headers: str) -> None:
        self.answer, self.status = answer, status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        content = self.answer if isinstance(self.answer, bytes) else json.dumps(self.answer).encode()
        return httpx2.Response(self.status, content=content, headers=self.headers)

    @property
    def calls(self) -> list[tuple[str, str, Any]]:
        return [
            (asked.method, asked.url.path, json.loads(asked.content) if asked.content else None)
            for asked in self.requests
        ]


async def send(chosen: SendGridConnector, **payload: Any) -> dict[str, Any]:
    result = await chosen.execute(Action(type="send_mail", payload=payload))
    SendGridConnector.action_spec("send_mail").result.model_validate(result)
    return result


SENDER = {"email": "shop@example.com", "name": "Shop"}
ANN, BOB = {"email": "ann@example.com"}, {"email": "bob@example.com", "name": "Bob"}
TEXT = [{"type": "text/plain", "value": "Hello, größer"}]
MAIL = {"from": SENDER, "to": [ANN], "subject": "Hi", "content": TEXT}


async def test_one_mail_is_a_list_of_one():
    sendgrid = Recorder(X_Message_Id="LRzXl_NHStOGhQ4kofSm_A")
    file = {"content": base64.b64encode(b"a,b").decode(), "filename": "r.csv", "type": "text/csv"}
    sent = {
        "attachments": [file],
        "categories": ["orders"],
        "custom_args": {"order_id": "6735"},
        "reply_to": BOB,
        "asm": {"group_id": 10},
        "mail_settings": {"sandbox_mode": {"enable": True}},
    }
    result = await send(connector(sendgrid), **MAIL, cc=[BOB], **sent)
    assert result == {"message_id": "LRzXl_NHStOGhQ4kofSm_A"}
    [(method, path, body)] = sendgrid.calls
    assert (method, path) == ("POST", "/v3/mail/send")
    assert body == {
        "personalizations": [{"to": [ANN], "cc": [BOB]}],
        "from": SENDER,
        "subject": "Hi",
        "content": TEXT,
        **sent,
    }
    assert sendgrid.requests[0].headers["authorization"] == f"Bearer {API_KEY}"


async def test_a_template_is_filled_with_whatever_it_is_given():
    sendgrid = Recorder()
    data = {"name": "Ann", "nothing": None, "items": [{"price": 1.5}, None]}
    result = await send(
        connector(sendgrid), **{"from": SENDER}, to=[ANN], template_id="d-1", dynamic_template_data=data
    )
    assert result == {"message_id": None}
    [(_, _, body)] = sendgrid.calls
    assert body["personalizations"] == [{"to": [ANN], "dynamic_template_data": data}]


async def test_many_mails_are_given_as_the_api_has_them():
    sendgrid = Recorder()
    many = [{"to": [ANN], "subject": "A"}, {"to": [BOB], "from": SENDER, "custom_args": {"n": "2"}}]
    await send(connector(sendgrid), **{"from": SENDER}, content=TEXT, subject="S", personalizations=many)
    [(_, _, body)] = sendgrid.calls
    assert body["personalizations"] == many


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"to": None}, "either to or personalizations"),
        ({"personalizations": [{"to": [ANN]}]}, "either to or personalizations"),
        ({"to": None, "personalizations": [{"to": [ANN]}], "cc": [BOB]}, "inside personalizations"),
        ({"content": None}, "content or template_id"),
        ({"attachments": [{"content": "no base64", "filename": "x"}]}, "attachments.0.content"),
        ({"from": None}, "from"),
        ({"custom_args": {"a": 1}}, "custom_args.a"),
        ({"subjekt": "x"}, "subjekt"),
    ],
)
async def test_a_mail_that_cannot_be_meant_names_its_field(changes, words):
    with pytest.raises(InvalidActionPayload, match=words):
        await send(connector(Recorder()), **{**MAIL, **changes})


def problems(message: str = "Said by SendGrid.", field: str | None = None) -> dict[str, Any]:
    return {"errors": [{"message": message, "field": field, "help": None}]}


@pytest.mark.parametrize(
    ("status", "answer", "error", "words"),
    [
        (400, problems("Does not contain a valid address.", "from.email"), Rejected, "from.email: Does not"),
        (401, problems("The provided authorization grant is invalid"), AuthenticationFailed, "API key"),
        (401, problems("Maximum credits exceeded"), Rejected, "credits"),
        (403, problems("access forbidden"), AuthenticationFailed, "permissions"),
        (403, problems("access forbidden", "null"), AuthenticationFailed, "permissions"),
        (403, problems("not a verified Sender Identity", "from"), Rejected, "from: not a verified"),
        (404, problems("Invalid id provided."), Rejected, "Invalid id"),
        (413, problems("content too large"), Rejected, "too large"),
        (429, problems("too many requests"), RateLimited, "too many"),
        (500, problems("internal server error"), Unavailable, "internal"),
        (503, b"<html>no</html>", Unavailable, "503"),
        (401, b"<html>a proxy</html>", AuthenticationFailed, "401"),
        (307, b"", Rejected, "307"),
    ],
)
async def test_an_error_answer_is_explained(status, answer, error, words):
    with pytest.raises(error) as caught:
        await send(connector(Recorder(answer, status)), **MAIL)
    assert type(caught.value) is error
    assert words in str(caught.value)
    assert caught.value.status == status


async def test_a_limit_says_when_it_ends():
    limited = Recorder(problems(), 429, X_RateLimit_Reset=str(int(time.time()) + 30))
    with pytest.raises(RateLimited) as caught:
        await send(connector(limited), **MAIL)
    assert 28 <= caught.value.retry_after <= 30
    for odd in ("soon", "1392815263", "-5"):
        limited = Recorder(problems(), 429, X_RateLimit_Reset=odd)
        with pytest.raises(RateLimited) as caught:
            await send(connector(limited), **MAIL)
        assert caught.value.retry_after in (None, 1.0)


async def test_an_outage_is_not_a_bad_key_and_no_error_shows_the_key():
    for fault, error in [(httpx2.ConnectError("no"), NotSent), (httpx2.ReadTimeout("slow"), Unavailable)]:

        def respond(request: httpx2.Request, fault: Exception = fault) -> httpx2.Response:
            raise fault

        with pytest.raises(error):
            await connector(respond).check()
    with pytest.raises(AuthenticationFailed) as caught:
        await connector(Recorder(problems(f"bad key {API_KEY}"), 401)).check()
    assert API_KEY not in str(caught.value)
    good = Recorder({"scopes": ["mail.send"]}, 200)
    await connector(good).check()
    assert good.calls == [("GET", "/v3/scopes", None)]


# Registration.

WEBHOOK = {
    "id": "77d4a5da-7015-11ed-a1eb-0242ac120002",
    "url": "https://earlier.example/webhooks/sendgrid/t",
    "enabled": False,
    "friendly_name": "Shop",
    "public_key": "MFkw",
    **dict.fromkeys(("processed", "open", "click"), False),
    **dict.fromkeys(("delivered", "deferred", "bounce", "dropped", "spam_report", "unsubscribe"), True),
    **dict.fromkeys(("group_unsubscribe", "group_resubscribe"), True),
}


async def test_an_event_webhook_made_by_hand_is_kept_up_to_date():
    ours = "https://p.example/webhooks/sendgrid/t"
    sendgrid = Recorder(WEBHOOK, 200)
    await connector(sendgrid).register_webhook(ours, {})
    await connector(sendgrid).unregister_webhook([ours])
    assert sendgrid.calls == []

    chosen = connector(sendgrid, event_webhook_id=WEBHOOK["id"])
    path = f"/v3/user/webhooks/event/settings/{WEBHOOK['id']}"
    kept = {name: value for name, value in WEBHOOK.items() if name not in ("id", "public_key")}
    await chosen.register_webhook(ours, {})
    assert sendgrid.calls == [
        ("GET", path, None),
        ("PATCH", path, {**kept, "url": ours, "enabled": True}),
        ("PATCH", f"/v3/user/webhooks/event/settings/signed/{WEBHOOK['id']}", {"enabled": True}),
    ]
    await chosen.unregister_webhook([ours])
    assert sendgrid.calls[-1] == ("PATCH", path, {**kept, "enabled": False})
    sendgrid.answer = {**WEBHOOK, "url": "https://another.example/hook"}
    await chosen.unregister_webhook([ours])
    assert sendgrid.calls[-1][0] == "GET"
    sendgrid.answer = b"<html>a portal</html>"
    with pytest.raises(Unavailable, match="base_url"):
        await chosen.register_webhook(ours, {})


# End to end.


async def test_a_signed_batch_comes_in_and_a_mail_goes_out(tmp_path):
    async def sendgrid(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.answer(202, X_Message_Id="abc")

    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    batch = [fixture("sendgrid.email.delivered"), fixture("sendgrid.email.opened"), {"no": "event"}]
    body = json.dumps(batch).encode() + b"\r\n"
    stamp = str(int(time.time()))
    made = base64.b64encode(key.sign(stamp.encode() + body, ec.ECDSA(SHA256()))).decode()
    headers = {SIGNATURE: made, TIMESTAMP: stamp, "Content-Type": "application/json"}

    async with wire_server(sendgrid) as provider, running_platform(tmp_path, SendGridConnector) as running:
        connection = await running.connect(
            "sendgrid", secrets={"api_key": API_KEY}, settings={"base_url": provider.url}
        )
        url = connection["webhook_url"]
        assert (await running.client.post(url, content=body, headers=headers)).status_code == 503
        stored = await running.client.put(
            f"/api/v1/connections/{connection['id']}/secrets",
            json={"secrets": {"verification_key": base64.b64encode(public).decode()}},
        )
        assert stored.status_code < 300, stored.text
        for _ in range(2):
            assert (await running.client.post(url, content=body, headers=headers)).status_code == 200
        changed = await running.client.post(url, content=body.rstrip(), headers=headers)
        assert changed.status_code == 401
        # The good ones of a batch count, the bad one is told of, and a repeated batch adds nothing.
        assert {webhook["reason_code"] for webhook in await running.settled()} == {"invalid_event"}
        events = await running.feed_of(2)
        assert [event["type"] for event in events] == ["sendgrid.email.delivered", "sendgrid.email.opened"]

        action = await running.act(connection["id"], "send_mail", MAIL)
        assert (action["state"], action["result"]) == ("succeeded", {"message_id": "abc"})
        assert b'"personalizations":[{"to":[{"email":"ann@example.com"}]}]' in provider.requests[0]
