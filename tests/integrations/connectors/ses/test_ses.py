import base64
import json
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from app.integrations.connectors.ses.connector import SesConnector
from app.integrations.errors import InvalidBody, KeyNeeded, KeyUnavailable, Refused, UnhandledWebhook
from app.integrations.http import ConnectorHttp
from app.integrations.registry import check_declarations
from app.integrations.requests import Headers, WebhookRequest
from tests.support.platform import running_platform

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = sorted(p.stem for p in FIXTURES.glob("*.json") if ".headers" not in p.name and p.name[0] != "_")
TOPIC = "arn:aws:sns:eu-central-1:123456789012:mail-events"
HOST = "https://sns.eu-central-1.amazonaws.com"
CERT_URL = f"{HOST}/SimpleNotificationService-0123456789abcdef0123456789abcdef.pem"


def certificate(key: Any) -> str:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sns.amazonaws.com")])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(datetime.now(UTC)).not_valid_after(datetime.now(UTC) + timedelta(days=1))
    return made.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


KEY = rsa.generate_private_key(65537, 2048)
PEM = certificate(KEY)


def envelope(name: str, **changes: Any) -> dict[str, Any]:
    return {**json.loads((FIXTURES / f"{name}.json").read_text()), **changes}


def signed(message: dict[str, Any], version: str = "2", key: Any = KEY) -> dict[str, Any]:
    """Signed as SNS does: the named fields that are there, sorted, each as name and value in lines."""
    names = ["Message", "MessageId", "Timestamp", "TopicArn", "Type"]
    names += ["Subject"] if message["Type"] == "Notification" else ["SubscribeURL", "Token"]
    text = "".join(f"{name}\n{message[name]}\n" for name in sorted(names) if name in message)
    made = key.sign(text.encode(), PKCS1v15(), {"1": SHA1, "2": SHA256}[version]())
    return {**message, "SignatureVersion": version, "Signature": base64.b64encode(made).decode()}


def request(message: Any) -> WebhookRequest:
    headers = Headers([("content-type", "text/plain; charset=UTF-8")])
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    return WebhookRequest("POST", "https://p.example/webhooks/ses/t", headers, body, SesConnector.body)


# Events.


async def event_of(name: str) -> Any:
    return await SesConnector(ConnectorHttp()).receive(request(envelope(name)))


def test_the_declarations_are_sound():
    check_declarations(SesConnector)
    assert {name.partition("__")[0] for name in NAMES} == {spec.name for spec in SesConnector.events}


@pytest.mark.parametrize("name", NAMES)
async def test_each_fixture_becomes_the_event_it_is_named_after(name):
    event = await event_of(name)
    assert event.type == name.partition("__")[0]
    assert event.external_id == envelope(name)["MessageId"]
    spec = SesConnector.event_spec(event.type)
    assert spec.unique_id
    spec.model.model_validate(event.payload)
    json.dumps(event.payload)


async def test_a_bounce_is_laid_out_flat_beside_the_original():
    payload = (await event_of("ses.email.bounced")).payload
    assert payload.pop("raw") == json.loads(envelope("ses.email.bounced")["Message"])
    assert payload == {
        "kind": "Bounce",
        "sns_message_id": envelope("ses.email.bounced")["MessageId"],
        "message_id": "0107019012345678-7c191be4-e9ae-4db9-02f9-dd0099a07f8a-000000",
        "timestamp": "2026-06-11T09:26:40.669Z",
        "source": "Shop <shop@example.com>",
        "subject": "Your order, größer",
        "recipients": ["ann@example.org"],
        "tags": json.loads(envelope("ses.email.bounced")["Message"])["mail"]["tags"],
        "bounce_type": "Permanent",
        "bounce_sub_type": "General",
        "feedback_id": "0107019012345999-61b59c11-9236-11e6-8f96-7be8a0000000-000000",
        "diagnostic_codes": ["smtp; 550 5.1.1 user unknown"],
    }


async def test_identity_notifications_are_the_same_events():
    payload = (await event_of("ses.email.bounced__identity_notification")).payload
    assert payload["recipients"] == ["ann@example.org", "bob@example.org"]
    assert (payload["kind"], payload["subject"], payload["tags"]) == ("Bounce", None, {})


async def test_each_kind_has_what_is_peculiar_to_it():
    assert (await event_of("ses.email.delivered")).payload["recipients"] == ["ann@example.org"]
    assert (await event_of("ses.email.delivered")).payload["smtp_response"].startswith("250")
    assert (await event_of("ses.email.complained")).payload["complaint_feedback_type"] == "abuse"
    assert (await event_of("ses.email.failed")).payload["template_name"] == "Welcome"
    assert (await event_of("ses.email.failed")).payload["reason"].startswith("Attribute 'name'")
    assert (await event_of("ses.email.rejected")).payload["reason"] == "Bad content"
    assert (await event_of("ses.email.delayed")).payload["delay_type"] == "TransientCommunicationFailure"
    assert (await event_of("ses.email.clicked")).payload["link"] == "https://shop.example.com/orders/7"
    sent = (await event_of("ses.email.sent")).payload
    assert sent["recipients"] == ["ann@example.org", "bob@example.org"]
    assert sent["timestamp"] == "2026-06-11T09:26:38.237Z"


async def test_anything_else_is_kept():
    text = (await event_of("ses.notification.received")).payload
    assert text["text"] == "Successfully validated SNS topic for Amazon SES event publishing."
    received = (await event_of("ses.notification.received__mail_received")).payload
    assert (received["kind"], received["text"]) == ("Received", None)
    assert received["raw"]["content"] == "SGVscCE="
    ended = (await event_of("ses.notification.received__unsubscribed")).payload
    assert ended["kind"] == "UnsubscribeConfirmation"
    for odd in ("[1]", "{}", '{"eventType": 5}', '{"eventType": "Send"', "5"):
        made = await SesConnector(ConnectorHttp()).receive(request(envelope("ses.email.sent", Message=odd)))
        assert made.type == "ses.notification.received"


@pytest.mark.parametrize(
    "changes",
    [
        {"Message": 5},
        {"MessageId": "x" * 600},
        {"Timestamp": None},
        {"Message": '{"eventType": "Bounce"}'},
        {"Message": '{"eventType": "Bounce", "mail": {"messageId": ["planted value"]}}'},
        {"Message": '{"eventType": "Bounce", "mail": {"messageId": "m"}, "bounce": "planted value"}'},
    ],
)
async def test_a_malformed_message_is_a_named_error_without_its_values(changes):
    with pytest.raises(InvalidBody) as caught:
        await SesConnector(ConnectorHttp()).receive(request(envelope("ses.email.sent", **changes)))
    assert caught.value.code in ("invalid_sns_message", "invalid_notification")
    assert "planted value" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


# The subscription.


async def test_a_subscription_is_confirmed_and_makes_no_event():
    visited = []

    def respond(asked: httpx2.Request) -> httpx2.Response:
        visited.append(str(asked.url))
        return httpx2.Response(200, content=b"<ConfirmSubscriptionResponse/>")

    connector = SesConnector(ConnectorHttp(transport=httpx2.MockTransport(respond)))
    message = envelope("_subscription_confirmation")
    assert await connector.receive(request(message)) is None
    assert visited == [message["SubscribeURL"]]


@pytest.mark.parametrize(
    "url",
    ["", "http://sns.eu-central-1.amazonaws.com/?Token=planted", "https://evil.example/?Token=planted"],
)
async def test_no_other_place_is_visited(url):
    def respond(asked: httpx2.Request) -> httpx2.Response:
        raise AssertionError("nothing may be asked")

    connector = SesConnector(ConnectorHttp(transport=httpx2.MockTransport(respond)))
    with pytest.raises(UnhandledWebhook, match="SubscribeURL does not lead to Amazon SNS") as caught:
        await connector.receive(request(envelope("_subscription_confirmation", SubscribeURL=url)))
    assert caught.value.code == "subscription_not_confirmed"
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("status", [302, 400, 403, 500, None])
async def test_a_confirmation_that_fails_leaves_a_webhook_to_replay(status):
    def respond(asked: httpx2.Request) -> httpx2.Response:
        if status is None:
            raise httpx2.ConnectError(f"no way to {asked.url}")
        return httpx2.Response(status, headers={"location": "https://evil.example/"})

    connector = SesConnector(ConnectorHttp(transport=httpx2.MockTransport(respond)))
    with pytest.raises(UnhandledWebhook, match="Replay") as caught:
        await connector.receive(request(envelope("_subscription_confirmation")))
    assert "2336412f38" not in str(caught.value)


# Verification.


def verify(message: Any, topic: str = TOPIC, pem: str | None = PEM) -> None:
    secrets = {"topic_arn": [topic], **({CERT_URL: [pem]} if pem else {})}
    SesConnector.verification.verify(request(message), secrets, 0.0)


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("name", [*NAMES, "_subscription_confirmation"])
def test_a_genuine_message_is_accepted(name, version):
    verify(signed(envelope(name), version))


def test_the_topic_may_have_been_pasted_with_a_line_end():
    verify(signed(envelope("ses.email.sent")), topic=f" {TOPIC}\n")


@pytest.mark.parametrize("field", ["Message", "MessageId", "Timestamp", "Type", "Subject"])
def test_every_signed_field_counts(field):
    message = signed(envelope("ses.email.sent", Subject="one"))
    message[field] = "UnsubscribeConfirmation" if field == "Type" else message[field] + "x"
    with pytest.raises(Refused) as caught:
        verify(message)
    assert caught.value.code == "signature_differs"


@pytest.mark.parametrize("field", ["SubscribeURL", "Token"])
def test_every_signed_field_of_a_confirmation_counts(field):
    message = signed(envelope("_subscription_confirmation"))
    with pytest.raises(Refused) as caught:
        verify({**message, field: message[field] + "x"})
    assert caught.value.code == "signature_differs"


def test_another_key_or_version_does_not_do():
    other = rsa.generate_private_key(65537, 2048)
    for message in (
        signed(envelope("ses.email.sent"), key=other),
        {**signed(envelope("ses.email.sent"), "1"), "SignatureVersion": "2"},
        {**signed(envelope("ses.email.sent")), "Signature": ""},
    ):
        with pytest.raises(Refused) as caught:
            verify(message)
        assert caught.value.code == "signature_differs"


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", "signature_malformed"),
        (b"[]", "signature_malformed"),
        (b'{"Type": []}', "signature_malformed"),
        (b'{"Type": {}}', "signature_malformed"),
        (b'{"Type": "Notification", "Type": "Notification"}', "signature_malformed"),
        (b'{"Type": "Notification"}', "topic_differs"),
        (b'{"eventType": "Send", "mail": {"messageId": "raw delivery"}}', "signature_malformed"),
        (envelope("ses.email.sent", TopicArn=5), "signature_malformed"),
        (envelope("ses.email.sent", Message=None), "signature_malformed"),
        (envelope("ses.email.sent", SignatureVersion="3"), "signature_malformed"),
        (envelope("ses.email.sent", SignatureVersion=2), "signature_malformed"),
        (envelope("ses.email.sent", Signature="ü"), "signature_malformed"),
        (envelope("ses.email.sent", TopicArn=TOPIC + "x"), "topic_differs"),
        (envelope("ses.email.sent", TopicArn=TOPIC.replace("123", "999")), "topic_differs"),
    ],
)
def test_anything_else_is_refused_before_a_certificate_is_asked_for(message, code):
    with pytest.raises(Refused) as caught:
        verify(message, pem=None)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "url",
    [
        None,
        5,
        "",
        CERT_URL.replace("https", "http"),
        CERT_URL.replace("https", "HTTPS"),
        CERT_URL.replace("eu-central-1", "us-east-1"),
        CERT_URL.replace("sns.eu", "sqs.eu"),
        CERT_URL.replace("sns.eu-central-1", "sns.s3-eu-central-1"),
        CERT_URL.replace("sns.eu-central-1.amazonaws.com", "sns.s3.eu-central-1.amazonaws.com"),
        CERT_URL.replace("amazonaws.com", "amazonaws.com.evil.example"),
        CERT_URL.replace("amazonaws.com", "amazonaws.com:8443"),
        CERT_URL.replace("amazonaws.com", "amazonaws.com@evil.example"),
        CERT_URL.replace("amazonaws.com", "amazonaws.com\\@evil.example"),
        CERT_URL.replace("amazonaws.com/", "amazonaws.com\n/"),
        CERT_URL.replace("amazonaws.com", "amazonaws-com"),
        CERT_URL.replace("sns.", "evil-sns."),
        CERT_URL.replace("https://sns", "https://user@sns"),
        "https://[",
        f"https://evil.example/{CERT_URL}",
        f"https://evil.example?{HOST}/x.pem",
        f"{HOST}/x.pem?Action=Publish",
        f"{HOST}/?Message=-----BEGIN&x=.pem",
        f"{HOST}/../x.pem",
        f"{HOST}/x.pem#y",
        f"{HOST}/x.pem\n",
        f"{HOST}/x.crt",
    ],
)
def test_a_certificate_from_anywhere_else_is_not_asked_for(url):
    with pytest.raises(Refused) as caught:
        verify(signed(envelope("ses.email.sent", SigningCertURL=url)), pem=None)
    assert caught.value.code in ("certificate_elsewhere", "signature_malformed")


def test_the_certificate_is_asked_for_by_its_url():
    with pytest.raises(KeyNeeded) as caught:
        verify(signed(envelope("ses.email.sent")), pem=None)
    assert caught.value.url == CERT_URL


@pytest.mark.parametrize("region", ["us-gov-west-1", "cn-north-1"])
def test_every_partition_has_its_topics(region):
    partition, end = ("aws-us-gov", "") if "gov" in region else ("aws-cn", ".cn")
    topic = TOPIC.replace("eu-central-1", region).replace("arn:aws:", f"arn:{partition}:")
    url = CERT_URL.replace("eu-central-1", region).replace("amazonaws.com", f"amazonaws.com{end}")
    with pytest.raises(KeyNeeded):
        verify(signed(envelope("ses.email.sent", TopicArn=topic, SigningCertURL=url)), topic, None)


@pytest.mark.parametrize(
    "topic",
    ["mail-events", "arn:aws:sns:s3-eu-central-1:1:t", "arn:aws:sns:.*:1:t", "arn:aws:sqs:eu-central-1:1:t"],
)
def test_a_topic_that_is_none_opens_nothing(topic):
    region = topic.split(":")[3] if topic.count(":") == 5 else "eu-central-1"
    url = CERT_URL.replace("eu-central-1", region)
    with pytest.raises(Refused) as caught:
        verify(signed(envelope("ses.email.sent", TopicArn=topic, SigningCertURL=url)), topic, None)
    assert caught.value.code == "certificate_elsewhere"


@pytest.mark.parametrize(
    "pem", ["", "not a certificate", certificate(ec.generate_private_key(ec.SECP256R1()))]
)
def test_what_is_no_rsa_certificate_is_not_the_senders_fault(pem):
    secrets = {"topic_arn": [TOPIC], CERT_URL: [pem]}
    with pytest.raises(KeyUnavailable) as caught:
        SesConnector.verification.verify(request(signed(envelope("ses.email.sent"))), secrets, 0.0)
    assert caught.value.code == "certificate_unusable"


def test_without_a_topic_amazon_is_asked_to_come_again():
    with pytest.raises(KeyUnavailable) as caught:
        SesConnector.verification.verify(request(signed(envelope("ses.email.sent"))), {}, 0.0)
    assert caught.value.code == "secret_missing"


# End to end.


async def test_a_topic_is_confirmed_and_its_messages_become_events(tmp_path, monkeypatch):
    fetched, visited = [], []

    def certificates(asked: httpx2.Request) -> httpx2.Response:
        fetched.append(str(asked.url))
        return httpx2.Response(200, text=PEM) if str(asked.url) == CERT_URL else httpx2.Response(404)

    def amazon(asked: httpx2.Request) -> httpx2.Response:
        visited.append(str(asked.url))
        return httpx2.Response(200)

    stand_in = partial(ConnectorHttp, transport=httpx2.MockTransport(amazon))
    monkeypatch.setattr("app.modules.integrations.instances.ConnectorHttp", stand_in)
    keys = httpx2.MockTransport(certificates)
    async with running_platform(tmp_path, SesConnector, key_transport=keys) as running:
        url = (await running.connect("ses", secrets={"topic_arn": TOPIC}))["webhook_url"]

        async def send(message: dict[str, Any]) -> int:
            answer = await running.client.post(
                url, content=json.dumps(message), headers={"Content-Type": "text/plain; charset=UTF-8"}
            )
            return answer.status_code

        assert await send(signed(envelope("ses.email.sent", TopicArn=TOPIC + "x"))) == 401
        lookalike = CERT_URL.replace("amazonaws.com", "amazonaws.com.evil.example")
        assert await send(signed(envelope("ses.email.sent", SigningCertURL=lookalike))) == 401
        assert fetched == []

        gone = CERT_URL.replace("0123", "9876")
        assert await send(signed(envelope("ses.email.sent", SigningCertURL=gone))) == 503
        assert await send(signed(envelope("_subscription_confirmation"))) == 200
        assert await send(signed(envelope("ses.email.bounced"), "1")) == 200
        assert await send(signed(envelope("ses.email.bounced"), "2")) == 200  # SNS repeats itself
        assert await send({**signed(envelope("ses.email.sent")), "Message": "{}"}) == 401
        assert fetched == [gone, CERT_URL]

        webhooks = await running.settled()
        assert [webhook["state"] for webhook in webhooks] == ["processed"] * 3
        assert visited == [envelope("_subscription_confirmation")["SubscribeURL"]]
        [event] = await running.feed_of(1)
        assert event["type"] == "ses.email.bounced"
        assert event["payload"]["recipients"] == ["ann@example.org"]
