"""C07, and the genuine requests that it is made of."""

import hashlib
import json
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from app.checks.fixtures import with_headers
from app.checks.genuine import (
    NOW,
    Sender,
    UnknownScheme,
    Way,
    changed_body,
    covers,
    headers_of,
    tolerance,
    ways,
)
from app.integrations.base import BaseIntegration
from app.integrations.bodies import JsonObject
from app.integrations.errors import KeyUnavailable, Refused
from app.integrations.requests import Headers, WebhookRequest
from app.integrations.specs import SecretSpec
from app.integrations.verification import (
    AllOf,
    AnyOf,
    Basic,
    Body,
    BodyDigest,
    Ecdsa,
    Ed25519,
    HeaderValue,
    Hmac,
    Method,
    SnsSignature,
    SortedForm,
    StandardWebhooks,
    StaticToken,
    Text,
    Timestamp,
    Url,
    Verification,
    base64_key,
)

from .conftest import Acme, findings, messages, skipped

URL = "https://hooks.example.com/webhooks/acme/token?a=1"
STRIPE = Hmac(
    header="Stripe-Signature",
    secret="secret",
    prefix="v1=",
    separator=",",
    signed=(HeaderValue("Stripe-Signature", prefix="t=", separator=","), Text("."), Body()),
    timestamp=Timestamp("Stripe-Signature", prefix="t=", separator=","),
)
SLACK = Hmac(
    header="X-Slack-Signature",
    secret="secret",
    prefix="v0=",
    signed=(Text("v0:"), HeaderValue("X-Slack-Request-Timestamp"), Text(":"), Body()),
    timestamp=Timestamp("X-Slack-Request-Timestamp"),
)
HUBSPOT = Hmac(
    header="X-HubSpot-Signature-v3",
    secret="secret",
    encoding="base64",
    signed=(Method(), Url(decoded=True), Body(), HeaderValue("X-HubSpot-Request-Timestamp")),
    timestamp=Timestamp("X-HubSpot-Request-Timestamp", unit=1000),
)
TWILIO_FORM = Hmac(
    header="X-Twilio-Signature",
    secret="secret",
    algorithm="sha1",
    encoding="base64",
    signed=(Url(), SortedForm()),
)
TWILIO = AnyOf(
    TWILIO_FORM,
    replace(TWILIO_FORM, signed=(Url(port="added"), SortedForm())),
    AllOf(replace(TWILIO_FORM, signed=(Url(),)), BodyDigest("bodySHA256")),
)

SCHEMES: dict[str, Verification] = {
    "token": StaticToken("X-Token", "secret", prefix="Bearer "),
    "basic": Basic("user", "password"),
    "hmac": Hmac(header="X-Signature", secret="secret", prefix="sha256="),
    "hmac with a key in base64": Hmac(
        header="Authorization", secret="secret", prefix="HMAC ", key=base64_key
    ),
    "stripe": STRIPE,
    "slack": SLACK,
    "hubspot": HUBSPOT,
    "twilio": TWILIO,
    "ed25519": Ed25519(
        header="X-Signature-Ed25519",
        secret="secret",
        signed=(HeaderValue("X-Signature-Timestamp"), Body()),
    ),
    "ecdsa": Ecdsa(
        header="X-Signature",
        secret="secret",
        signed=(HeaderValue("X-Time"), Body()),
        timestamp=Timestamp("X-Time"),
    ),
    "standard webhooks": StandardWebhooks(secret="secret"),
    "svix": StandardWebhooks(secret="secret", headers="svix-"),
    "sns": SnsSignature("secret"),
    "both": AllOf(StaticToken("X-Token", "user"), STRIPE),
    "either": AnyOf(StandardWebhooks(secret="secret"), StaticToken("X-Token", "user")),
}


def connector_with(verification: Verification | None) -> type[BaseIntegration]:
    class Connector(BaseIntegration):
        name = "Acme"
        key = "acme"
        secrets: ClassVar = [SecretSpec(name, name) for name in ("secret", "user", "password")]

    Connector.verification = verification
    return Connector


def asked(body: bytes = b'{"id": "1", "amount": 1200}', **headers: str) -> WebhookRequest:
    named = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return WebhookRequest("POST", URL, Headers(named), body, JsonObject())


ALL_WAYS = [
    pytest.param(verification, way, id=f"{name} {number}")
    for name, verification in SCHEMES.items()
    for number, way in enumerate(ways(verification))
]


@pytest.mark.parametrize(("verification", "way"), ALL_WAYS)
@pytest.mark.parametrize("body", [b'{"id": "1"}', b"a=1&b=%C3%BC&a=1", b"", "ü€\x00".encode()])
def test_what_a_sender_signs_is_genuine_and_nothing_else(
    verification: Verification, way: Way, body: bytes
) -> None:
    connector = connector_with(verification)
    sender, other = Sender.to(connector, verification), Sender.to(connector, verification, salt="two")
    genuine = sender.sign(asked(body), way)
    verification.verify(genuine, sender.live(), NOW)
    verification.verify(genuine, sender.live(newer=other), NOW)
    verification.verify(genuine, sender.live(older=other), NOW)
    with pytest.raises((Refused, KeyUnavailable)):
        verification.verify(genuine, other.live(), NOW)
    for header in headers_of(way):
        for value in (None, "", "é"):
            with pytest.raises(Refused):
                verification.verify(with_headers(genuine, {header: value}), sender.live(), NOW)
    if covers(way, Body):
        with pytest.raises(Refused):
            verification.verify(changed_body(genuine, way), sender.live(), NOW)
    if (seconds := tolerance(way)) is not None:
        with pytest.raises(Refused):
            verification.verify(genuine, sender.live(), NOW + seconds + 1)


def test_published_vectors_are_what_a_sender_signs() -> None:
    """The other side was written from the same documentation: this is what providers themselves say."""
    from tests.support.specification import ROOT

    vectors = {
        v["name"]: v for v in json.loads((ROOT / "tests/fixtures/signatures.json").read_text())["vectors"]
    }
    github = vectors["github"]
    check = Hmac(header=github["header"], secret="secret", prefix="sha256=")
    sender = Sender.to(connector_with(check), check, {"secret": github["secret"]})
    signed = sender.sign(asked(github["body"].encode()), (check,))
    assert signed.headers[github["header"]] == github["value"]

    hubspot = vectors["hubspot v3"]
    sender = Sender.to(connector_with(HUBSPOT), HUBSPOT, {"secret": hubspot["secret"]})
    request = replace(asked(hubspot["body"].encode()), url=hubspot["url"], method=hubspot["method"])
    signed = sender.sign(request, (HUBSPOT,), int(hubspot["timestamp"]) / 1000)
    assert signed.headers[hubspot["header"]] == hubspot["value"]

    twilio = vectors["twilio form"]
    sender = Sender.to(connector_with(TWILIO_FORM), TWILIO_FORM, {"secret": twilio["secret"]})
    body = "&".join(f"{name}={value.replace('+', '%2B')}" for name, value in twilio["params"].items())
    signed = sender.sign(replace(asked(body.encode()), url=twilio["url"]), (TWILIO_FORM,))
    assert signed.headers[twilio["header"]] == twilio["value"]


def test_the_headers_of_a_fixture_are_signed_as_they_are() -> None:
    check = StandardWebhooks(secret="secret")
    signed = Sender.to(connector_with(check), check).sign(asked(webhook_id="msg_7"), (check,))
    assert signed.headers["webhook-id"] == "msg_7"
    assert signed.headers["webhook-timestamp"] == str(int(NOW))


def test_a_fixtures_own_signature_is_replaced() -> None:
    signed = Sender.to(connector_with(STRIPE), STRIPE).sign(asked(stripe_signature="t=1,v1=00"), (STRIPE,))
    assert signed.headers["stripe-signature"].startswith(f"t={int(NOW)},v1=")
    assert signed.headers["stripe-signature"].count("v1=") == 1


def test_an_sns_fixture_keeps_its_content() -> None:
    check = SnsSignature("secret")
    body = json.dumps({"Type": "Notification", "Message": "{}", "MessageId": "7", "Subject": "s"}).encode()
    signed = Sender.to(connector_with(check), check).sign(asked(body), (check,))
    message = json.loads(signed.body)
    assert (message["Message"], message["MessageId"], message["Subject"]) == ("{}", "7", "s")


def test_a_digest_names_the_body_beside_what_the_url_holds() -> None:
    signed = Sender.to(connector_with(TWILIO), TWILIO).sign(asked(b"{}"), ways(TWILIO)[2])
    assert signed.url == f"{URL}&bodySHA256={hashlib.sha256(b'{}').hexdigest()}"


def test_an_unknown_scheme_is_said() -> None:
    class Rot13:
        secret_names = credential_headers = frozenset[str]()

        def verify(self, *_: Any) -> None: ...

    with pytest.raises(UnknownScheme, match="Rot13"):
        Sender.to(connector_with(Rot13()), Rot13()).sign(asked(), (Rot13(),))


def test_two_senders_share_nothing() -> None:
    for verification in SCHEMES.values():
        connector = connector_with(verification)
        one = Sender.to(connector, verification).secrets
        two = Sender.to(connector, verification, salt="two").secrets
        assert not set(one.values()) & set(two.values())


# The check.


def test_a_plain_connector_passes(acme: Acme) -> None:
    assert messages("C07", acme()) == []


def test_a_connector_without_verification_is_left_alone(acme: Acme) -> None:
    subject = acme(
        ("connector.py", "verification = Hmac(", "unused = Hmac("),
        ("connector.py", "def __init__(self, api_key", "def __init__(self, signing_secret, api_key"),
    )
    assert skipped("C07", subject) == "it declares no verification"


SUBCLASS = """
class Own(Hmac):
    def verify(self, request, secrets, now):
{body}


class AcmeConnector"""


@pytest.mark.parametrize(
    ("body", "problems"),
    [
        (
            "        pass",
            {
                "is accepted with another body",
                "is accepted with the header Acme-Signature missing",
                "is accepted with the header Acme-Signature empty",
                "is accepted with the header Acme-Signature beyond ASCII",
                "is accepted with another secret",
                "is accepted with an old time",
                "is accepted with a time to come",
                "is accepted with no value for the secret signing_secret",
            },
        ),
        (
            "        super().verify(request, {name: v[:1] for name, v in secrets.items()}, now)",
            {"is not accepted with the older of two live secrets"},
        ),
        (
            "        super().verify(request, secrets, float(request.headers.get('acme-time') or 0))",
            {"is accepted with an old time", "is accepted with a time to come"},
        ),
        (
            "        request.headers.get('acme-signature', '').encode('ascii')\n"
            "        super().verify(request, secrets, now)",
            {
                "raises UnicodeEncodeError with the header Acme-Signature beyond ASCII",
                "raises UnicodeEncodeError with the header Acme-Signature not text",
            },
        ),
        (
            "        from app.integrations.errors import Refused\n        raise Refused('no', 'Never.')",
            {"is not accepted with a genuine request (Never.)."},
        ),
    ],
)
def test_a_verification_that_is_wrong_breaks_the_contract(acme: Acme, body: str, problems: set[str]) -> None:
    subject = acme(
        ("connector.py", "\nclass AcmeConnector", SUBCLASS.format(body=body)),
        ("connector.py", "verification = Hmac(", "verification = Own("),
    )
    found = findings("C07", subject)
    said = [finding.message.partition("by way of Own, ")[2] for finding in found]
    for problem in problems:
        assert any(one.startswith(problem) for one in said), (problem, said)
    assert all(finding.level is None for finding in found)


def test_a_verification_that_nobody_can_sign_for_only_warns(acme: Acme) -> None:
    own = (
        "class Rot13:\n"
        "    secret_names = frozenset({'signing_secret'})\n    credential_headers = frozenset()\n"
        "    def verify(self, request, secrets, now): pass\n\n\nclass AcmeConnector"
    )
    subject = acme(
        ("connector.py", "class AcmeConnector", own),
        ("connector.py", "verification = Hmac(", "verification = Rot13()\n    unused = Hmac("),
    )
    [finding] = findings("C07", subject)
    assert finding.message == "its verification is a Rot13, for which no genuine request can be made here."
    assert finding.level == "quality"


def test_every_verification_that_settings_choose_is_judged(acme: Acme) -> None:
    chosen = (
        "from app.integrations.verification import BySettings, StaticToken\n\n\n"
        "class Open(StaticToken):\n    def verify(self, request, secrets, now): pass\n\n\n"
        "def choose(settings):\n"
        "    return {'signed': Hmac('X-Signature', 'signing_secret'), 'none': None,\n"
        "            'open': Open('X-Token', 'signing_secret')}[settings.scheme]\n\n\nclass AcmeConnector"
    )
    field = (
        'scheme: Literal["signed", "open", "none"] = Field(default="signed", description="How")\n    base_url'
    )
    subject = acme(
        ("connector.py", "class AcmeConnector", chosen),
        (
            "connector.py",
            "verification = Hmac(",
            "verification = BySettings(choose, secrets=('signing_secret',))\n    unused = Hmac(",
        ),
        ("schemas.py", "base_url", field),
        ("schemas.py", "from pydantic", "from typing import Literal\n\nfrom pydantic"),
    )
    assert {finding.about for finding in findings("C07", subject)} == {"Open"}
    assert messages("C06", subject) == messages("C08", subject) == []


def test_handshakes_are_asked_too(acme: Acme) -> None:
    """A token that is not compared lets strangers take the URL as theirs."""
    own = (
        "from app.integrations.handshakes import GetChallenge\n\n\n"
        "class Own(GetChallenge):\n"
        "    def answer(self, request, secrets):\n"
        "        from app.integrations.requests import Reply\n"
        "        return Reply(b'other')\n\n\nclass AcmeConnector"
    )
    handshake = "handshake = Own(secret='signing_secret')\n    verification = Hmac("
    subject = acme(
        ("connector.py", "class AcmeConnector", own),
        ("connector.py", "verification = Hmac(", handshake),
    )
    found = [finding.message for finding in findings("C07", subject)]
    assert set(found) == {
        "its handshake is not answered with the challenge.",
        "its handshake is answered with a wrong token.",
    }
    sound = handshake.replace("Own(", "GetChallenge(")
    second = acme(
        ("connector.py", "class AcmeConnector", own),
        ("connector.py", "verification = Hmac(", sound),
        ("connector.py", 'key = "acme"', 'key = "acme_two"'),
        folder="acme_two",
    )
    assert messages("C07", second) == []
