import hashlib
import hmac
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httpx2
import pytest

from app.integrations.connectors.stripe.client import form
from app.integrations.connectors.stripe.connector import StripeConnector
from app.integrations.connectors.stripe.schemas import StripeSettings
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
from app.integrations.http import AttemptTrace, ConnectorHttp, current_attempt
from app.integrations.models import Action
from app.integrations.registry import check_declarations
from app.integrations.requests import Headers, WebhookRequest
from tests.support.platform import running_platform
from tests.support.wire import Exchange, wire_server

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = sorted(path.stem for path in FIXTURES.glob("*.json"))
API_KEY = "sk_test_plantedApiKeyValue"
SECRET = "whsec_test_secret"
NOW = 1781170005
CUSTOMER = {"id": "cus_1", "object": "customer", "email": "ann@example.com", "balance": 0}


def connector(respond: Any = None, **settings: Any) -> StripeConnector:
    transport = httpx2.MockTransport(respond) if respond else None
    return StripeConnector(API_KEY, StripeSettings(**settings), ConnectorHttp(transport=transport))


def fixture(name: str) -> dict[str, Any]:
    return json.loads((FIXTURES / f"{name}.json").read_text())


async def payload_of(name: str) -> dict[str, Any]:
    return (await connector().handle_webhook(fixture(name))).payload


# Events.


def test_the_declarations_are_sound():
    check_declarations(StripeConnector)
    assert {name.partition("__")[0] for name in NAMES} == {spec.name for spec in StripeConnector.events}


@pytest.mark.parametrize("name", NAMES)
async def test_each_fixture_becomes_the_event_it_is_named_after(name):
    sent = fixture(name)
    event = await connector().handle_webhook(sent)
    assert event.type == name.partition("__")[0]
    assert event.external_id == sent["id"]
    assert event.payload["raw"] == sent
    spec = StripeConnector.event_spec(event.type)
    assert spec.unique_id
    spec.model.model_validate(event.payload)
    json.dumps(event.payload)


async def test_a_payment_is_laid_out_flat_beside_the_original():
    payload = await payload_of("stripe.payment_intent.succeeded")
    assert {name: payload[name] for name in payload if name not in ("raw", "event_id")} == {
        "type": "payment_intent.succeeded",
        "created": 1781170000,
        "livemode": False,
        "api_version": "2026-09-30.clover",
        "account": None,
        "object_id": "pi_3MtwBwLkdIwHu7ix28a3tqPa",
        "object_type": "payment_intent",
        "previous_attributes": None,
        "amount": 2000,
        "amount_received": 2000,
        "currency": "usd",
        "status": "succeeded",
        "customer": "cus_NffrFeUfNV2Hib",
        "latest_charge": "ch_3MtwBwLkdIwHu7ix2SNMyBJu",
        "receipt_email": "ann@example.com",
        "description": "Order 6735",
        "metadata": {"order_id": "6735"},
        "error_code": None,
        "error_message": None,
    }


async def test_a_failed_payment_says_why():
    payload = await payload_of("stripe.payment_intent.payment_failed")
    assert payload["error_code"] == "insufficient_funds"
    assert payload["error_message"] == "Your card has insufficient funds."


async def test_a_guests_address_is_found():
    assert (await payload_of("stripe.checkout_session.completed"))["customer_email"] == "ann@example.com"


@pytest.mark.parametrize("name", ["stripe.invoice.paid", "stripe.invoice.paid__before_2025"])
async def test_an_invoice_names_its_subscription_in_every_api_version(name):
    payload = await payload_of(name)
    assert payload["subscription"] == "sub_1MowQVLkdIwHu7ixeRlqHVzs"
    assert payload["amount_paid"] == 1500


async def test_a_subscription_names_its_prices_and_until_when_it_is_paid():
    payload = await payload_of("stripe.customer_subscription.updated")
    assert payload["prices"] == ["price_1MowQULkdIwHu7ixraBm864M"]
    assert payload["current_period_end"] == 1783592000
    assert payload["previous_attributes"] == {"cancel_at_period_end": False, "canceled_at": None}


async def test_an_expanded_object_is_its_id():
    sent = fixture("stripe.charge.refunded")
    sent["data"]["object"]["customer"] = {"id": "cus_9", "object": "customer"}
    assert (await connector().handle_webhook(sent)).payload["customer"] == "cus_9"


async def test_a_thin_event_points_at_its_object():
    payload = await payload_of("stripe.event.received__thin")
    assert payload["object_type"] == "billing.meter"
    assert payload["object_id"].startswith("mtr_")
    assert payload["account"] == "acct_1032D82eZvKYlo2C"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"id": None}, "invalid_event"),
        ({"id": "evt_" + "x" * 600}, "invalid_event"),
        ({"id": "evt_\x00"}, "invalid_event"),
        ({"type": 5}, "invalid_event"),
        ({"created": None}, "invalid_event"),
        ({"data": []}, "invalid_event"),
        ({"data": {"object": "planted value"}}, "invalid_event"),
        ({"data": {}}, "invalid_object"),
        ({"data": {"object": {"id": "pi_1"}}}, "invalid_object"),
        (
            {"data": {"object": {"id": "pi_1", "object": "payment_intent", "amount": "planted value"}}},
            "invalid_object",
        ),
    ],
)
async def test_a_malformed_event_is_a_named_error_without_its_values(change, code):
    with pytest.raises(InvalidBody) as caught:
        await connector().handle_webhook({**fixture("stripe.payment_intent.succeeded"), **change})
    assert caught.value.code == code
    assert "planted value" not in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__


# Verification: the body and secret are those of stripe-python's tests/test_webhook.py.

BODY = b"""{
  "id": "evt_test_webhook",
  "object": "event",
  "data": { "object": { "id": "rdr_123", "object": "terminal.reader" } }
}"""


def signature(body: bytes = BODY, at: int = NOW, secret: str = SECRET) -> str:
    return hmac.new(secret.encode(), b"%d.%s" % (at, body), hashlib.sha256).hexdigest()


def request(header: str | None, body: bytes = BODY) -> WebhookRequest:
    headers = Headers([("stripe-signature", header)] if header is not None else [])
    return WebhookRequest("POST", "https://p.example/webhooks/stripe/t", headers, body, StripeConnector.body)


def verify(asked: WebhookRequest, secrets: tuple[str, ...] = (SECRET,), now: float = NOW) -> None:
    StripeConnector.verification.verify(asked, {"signing_secret": secrets}, now)


GOOD = f"t={NOW},v1={signature()}"


@pytest.mark.parametrize(
    "header",
    [
        GOOD,
        f"{GOOD},v0={'0' * 64}",
        f"v1={signature()},t={NOW}",
        f"t={NOW},v1={signature(secret='whsec_older')},v1={signature()}",
        f"{GOOD},v1=bad_signature",
    ],
)
def test_a_genuine_request_is_accepted(header):
    verify(request(header))


def test_two_live_secrets_work_during_a_rotation():
    verify(request(GOOD), ("whsec_newer", SECRET))


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "header_missing"),
        ("", "header_missing"),
        ("i'm not even a real signature header", "signature_malformed"),
        (f"t={NOW},v0={signature()}", "signature_malformed"),
        (f"t={NOW},v1=bad_signature", "signature_malformed"),
        (f"t={NOW},v1={'ü' * 64}", "signature_malformed"),
        (f"t={NOW},v1={'0' * 64}", "signature_differs"),
        (f"v1={signature()}", "signature_malformed"),
        (f"t={NOW}0,v1={signature()}", "timestamp_old"),
        (f"t=soon,v1={signature()}", "timestamp_unreadable"),
        (f"t={NOW + 1},v1={signature()}", "signature_differs"),
        (f"t={NOW},v1={signature(secret='whsec_other')}", "signature_differs"),
    ],
)
def test_anything_else_is_refused(header, code):
    with pytest.raises(Refused) as caught:
        verify(request(header))
    assert caught.value.code == code


def test_a_changed_body_and_an_old_time_are_refused():
    with pytest.raises(Refused, match="not made from this request"):
        verify(replace(request(GOOD), body=BODY + b" "))
    for now in (NOW + 301, NOW - 301):
        with pytest.raises(Refused) as caught:
            verify(request(GOOD), now=now)
        assert caught.value.code == "timestamp_old"


def test_without_a_signing_secret_stripe_is_asked_to_come_again():
    with pytest.raises(KeyUnavailable) as caught:
        verify(request(GOOD), ())
    assert caught.value.code == "secret_missing"


# Actions.


@pytest.mark.parametrize(
    ("params", "written"),
    [
        ({"email": "a@b.c", "amount": 5}, {"email": "a@b.c", "amount": "5"}),
        ({"metadata": {"a": "1", "b": ""}}, {"metadata[a]": "1", "metadata[b]": ""}),
        ({"address": {"city": "Köln"}}, {"address[city]": "Köln"}),
        ({"on": True, "off": False}, {"on": "true", "off": "false"}),
        (
            {"line_items": [{"price": "p", "quantity": 2}, {"price": "q"}]},
            {"line_items[0][price]": "p", "line_items[0][quantity]": "2", "line_items[1][price]": "q"},
        ),
        ({"preferred_locales": ["de", "en"]}, {"preferred_locales[0]": "de", "preferred_locales[1]": "en"}),
        ({"metadata": {}, "list": []}, {}),
    ],
)
def test_nested_parameters_are_written_as_stripe_reads_them(params, written):
    assert form(params) == written


class Recorder:
    """Answers with `answer` and keeps the requests."""

    def __init__(self, answer: Any = CUSTOMER, status: int = 200, **headers: str) -> None:
        self.answer, self.status = answer, status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.requests: list[httpx2.Request] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        if isinstance(self.answer, bytes):
            return httpx2.Response(self.status, content=self.answer, headers=self.headers)
        return httpx2.Response(self.status, json=self.answer, headers=self.headers)

    @property
    def last(self) -> httpx2.Request:
        return self.requests[-1]

    @property
    def form(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(self.last.content.decode()).items()}


async def run(connector: StripeConnector, type_: str, **payload: Any) -> dict[str, Any]:
    result = await connector.execute(Action(type=type_, payload=payload))
    json.dumps(result)
    StripeConnector.action_spec(type_).result.model_validate(result)
    return result


ACTIONS = [
    (
        "create_refund",
        {"payment_intent": "pi_1", "amount": 500, "reason": "duplicate", "metadata": {"by": "ann"}},
        {"id": "re_1", "object": "refund", "amount": 500, "status": "succeeded"},
        ("POST", "/v1/refunds"),
        {"payment_intent": "pi_1", "amount": "500", "reason": "duplicate", "metadata[by]": "ann"},
    ),
    (
        "create_customer",
        {"email": "ann@example.com", "address": {"city": "Köln"}},
        CUSTOMER,
        ("POST", "/v1/customers"),
        {"email": "ann@example.com", "address[city]": "Köln"},
    ),
    (
        "update_customer",
        {"customer": "cus_1/../x", "name": "Ann"},
        CUSTOMER,
        ("POST", "/v1/customers/cus_1%2F..%2Fx"),
        {"name": "Ann"},
    ),
    ("retrieve_customer", {"customer": "cus_1"}, CUSTOMER, ("GET", "/v1/customers/cus_1"), {}),
    (
        "create_payment_link",
        {"line_items": [{"price": "price_1"}], "allow_promotion_codes": True},
        {"id": "plink_1", "object": "payment_link", "url": "https://buy.stripe.com/x", "active": True},
        ("POST", "/v1/payment_links"),
        {
            "line_items[0][price]": "price_1",
            "line_items[0][quantity]": "1",
            "allow_promotion_codes": "true",
        },
    ),
]


def test_every_action_is_tried():
    assert [case[0] for case in ACTIONS] == [spec.name for spec in StripeConnector.actions]


@pytest.mark.parametrize(("type_", "payload", "answer", "called", "sent"), ACTIONS, ids=lambda v: str(v)[:20])
async def test_an_action_calls_the_api(type_, payload, answer, called, sent):
    stripe = Recorder(answer)
    result = await run(connector(stripe), type_, **payload)
    assert {name: result[name] for name in answer} == answer
    assert (stripe.last.method, stripe.last.url.raw_path.decode()) == called
    assert stripe.form == sent
    assert stripe.last.headers["authorization"] == f"Bearer {API_KEY}"
    assert "idempotency-key" not in stripe.last.headers


async def test_every_attempt_of_an_action_has_its_key_and_a_question_has_none():
    stripe = Recorder()
    token = current_attempt.set(AttemptTrace(key="act_01"))
    try:
        for _ in range(2):
            await run(connector(stripe), "create_customer", name="Ann")
        await run(connector(stripe), "retrieve_customer", customer="cus_1")
    finally:
        current_attempt.reset(token)
    keys = [request.headers.get("idempotency-key") for request in stripe.requests]
    assert keys == ["act_01", "act_01", None]


async def test_version_and_connected_account_are_named_if_set():
    stripe = Recorder()
    chosen = connector(stripe, api_version="2026-09-30.clover", stripe_account="acct_1")
    await run(chosen, "retrieve_customer", customer="cus_1")
    assert stripe.last.headers["stripe-version"] == "2026-09-30.clover"
    assert stripe.last.headers["stripe-account"] == "acct_1"


@pytest.mark.parametrize(
    ("type_", "payload", "field"),
    [
        ("create_refund", {}, "payment_intent or charge"),
        ("create_refund", {"payment_intent": "pi_1", "charge": "ch_1"}, "payment_intent or charge"),
        ("create_refund", {"charge": "ch_1", "amount": 0}, "amount"),
        ("create_customer", {"mail": "x"}, "mail"),
        ("create_customer", {"metadata": {"a": {"b": 1}}}, "metadata.a"),
        ("update_customer", {"name": "Ann"}, "customer"),
        ("create_payment_link", {"line_items": []}, "line_items"),
    ],
)
async def test_a_payload_that_cannot_be_meant_names_its_field(type_, payload, field):
    with pytest.raises(InvalidActionPayload, match=field):
        await connector(Recorder()).execute(Action(type=type_, payload=payload))


def problem(**facts: Any) -> dict[str, Any]:
    return {"error": {"type": "invalid_request_error", "message": "Said by Stripe.", **facts}}


@pytest.mark.parametrize(
    ("status", "answer", "headers", "error", "words"),
    [
        (400, problem(param="amount", code="amount_too_large"), {}, Rejected, "amount_too_large"),
        (401, problem(), {}, AuthenticationFailed, "dashboard"),
        (402, problem(type="card_error", decline_code="insufficient_funds"), {}, Rejected, "insufficient"),
        (403, problem(), {}, AuthenticationFailed, "permission"),
        (404, problem(code="resource_missing"), {}, Rejected, "resource_missing"),
        (409, problem(code="idempotency_key_in_use"), {}, Unavailable, "in_use"),
        (409, problem(), {"stripe_should_retry": "false"}, Rejected, "Said"),
        (400, problem(type="idempotency_error"), {}, Rejected, "idempotency_error"),
        (424, problem(), {}, Rejected, "Said"),
        (424, problem(), {"stripe_should_retry": "true"}, RateLimited, "Said"),
        (429, problem(code="rate_limit"), {"retry_after": "7"}, RateLimited, "rate_limit"),
        (429, problem(code="lock_timeout"), {}, RateLimited, "lock_timeout"),
        (429, problem(), {"stripe_should_retry": "false"}, Rejected, "Said"),
        (500, problem(type="api_error"), {}, Unavailable, "Said"),
        (500, problem(type="api_error"), {"stripe_should_retry": "false"}, Unavailable, "Said"),
        (503, b"<html>no</html>", {}, Unavailable, "503"),
        (401, b"<html>a proxy</html>", {}, AuthenticationFailed, "401"),
        (200, b"<html>a portal</html>", {}, Unavailable, "base_url"),
        (200, {"no": "object"}, {}, Unavailable, "base_url"),
        (307, b"", {"location": "https://elsewhere.example"}, Rejected, "307"),
    ],
)
async def test_an_error_answer_is_explained(status, answer, headers, error, words):
    stripe = Recorder(answer, status, **headers)
    with pytest.raises(error) as caught:
        await run(connector(stripe), "create_customer", name="Ann")
    assert type(caught.value) is error
    assert words in str(caught.value)
    assert caught.value.status == status
    assert caught.value.retry_after == (7 if "retry_after" in headers else None)


async def test_an_outage_is_not_a_bad_key_and_no_error_shows_the_key():
    for fault, error in [
        (httpx2.ConnectError("no"), NotSent),
        (httpx2.ReadTimeout("slow"), Unavailable),
        (httpx2.RemoteProtocolError("cut"), Unavailable),
    ]:

        def respond(request: httpx2.Request, fault: Exception = fault) -> httpx2.Response:
            raise fault

        with pytest.raises(error):
            await connector(respond).check()
    echo = Recorder(problem(message=f"Invalid API Key provided: {API_KEY}"), 401)
    with pytest.raises(AuthenticationFailed) as caught:
        await connector(echo).check()
    assert API_KEY not in str(caught.value)
    assert API_KEY not in repr(vars(connector()))


async def test_a_restricted_key_that_may_not_see_the_balance_is_good():
    await connector(Recorder({"object": "balance"})).check()
    await connector(Recorder(problem(), 403)).check()
    with pytest.raises(AuthenticationFailed):
        await connector(Recorder(problem(), 401)).check()


async def test_an_endpoint_made_by_hand_is_kept_up_to_date():
    stripe = Recorder({"id": "we_1", "object": "webhook_endpoint"})
    ours = "https://p.example/webhooks/stripe/t"
    await connector(stripe).register_webhook(ours, {})
    await connector(stripe).unregister_webhook([ours])
    assert stripe.requests == []
    chosen = connector(stripe, webhook_endpoint_id="we_1")
    await chosen.register_webhook(ours, {})
    assert stripe.last.url.path == "/v1/webhook_endpoints/we_1"
    assert stripe.form == {"url": ours, "disabled": "false"}
    stripe.answer["url"] = "https://earlier.example/webhooks/stripe/t"
    await chosen.unregister_webhook([ours])
    assert stripe.form == {"disabled": "true"}
    stripe.answer["url"] = "https://another.example/hook"
    await chosen.unregister_webhook([ours])
    assert stripe.last.method == "GET"


async def test_the_urls_token_is_not_repeated_by_an_error():
    url = "https://p.example/webhooks/stripe/plantedToken"
    stripe = Recorder(problem(message=f"Invalid URL: {url}"), 400)
    with pytest.raises(Rejected) as caught:
        await connector(stripe, webhook_endpoint_id="we_1").register_webhook(url, {})
    assert "plantedToken" not in str(caught.value)


# End to end.


async def test_a_signed_event_comes_in_and_a_refund_goes_out(tmp_path):
    async def stripe(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.answer(200, b'{"id": "re_1", "object": "refund", "status": "succeeded"}')

    async with wire_server(stripe) as provider, running_platform(tmp_path, StripeConnector) as running:
        connection = await running.connect(
            "stripe",
            secrets={"api_key": API_KEY, "signing_secret": SECRET},
            settings={"base_url": provider.url},
        )
        body = (FIXTURES / "stripe.invoice.paid.json").read_bytes()
        now = int(time.time())
        for at in (now, now, now - 301):
            header = f"t={at},v1={signature(body, at)}"
            answer = await running.client.post(
                connection["webhook_url"], content=body, headers={"Stripe-Signature": header}
            )
            assert answer.status_code == (200 if at == now else 401)
        assert len(await running.settled()) == 2
        [event] = await running.feed_of(1)
        assert event["type"] == "stripe.invoice.paid"
        assert event["payload"]["amount_paid"] == 1500

        action = await running.act(connection["id"], "create_refund", {"payment_intent": "pi_1"})
        assert action["state"] == "succeeded"
        assert action["result"]["id"] == "re_1"
        head = provider.requests[0].decode().lower()
        assert f"idempotency-key: {action['id']}".lower() in head
        assert provider.requests[0].endswith(b"payment_intent=pi_1")
