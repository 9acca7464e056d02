"""C05, C11 and C13."""

import pytest

from .conftest import Acme, findings, messages


@pytest.mark.parametrize("code", ["C05", "C11", "C13"])
def test_a_plain_connector_passes(acme: Acme, code: str) -> None:
    assert messages(code, acme()) == []


# C05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("schemas.py", 'amount: int = Field(ge=100, description="In cents")', "amount: int"),
            "action create_order: no description of CreateOrder.amount.",
        ),
        (
            ("schemas.py", 'id: str = Field(description="The new order")', "id: str"),
            "the result of action create_order: no description of Created.id.",
        ),
        (
            ("schemas.py", 'id: str = Field(description="The order")', "id: str"),
            "event acme.order.paid: no description of Order.id.",
        ),
        (
            ("schemas.py", ', description="Where the API is")', ")"),
            "settings: no description of AcmeSettings.base_url.",
        ),
        (("connector.py", ", result=Created", ""), "action create_order has no result model."),
        (("connector.py", '"Key of the API"', '" "'), "secret api_key has no description."),
        (("connector.py", '"Creates an order"', '""'), "action create_order has no description."),
        (("connector.py", '"An order was paid"', '""'), "event acme.order.paid has no description."),
        (
            ("connector.py", 'EventSpec("acme.order.paid"', 'EventSpec("paid"'),
            "event paid is not named <key>.<noun>.<past tense>.",
        ),
        (
            ("connector.py", "result=Created", "result=Created, reads=True"),
            "action create_order reads, and yet may not be repeated or destroys something.",
        ),
    ],
)
def test_what_is_not_described_is_found(acme: Acme, change: tuple[str, str, str], message: str) -> None:
    assert messages("C05", acme(change)) == [message]


def test_fields_inside_fields_are_looked_at(acme: Acme) -> None:
    nested = "class Line(BaseModel):\n    text: str\n\n\nclass CreateOrder(BaseModel):\n"
    nested += '    lines: list[Line] = Field(description="What is ordered")\n'
    change = ("schemas.py", "class CreateOrder(BaseModel):\n", nested)
    assert messages("C05", acme(change)) == ["action create_order: no description of Line.text."]


# C11


def test_a_missing_page_is_found(acme: Acme) -> None:
    [finding] = findings("C11", acme(files={"README.md": None}))
    assert (finding.message, finding.remedy) == ("it has no page.", "Write acme/README.md.")


@pytest.mark.parametrize(
    ("heading", "section"),
    [
        ("Setting up", "Setting up"),
        ("How webhooks arrive", "How webhooks arrive"),
        ("Events", "Events"),
        ("Actions", "Actions"),
        ("Limits", "Limits"),
    ],
)
def test_a_missing_section_is_found(acme: Acme, heading: str, section: str) -> None:
    subject = acme(("README.md", f"## {heading}\n", "## Other\n"))
    assert messages("C11", subject) == [f"acme/README.md has no section '{section}'."]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("api_key", "secret"),
        ("base_url", "setting"),
        ("acme.order.paid", "event"),
        ("create_order", "action"),
    ],
)
def test_what_the_page_does_not_name_is_found(acme: Acme, name: str, kind: str) -> None:
    subject = acme(("README.md", f"`{name}`", f"`{name}s`"))
    assert messages("C11", subject) == [f"acme/README.md does not name the {kind} {name}."]


# C13


def test_an_unknown_level_is_found(acme: Acme) -> None:
    change = ("connector.py", '    key = "acme"\n', '    key = "acme"\n    level = "gold"\n')
    assert messages("C13", acme(change)) == ["its level is 'gold'."]


STABLE = (
    "connector.py",
    '    key = "acme"\n',
    '    key = "acme"\n    level = "stable"\n    version = "2.1.0"\n',
)


def test_a_stable_connector_with_all_that_it_takes_passes(acme: Acme) -> None:
    assert messages("C13", acme(STABLE)) == []


@pytest.mark.parametrize(
    ("change", "files", "lack"),
    [
        (("connector.py", '    version = "2.1.0"\n', ""), {}, "it does not say which version it is"),
        (("connector.py", ", Order, unique", ", unique"), {}, "event acme.order.paid has no model"),
        (("connector.py", ", result=Created", ""), {}, "action create_order has no result model"),
        (
            ("connector.py", "async def check(self)", "async def look(self)"),
            {},
            "nothing tells whether its credentials are good: it has no check()",
        ),
        (
            None,
            {"tests/fixtures/README.md": None},
            "nothing says where its fixtures came from (fixtures/README.md)",
        ),
        (None, {"tests/test_acme.py": None}, "it has no tests of its own"),
        (None, {"tests/exemptions.toml": 'C02 = "There is a reason for it."'}, "it has exemptions"),
    ],
)
def test_what_stable_asks_for_is_missed(
    acme: Acme, change: tuple[str, str, str] | None, files: dict[str, str | None], lack: str
) -> None:
    subject = acme(STABLE, *([change] if change else []), files=files)
    assert messages("C13", subject) == [f"it says that it is stable, but {lack}."]
