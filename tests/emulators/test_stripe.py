import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import stripe
from stripe import SignatureVerificationError, StripeClient, Webhook, WebhookSignature

from .emulate import emulated, free_port, url_of
from .platform import Connection

EMULATOR = "Stripe (emulate, stripe)"
SECRET = "whsec_emulated"
KEY = "sk_test_emulated"

Connect = Callable[..., Connection]
Remark = Callable[[str], None]


@dataclass
class Emulated:
    """The emulator as each side sees it."""

    url: str
    connection: Connection
    sdk: StripeClient


@pytest.fixture(scope="module")
def account(connect: Connect, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulated]:
    port = free_port()
    connection = connect(
        "stripe", secrets={"api_key": KEY, "signing_secret": SECRET}, settings={"base_url": url_of(port)}
    )
    seed = {
        "stripe": {
            "products": [{"id": "prod_emulated", "name": "Pro Plan"}],
            "prices": [
                {"id": "price_emulated", "product_name": "Pro Plan", "currency": "eur", "unit_amount": 2000}
            ],
            "webhooks": [{"url": connection.webhook_url, "events": ["*"], "secret": SECRET}],
        }
    }
    with emulated("stripe", port, tmp_path_factory.mktemp("stripe"), seed) as url:
        sdk = StripeClient(KEY, base_addresses={"api": url}, max_network_retries=0)
        yield Emulated(url, connection, sdk)


# Actions, and what Stripe's own library then finds.


def test_create_customer_creates_it(account: Emulated) -> None:
    fields = {"email": "ann@example.com", "name": "Ann Ünal", "metadata": {"order": "7"}}
    made = account.connection.act("create_customer", **fields, description="a & b = c")
    customer = account.sdk.v1.customers.retrieve(made["id"])
    assert customer.metadata
    assert {**fields, "description": "a & b = c"} == {
        "email": customer.email,
        "name": customer.name,
        "metadata": customer.metadata.to_dict(),
        "description": customer.description,
    }


def test_update_customer_changes_only_what_is_given(account: Emulated) -> None:
    made = account.sdk.v1.customers.create({"email": "old@example.com", "name": "Bob"})
    changed = account.connection.act("update_customer", customer=made.id, email="new@example.com")
    customer = account.sdk.v1.customers.retrieve(made.id)
    assert changed["email"] == customer.email == "new@example.com"
    assert customer.name == "Bob"


def test_retrieve_customer_finds_what_stripes_library_made(account: Emulated) -> None:
    made = account.sdk.v1.customers.create({"email": "eve@example.com"})
    assert account.connection.act("retrieve_customer", customer=made.id)["email"] == "eve@example.com"


def test_retrieve_customer_of_an_unknown_one_is_refused_for_good(account: Emulated) -> None:
    job = account.connection.job("retrieve_customer", customer="cus_nobody")
    assert (job["state"], job["error"]["code"]) == ("failed", "rejected")
    assert "resource_missing" in job["error"]["message"]
    with pytest.raises(stripe.InvalidRequestError, match="No such customer"):
        account.sdk.v1.customers.retrieve("cus_nobody")


LACKED: dict[str, dict[str, Any]] = {
    "create_refund": {"payment_intent": "pi_emulated", "amount": 100},
    "create_payment_link": {"line_items": [{"price": "price_emulated"}]},
}


@pytest.mark.parametrize("action", LACKED)
def test_what_the_emulator_lacks_fails_and_says_so(account: Emulated, remark: Remark, action: str) -> None:
    job = account.connection.job(action, **LACKED[action])
    assert (job["state"], job["error"]["code"]) == ("failed", "rejected")
    assert "404" in job["error"]["message"]
    remark(f"it has no {action.removeprefix('create_')}s, so none was made")


def test_the_check_cannot_be_answered(account: Emulated, remark: Remark) -> None:
    checked = account.connection.check()
    assert checked["ok"] is not True
    assert checked["code"] != "authentication_failed"
    remark("it has no balance to ask for, and takes any key")


# Webhooks that the emulator sends and signs.


def test_stripes_library_and_ours_accept_what_the_emulator_signed(account: Emulated, remark: Remark) -> None:
    made = account.sdk.v1.customers.create({"email": "sent@example.com"})
    account.sdk.v1.customers.update(made.id, {"name": "Sent"})
    sent = [w for w in account.connection.webhooks() if made.id in w["body"]]
    assert len(sent) == 2
    for webhook in sent:
        WebhookSignature.verify_header(webhook["body"], dict(webhook["headers"])["stripe-signature"], SECRET)
    # Its events have neither id nor time: they are kept, to be replayed, and nothing is lost.
    assert {"id", "object", "created"}.isdisjoint(json.loads(sent[0]["body"]))
    assert {(w["state"], w["reason_code"]) for w in sent} == {("failed", "invalid_event")}
    remark("signature good; its events lack id, object and created, so no event is made of them")


def test_what_the_emulator_signs_with_another_secret_is_refused(account: Emulated) -> None:
    account.connection.rotate(signing_secret="whsec_another")
    try:
        account.sdk.v1.customers.create({"email": "never@example.com"})
        assert account.connection.refusals()[0] == "signature_differs"
    finally:
        account.connection.rotate(signing_secret=SECRET)


# Stripe's own signing and verifying, against ours.


def body_of(kind: str, thing: dict[str, Any], number: int = 1) -> bytes:
    event = {
        "id": f"evt_{kind}_{number}",
        "object": "event",
        "type": kind,
        "api_version": "2025-09-30.clover",
    }
    event |= {"created": int(time.time()), "livemode": False, "pending_webhooks": 1, "request": None}
    return json.dumps(event | {"data": {"object": thing}}, ensure_ascii=False, indent=2).encode()


def signed(body: bytes, at: float = 0.0, secret: str = SECRET) -> str:
    return WebhookSignature.generate_signature_header(body.decode(), secret, int(time.time() + at))


def test_an_event_around_the_emulators_customer_that_stripes_library_signed_becomes_one(
    account: Emulated, remark: Remark
) -> None:
    customer = account.sdk.v1.customers.create({"email": "event@example.com", "name": "Zoë"})
    body = body_of("customer.created", json.loads(str(customer)))
    assert account.connection.deliver(body, {"Stripe-Signature": signed(body)}) == 200
    [event] = account.connection.events("stripe.customer.created")
    constructed = Webhook.construct_event(body, signed(body), SECRET)
    assert event["external_id"] == constructed.id
    assert event["payload"]["object_id"] == constructed.data.object.id == customer.id
    assert event["payload"]["email"] == "event@example.com"
    remark("the stripe library signed it")


def test_the_emulators_own_events_become_ours_once_they_are_complete(
    account: Emulated, remark: Remark
) -> None:
    customer = account.sdk.v1.customers.create({"email": "pays@example.com"})
    payment = account.sdk.v1.payment_intents.create(
        {"amount": 2000, "currency": "eur", "customer": customer.id, "payment_method": "pm_card_visa"}
    )
    account.sdk.v1.payment_intents.confirm(payment.id)
    line = {"price": "price_emulated", "quantity": 1}
    session = account.sdk.v1.checkout.sessions.create(
        {"mode": "payment", "customer": customer.id, "line_items": [line], "success_url": "https://p.example"}
    )
    httpx2.post(f"{account.url}/checkout/{session.id}/complete", trust_env=False)
    account.sdk.v1.customers.delete(customer.id)
    incomplete = [json.loads(w["body"]) for w in account.connection.webhooks() if w["state"] == "failed"]
    for number, sent in enumerate(incomplete, 100):
        body = body_of(sent["type"], sent["data"]["object"], number)
        assert account.connection.deliver(body, {"Stripe-Signature": signed(body)}) == 200
    stored = {w["reason_code"] for w in account.connection.webhooks() if '"evt_' in w["body"]}
    assert stored == {None}
    [paid] = account.connection.events("stripe.payment_intent.succeeded")
    assert (paid["payload"]["object_id"], paid["payload"]["amount"]) == (payment.id, 2000)
    [bought] = account.connection.events("stripe.checkout_session.completed")
    assert bought["payload"]["object_id"] == session.id
    remark(f"types: {', '.join(sorted({sent['type'] for sent in incomplete}))}")


BODY = body_of("invoice.paid", {"id": "in_1", "object": "invoice"})
REQUESTS: dict[str, Callable[[], tuple[bytes, str]]] = {
    "genuine": lambda: (BODY, signed(BODY)),
    "late": lambda: (BODY, signed(BODY, -290)),
    "two signatures, as during a rotation": lambda: (BODY, f"{signed(BODY)},v1={'0' * 64}"),
    "two signatures, the second good": lambda: (BODY, signed(BODY).replace(",v1", f",v1={'0' * 64},v1")),
    "a test signature beside it": lambda: (BODY, f"{signed(BODY)},v0={'0' * 64}"),
    "old": lambda: (BODY, signed(BODY, -400)),
    "other body": lambda: (BODY.replace(b"in_1", b"in_2"), signed(BODY)),
    "other spaces": lambda: (json.dumps(json.loads(BODY)).encode(), signed(BODY)),
    "other secret": lambda: (BODY, signed(BODY, secret="whsec_another")),
    "other time": lambda: (BODY, signed(BODY).replace("t=1", "t=2")),
    "other version": lambda: (BODY, signed(BODY).replace("v1=", "v0=")),
    "no time": lambda: (BODY, signed(BODY).partition(",")[2]),
    "no words": lambda: (BODY, "nonsense"),
    "empty": lambda: (BODY, ""),
}
GENUINE = {name for name in REQUESTS if name.startswith(("genuine", "late", "two", "a test"))}


def theirs(body: bytes, header: str) -> bool:
    try:
        Webhook.construct_event(body, header, SECRET)
    except SignatureVerificationError:
        return False
    return True


@pytest.mark.parametrize("request_of", REQUESTS)
def test_stripes_verifier_and_ours_agree(account: Emulated, request_of: str) -> None:
    body, header = REQUESTS[request_of]()
    accepted = theirs(body, header)
    assert account.connection.deliver(body, {"Stripe-Signature": header}) == (200 if accepted else 401)
    assert accepted == (request_of in GENUINE)


def test_a_time_in_the_future_is_accepted_by_stripes_verifier_and_refused_by_ours(
    account: Emulated, remark: Remark
) -> None:
    header = signed(BODY, 400)
    assert theirs(BODY, header)
    assert account.connection.deliver(BODY, {"Stripe-Signature": header}) == 401
    remark("ours is stricter: Stripe's library looks at the past only")


def test_both_refuse_a_request_without_a_signature(account: Emulated) -> None:
    assert account.connection.deliver(BODY, {}) == 401
    with pytest.raises(SignatureVerificationError):
        Webhook.construct_event(BODY, None, SECRET)
