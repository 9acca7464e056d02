"""C06, C08 and C09."""

import pytest

from app.checks import delivery

from .conftest import Acme, findings, messages, skipped


@pytest.mark.parametrize("code", ["C06", "C08", "C09"])
def test_a_plain_connector_passes(acme: Acme, code: str) -> None:
    assert messages(code, acme()) == []


# C06


def test_an_event_without_a_fixture_is_found(acme: Acme) -> None:
    refunded = 'unique_id=True), EventSpec("acme.order.refunded", "An order was refunded")]'
    [finding] = findings("C06", acme(("connector.py", "unique_id=True)]", refunded)))
    assert finding.message == "event acme.order.refunded has no fixture."
    assert finding.remedy == "Add acme/tests/fixtures/acme.order.refunded.json."


def test_a_fixture_of_no_event_is_found(acme: Acme) -> None:
    subject = acme(files={"tests/fixtures/acme.order.sent__late.json": "{}"})
    assert messages("C06", subject) == [
        "fixture acme.order.sent__late.json is named after no declared event."
    ]


def test_other_material_of_tests_is_none_of_its_business(acme: Acme) -> None:
    files = {"tests/fixtures/_certificate.pem": "", "tests/fixtures/_ping.json": "{}"}
    assert messages("C06", acme(files=files)) == []


def test_a_fixture_that_becomes_another_event_is_found(acme: Acme) -> None:
    """And that the event is not declared breaks the contract."""
    change = ("connector.py", 'type="acme.order.paid"', 'type="acme.order." + str(payload["amount"])')
    found = findings("C06", acme(change, files={"tests/fixtures/acme.order.paid__large.json": None}))
    assert [(finding.message, finding.level) for finding in found] == [
        ("fixture acme.order.paid.json does not become acme.order.paid but acme.order.1200.", None),
        ("fixture acme.order.paid.json becomes acme.order.1200, which is not declared.", "contract"),
    ]


def test_a_fixture_that_is_refused_is_found_with_the_reason(acme: Acme) -> None:
    subject = acme(files={"tests/fixtures/acme.order.paid__large.json": '{"id": 5}'})
    assert messages("C06", subject) == [
        "fixture acme.order.paid__large.json is refused "
        "(not_an_order: This is not an order: id or amount is missing.)."
    ]


def test_a_payload_that_does_not_fit_its_model_is_found(acme: Acme) -> None:
    change = ("connector.py", '"amount": payload["amount"]', '"amount": "much"')
    found = messages("C06", acme(change, files={"tests/fixtures/acme.order.paid__large.json": None}))
    assert found == ["the payload made of acme.order.paid.json does not fit Order (amount)."]


@pytest.mark.parametrize(
    ("returned", "problem"),
    [
        ("return payload", "it returned a dict instead of an Event"),
        (
            'return Event(type="acme.order.paid", payload={"at": {1}})',
            "the payload of acme.order.paid is not JSON (TypeError)",
        ),
    ],
)
def test_what_is_no_event_breaks_the_contract(acme: Acme, returned: str, problem: str) -> None:
    change = ("connector.py", "        return Event(\n", f"        {returned}\n        return Event(\n")
    found = findings("C06", acme(change))
    assert {(finding.message.partition(": ")[2], finding.level) for finding in found} == {
        (f"{problem}.", "contract")
    }


def test_a_reply_that_comes_too_late_breaks_the_contract(acme: Acme) -> None:
    late = (
        "    async def receive(self, request):\n        from app.integrations.requests import Reply\n"
        "        return Reply(b'PONG', events=tuple(await super().receive(request)))\n\n    async def check"
    )
    change = ("connector.py", "    async def check", late)
    assert {finding.level for finding in findings("C06", acme(change))} == {"contract"}
    soon = ("connector.py", '    key = "acme"', '    key = "acme_two"\n    reply_within = 2.0')
    assert messages("C06", acme(change, soon, folder="acme_two")) == []


def test_headers_of_a_fixture_are_sent(acme: Acme) -> None:
    change = (
        "connector.py",
        "    async def check",
        "    async def receive(self, request):\n"
        '        assert "api_key" not in request.url and "x-secret" not in request.headers\n'
        '        kind, query = request.headers["acme-kind"], request.url.partition("?")[2]\n'
        '        payload = {"id": query, "amount": 1}\n'
        "        return Event(type=kind, external_id=query, payload=payload)\n\n    async def check",
    )
    files = {
        "tests/fixtures/acme.order.paid.json": None,
        "tests/fixtures/acme.order.paid__large.json": None,
        "tests/fixtures/acme.order.paid.form": "a=1&b=2\n",
        "tests/fixtures/acme.order.paid.headers.json": '{"Acme-Kind": "acme.order.paid", ":path": "?x=7"}',
    }
    assert messages("C06", acme(change, files=files)) == []


def test_headers_that_cannot_be_used_are_found(acme: Acme) -> None:
    files = {
        "tests/fixtures/acme.order.paid.headers.json": "[]",
        "tests/fixtures/acme.order.paid__other.headers.json": "{}",
    }
    assert messages("C06", acme(files=files)) == [
        "acme.order.paid__other.headers.json has no body beside it.",
        "acme.order.paid.headers.json is not a JSON object of header names and values.",
    ]


# C08


def test_what_garbage_does_to_a_careless_handler_is_found(acme: Acme) -> None:
    guard = 'if not isinstance(payload.get("id"), str) or not isinstance(payload.get("amount"), int):'
    careless = 'if payload["id"] == payload["amount"]["cents"]:'
    found = findings("C08", acme(("connector.py", guard, careless)))
    assert {finding.message.split(" for ")[0] for finding in found} == {
        "it raises KeyError at connector.py:37",
        "it raises TypeError at connector.py:37",
    }
    assert all(finding.level is None for finding in found)


def test_a_connector_that_would_end_the_platform_breaks_the_contract(acme: Acme) -> None:
    found = findings("C08", acme(("connector.py", "raise InvalidBody(", "raise KeyboardInterrupt(")))
    assert [finding.level for finding in found] == ["contract"]
    assert found[0].message.startswith("it raises KeyboardInterrupt at connector.py:38 for the body ")


def test_a_handler_that_hangs_breaks_the_contract(acme: Acme, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "DEADLINE", 0.2)
    hang = 'if payload.get("id") is None:\n            await __import__("asyncio").sleep(60)\n        if not'
    found = findings("C08", acme(("connector.py", "if not", hang)))
    assert [finding.level for finding in found] == ["contract"]
    assert found[0].message.startswith("it takes longer than ")


def test_a_verification_that_cannot_bear_garbage_breaks_the_contract(acme: Acme) -> None:
    careless = (
        "class Careless(Hmac):\n"
        "    def verify(self, request, secrets, now):\n"
        '        int(request.headers["acme-time"])\n\n\nclass AcmeConnector'
    )
    subject = acme(
        ("connector.py", "class AcmeConnector", careless),
        ("connector.py", "verification = Hmac(", "verification = Careless("),
    )
    found = findings("C08", subject)
    assert {(finding.message.split(" for ")[0], finding.level) for finding in found} == {
        ("verification raises KeyError at connector.py:16", "contract"),
        ("verification raises ValueError at connector.py:16", "contract"),
    }


def test_a_connector_without_webhooks_has_no_garbage_to_fear(acme: Acme) -> None:
    subject = acme(
        ("connector.py", "async def handle_webhook", "async def look_at"),
    )
    assert skipped("C08", subject) == "it takes no webhooks"


# C09


@pytest.mark.parametrize(
    "source",
    [
        '__import__("uuid").uuid4().hex',
        'str(int(__import__("time").time()))',
        'str(id(self)) + __import__("secrets").token_hex(4)',
    ],
)
def test_an_id_that_changes_with_every_delivery_is_found(acme: Acme, source: str) -> None:
    change = ("connector.py", 'payload["id"][:512].replace("\\0", "")', source)
    files = {"tests/fixtures/acme.order.paid__large.json": None}
    [finding] = findings("C09", acme(change, files=files))
    assert finding.message == (
        "fixture acme.order.paid.json, delivered again, becomes other events or other ids."
    )
    assert finding.level is None


def test_a_signature_or_its_time_is_no_id(acme: Acme) -> None:
    change = (
        "connector.py",
        "    async def check",
        "    async def receive(self, request):\n"
        "        event = (await super().receive(request))[0]\n"
        '        return event.model_copy(update={"external_id": request.headers["acme-time"]})\n\n'
        "    async def check",
    )
    found = findings("C09", acme(change, files={"tests/fixtures/acme.order.paid__large.json": None}))
    assert [finding.level for finding in found] == [None]


def test_a_unique_id_that_two_deliveries_share_is_found(acme: Acme) -> None:
    change = ("connector.py", 'payload["id"][:512].replace("\\0", "")', '"shop_1"')
    [finding] = findings("C09", acme(change))
    assert finding.message == (
        "fixtures acme.order.paid.json and acme.order.paid__large.json become acme.order.paid with the same "
        "id, which is declared unique: the second would be dropped."
    )
    assert finding.level == "quality"
