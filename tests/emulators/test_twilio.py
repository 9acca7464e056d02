import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit
from xml.etree.ElementTree import canonicalize

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twilio.base.exceptions import TwilioRestException
from twilio.http.http_client import TwilioHttpClient
from twilio.request_validator import RequestValidator
from twilio.rest import Client
from twilio.twiml.messaging_response import MessagingResponse

from app.integrations.connectors.twilio.connector import TwilioConnector
from app.integrations.requests import Headers, WebhookRequest

from .emulate import emulated, free_port
from .platform import Connection, eventually

EMULATOR = "Twilio (emulate, twilio)"
ACCOUNT, TOKEN = "AC" + "0" * 32, "twilio_emulated_auth_token"
API_KEY, API_SECRET = "SK" + "0" * 32, "twilio_emulated_api_secret"
OURS, NUMBER, THEIRS = "+15551234567", "PN" + "1" * 32, "+15557654321"
FORM = "application/x-www-form-urlencoded"

Connect = Callable[..., Connection]
Remark = Callable[[str], None]


class Redirected(TwilioHttpClient):
    """Twilio's own client, sent to the emulator: it cannot be given another address."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.session.trust_env = False

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        assert url.startswith("https://api.twilio.com/")
        return super().request(method, url.replace("https://api.twilio.com", self._url, 1), *args, **kwargs)


@dataclass
class Emulated:
    """The emulator as each side sees it."""

    url: str
    connection: Connection
    sdk: Client

    def simulate(self, what: str, **fields: str) -> dict[str, Any]:
        """Makes something happen that Twilio's API has no call for."""
        answer = httpx2.post(
            f"{self.url}/_twilio/simulate/{what}", data=fields, auth=(ACCOUNT, TOKEN), trust_env=False
        )
        assert answer.is_success, answer.text
        said: dict[str, Any] = answer.json()
        return said


@pytest.fixture(scope="module")
def account(connect: Connect, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    seed = {
        "twilio": {
            "account": {"sid": ACCOUNT, "auth_token": TOKEN, "friendly_name": "Emulated"},
            "api_keys": [{"sid": API_KEY, "secret": API_SECRET}],
            "phone_numbers": [{"sid": NUMBER, "phone_number": OURS}],
        }
    }
    with emulated("twilio", free_port(), tmp_path_factory.mktemp("twilio"), seed) as url:
        connection = connect(
            "twilio",
            secrets={"auth_token": TOKEN},
            settings={
                "base_url": url,
                "account_sid": ACCOUNT,
                "phone_number_sid": number_of(url),
                "reply": "Thanks & bye",
            },
        )
        connection.wait_until_registered()
        yield Emulated(url, connection, Client(ACCOUNT, TOKEN, http_client=Redirected(url)))


def number_of(url: str) -> str:
    """The number's SID: the emulator keeps its own if it has the number already."""
    [number] = Client(ACCOUNT, TOKEN, http_client=Redirected(url)).incoming_phone_numbers.list()
    assert number.sid
    return number.sid


# Actions, and what Twilio's own library then finds.


def test_send_message_sends_it(account: Emulated) -> None:
    sent = account.connection.act("send_message", To=THEIRS, From=OURS, Body="Grüße & more")
    message = account.sdk.messages(sent["sid"]).fetch()
    assert (message.to, message.from_, message.body) == (THEIRS, OURS, "Grüße & more")
    assert (message.status, message.direction) == (sent["status"], "outbound-api")


def test_send_message_sends_media(account: Emulated) -> None:
    media = ["https://example.com/1.png", "https://example.com/2.png"]
    sent = account.connection.act("send_message", To=THEIRS, From=OURS, MediaUrl=media)
    assert account.sdk.messages(sent["sid"]).fetch().num_media == "2"
    assert len(account.sdk.messages(sent["sid"]).media.list()) == 2


def test_fetch_message_finds_what_twilios_library_sent(account: Emulated) -> None:
    sent = account.sdk.messages.create(to=THEIRS, from_=OURS, body="hello")
    fetched = account.connection.act("fetch_message", Sid=sent.sid)
    assert (fetched["body"], fetched["from"], fetched["status"]) == ("hello", OURS, "queued")


def test_cancel_message_cancels_a_scheduled_one(account: Emulated) -> None:
    scheduled = account.connection.act(
        "send_message",
        To=THEIRS,
        From=OURS,
        Body="later",
        ScheduleType="fixed",
        SendAt="2036-01-01T00:00:00Z",
    )
    assert scheduled["status"] == "scheduled"
    assert account.connection.act("cancel_message", Sid=scheduled["sid"])["status"] == "canceled"
    assert account.sdk.messages(scheduled["sid"]).fetch().status == "canceled"


def test_redact_message_empties_the_text(account: Emulated) -> None:
    sent = account.sdk.messages.create(to=THEIRS, from_=OURS, body="a secret")
    account.connection.act("redact_message", Sid=sent.sid)
    assert account.sdk.messages(sent.sid).fetch().body == ""


def test_delete_message_deletes_it_and_says_so_if_it_was_gone(account: Emulated) -> None:
    sent = account.sdk.messages.create(to=THEIRS, from_=OURS, body="gone")
    assert account.connection.act("delete_message", Sid=sent.sid) == {"deleted": True}
    with pytest.raises(TwilioRestException, match="404"):
        account.sdk.messages(sent.sid).fetch()
    assert account.connection.act("delete_message", Sid=sent.sid) == {"deleted": False}


def test_a_number_that_is_not_ours_is_refused_for_good(account: Emulated) -> None:
    job = account.connection.job("send_message", To=THEIRS, From="+15550000000", Body="hello")
    assert (job["state"], job["error"]["code"]) == ("failed", "rejected")
    with pytest.raises(TwilioRestException) as refused:
        account.sdk.messages.create(to=THEIRS, from_="+15550000000", body="hello")
    assert f"(error {refused.value.code})" in job["error"]["message"]


def test_the_check_tells_good_credentials_from_bad_ones(account: Emulated, connect: Connect) -> None:
    assert account.connection.check()["ok"] is True
    settings = {"base_url": account.url, "account_sid": ACCOUNT}
    wrong = connect("twilio", secrets={"auth_token": "wrong"}, settings=settings)
    assert wrong.check()["code"] == "authentication_failed"
    key = {"auth_token": TOKEN, "api_key_secret": API_SECRET}
    keyed = connect("twilio", secrets=key, settings=settings | {"api_key_sid": API_KEY})
    assert keyed.check()["ok"] is True
    assert keyed.act("send_message", To=THEIRS, From=OURS, Body="by key")["sid"]


# Webhooks that the emulator sends and signs.


def test_the_numbers_url_is_ours(account: Emulated) -> None:
    [number] = account.sdk.incoming_phone_numbers.list()
    assert (number.sms_url, number.sms_method) == (account.connection.webhook_url, "POST")


def test_a_message_that_comes_in_becomes_an_event(account: Emulated) -> None:
    arrived = account.simulate("inbound-message", To=OURS, From=THEIRS, Body="Hällo + 1 & 2")
    [event] = account.connection.events("twilio.message.received")
    assert event["external_id"] == arrived["sid"]
    assert (event["payload"]["from"], event["payload"]["body"]) == (THEIRS, "Hällo + 1 & 2")


def test_the_fate_of_a_message_becomes_events(account: Emulated) -> None:
    sent = account.connection.act(
        "send_message", To=THEIRS, From=OURS, Body="how far?", StatusCallback=account.connection.webhook_url
    )
    for status in ("sent", "delivered"):
        account.simulate("message-status", MessageSid=sent["sid"], Status=status)

    def fates() -> list[str]:
        events = account.connection.events("twilio.message_status.updated", 0)
        return [e["payload"]["status"] for e in events if e["payload"]["message_sid"] == sent["sid"]]

    assert eventually(fates, lambda found: len(found) == 3) == ["queued", "sent", "delivered"]


def test_twilios_validator_accepts_each_request_that_the_emulator_sent(account: Emulated) -> None:
    sent = account.connection.webhooks()
    assert len(sent) >= 4
    assert {w["state"] for w in sent} == {"processed"}
    for webhook in sent:
        fields = dict(parse_qsl(webhook["body"], keep_blank_values=True))
        signature = dict(webhook["headers"])["x-twilio-signature"]
        assert RequestValidator(TOKEN).validate(account.connection.webhook_url, fields, signature)


def test_what_the_emulator_signs_with_another_token_is_refused(account: Emulated) -> None:
    account.connection.rotate(auth_token="another")
    try:
        account.simulate("inbound-message", To=OURS, From=THEIRS, Body="never seen")
        assert account.connection.refusals()[0] == "signature_differs"
    finally:
        account.connection.rotate(auth_token=TOKEN)


# Twilio's own signing, validating and TwiML, against ours.

FIELDS = {"MessageSid": "SM" + "a" * 32, "SmsStatus": "received", "AccountSid": ACCOUNT, "From": THEIRS}
FIELDS |= {"To": OURS, "Body": "Ä b+c&d=e", "NumMedia": "0", "Empty": ""}
CALL = json.dumps({"CallSid": "CA1", "Words": "Ä"}, ensure_ascii=False).encode()


def test_the_answer_is_the_twiml_that_twilios_library_writes(account: Emulated) -> None:
    reply = MessagingResponse()
    reply.message("Thanks & bye")
    signature = RequestValidator(TOKEN).compute_signature(account.connection.webhook_url, FIELDS)
    headers = {"X-Twilio-Signature": signature, "Content-Type": FORM}
    answer = account.connection.answer(urlencode(FIELDS).encode(), headers)
    assert answer.headers["content-type"].startswith("text/xml")
    assert canonicalize(answer.text) == canonicalize(str(reply))


def test_a_field_that_comes_twice_is_signed_the_same_by_both(account: Emulated) -> None:
    fields = Form({name: [value] for name, value in FIELDS.items()} | {"Body": ["b", "a", "b"]})
    signature = RequestValidator(TOKEN).compute_signature(account.connection.webhook_url, fields)
    headers = {"X-Twilio-Signature": signature, "Content-Type": FORM}
    assert RequestValidator(TOKEN).validate(account.connection.webhook_url, fields, signature)
    assert account.connection.deliver(fields.body(), headers) == 200


class Form(dict[str, list[str]]):
    """A form as web frameworks give it to the validator: each field has values."""

    def getlist(self, name: str) -> list[str]:
        return self[name]

    def body(self) -> bytes:
        return urlencode(self, doseq=True).encode()


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
URLS = ["https://p.example/w/t", "https://p.example:8443/w/t?a=%20b&c", "https://p.example:443/w/t?x=y"]


@settings(max_examples=500, deadline=None)
@given(st.dictionaries(TEXTS.filter(bool), st.lists(TEXTS, min_size=1, max_size=3)), st.sampled_from(URLS))
def test_any_form_that_twilios_library_signs_is_genuine_to_us(fields: dict[str, list[str]], url: str) -> None:
    form = Form(fields)
    signature = RequestValidator(TOKEN).compute_signature(url, form)
    headers = Headers([("X-Twilio-Signature", signature), ("Content-Type", FORM)])
    request = WebhookRequest("POST", url, headers, form.body(), TwilioConnector.body)
    TwilioConnector.verification.verify(request, {"auth_token": [TOKEN]}, 0.0)


@dataclass
class Sent:
    """A request, and what it was signed over."""

    fields: dict[str, str] | None
    signed_url: str
    query: str = ""
    body: bytes = b""
    token: str = TOKEN
    sent_fields: dict[str, str] | None = None


def requests_to(url: str) -> dict[str, Sent]:
    """Requests by name, the last word of which is whether they are genuine."""
    parts = urlsplit(url)
    assert parts.port
    portless = parts._replace(netloc=parts.hostname or "").geturl()
    digest = f"?bodySHA256={sha256(CALL).hexdigest()}"
    wrong_digest = f"?bodySHA256={sha256(b'other').hexdigest()}"
    return {
        "as it is: good": Sent(FIELDS, url),
        "URL without its port: good": Sent(FIELDS, portless),
        "with a query: good": Sent(FIELDS, f"{url}?a=1&b=%20", query="?a=1&b=%20"),
        "JSON with the body's hash: good": Sent(None, url + digest, query=digest, body=CALL),
        "other port: bad": Sent(FIELDS, parts._replace(netloc=f"{parts.hostname}:1").geturl()),
        "other path: bad": Sent(FIELDS, url + "x"),
        "other query: bad": Sent(FIELDS, f"{url}?a=1", query="?a=2"),
        "changed field: bad": Sent(FIELDS, url, sent_fields=FIELDS | {"Body": "changed"}),
        "more fields: bad": Sent(FIELDS, url, sent_fields=FIELDS | {"More": "x"}),
        "other token: bad": Sent(FIELDS, url, token="another"),
        "JSON with another hash: bad": Sent(None, url + wrong_digest, query=wrong_digest, body=CALL),
    }


@pytest.mark.parametrize("request_of", requests_to("http://127.0.0.1:1/"))
def test_twilios_validator_and_ours_agree(account: Emulated, request_of: str) -> None:
    url = account.connection.webhook_url
    sent = requests_to(url)[request_of]
    signature = RequestValidator(sent.token).compute_signature(sent.signed_url, sent.fields or {})
    if sent.fields is None:
        body, kind, params = sent.body, "application/json", sent.body.decode()
    else:
        params = sent.sent_fields or sent.fields
        body, kind = urlencode(params).encode(), FORM
    accepted = RequestValidator(TOKEN).validate(url + sent.query, params, signature)
    headers = {"X-Twilio-Signature": signature, "Content-Type": kind}
    assert account.connection.deliver(body, headers, sent.query) == (200 if accepted else 401)
    assert accepted == request_of.endswith("good")


def test_both_refuse_a_request_without_a_signature(account: Emulated) -> None:
    body = urlencode(FIELDS).encode()
    url = account.connection.webhook_url
    assert not RequestValidator(TOKEN).validate(url, FIELDS, "")
    assert account.connection.deliver(body, {"Content-Type": FORM}) == 401
    assert account.connection.deliver(body, {"Content-Type": FORM, "X-Twilio-Signature": ""}) == 401


def test_a_shared_keys_signature_is_accepted_by_twilios_validator_and_refused_by_ours(
    account: Emulated, remark: Remark
) -> None:
    url, key = account.connection.webhook_url, RequestValidator("shared key")
    signature = key.compute_signature(url, FIELDS, "HMAC_SHA256")
    assert key.validate(url, FIELDS, signature, "HMAC_SHA256")
    headers = {"X-Twilio-Signature": signature, "Content-Type": FORM}
    headers["X-Twilio-Webhooks-Signature-Settings"] = "key=webhooks_sharedkey_1,algorithm=HMAC_SHA256"
    assert account.connection.deliver(urlencode(FIELDS).encode(), headers) == 401
    remark("shared keys are in public beta, and ours does not know them")
