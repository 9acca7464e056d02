"""C04."""

import pytest

from .conftest import Acme, findings, messages

CONSTRUCTED = "        self.http = http.bind("


def test_a_connector_that_keeps_its_secrets_passes(acme: Acme) -> None:
    assert messages("C04", acme()) == []


@pytest.mark.parametrize(
    ("spoiled", "seen"),
    [
        (
            ("    async def check(", "    def __repr__(self): return self.key_\n\n    async def check("),
            "repr() of the instance",
        ),
        (
            (CONSTRUCTED, f"        self.login = Login(api_key)\n{CONSTRUCTED}"),
            "repr() of its attribute login",
        ),
        (
            ('raise InvalidBody("not_an_order", "', 'raise InvalidBody("not_an_order", self.key_ + "'),
            "the error of a webhook",
        ),
        (
            ('payload={"id"', 'payload={"by": self.key_, "id"'),
            "the event acme.order.paid",
        ),
        (
            ("        return read(await", "        logging.debug(self.key_)\n        return read(await"),
            "the log or the output",
        ),
        (
            ("        return read(await", "        print(self.key_)\n        return read(await"),
            "the log or the output",
        ),
        (
            ('await self.http.get("/me")', 'raise ValueError("no") from KeyError(self.key_)'),
            "the error of check (200 with an echo)",
        ),
    ],
)  # fmt: skip
def test_a_secret_that_shows_is_found(acme: Acme, spoiled: tuple[str, str], seen: str) -> None:
    subject = acme(
        ("connector.py", CONSTRUCTED, f"        self.key_ = api_key\n{CONSTRUCTED}"),
        ("connector.py", *spoiled),
        (
            "connector.py",
            "class AcmeConnector",
            "import dataclasses, logging\n\n"
            "@dataclasses.dataclass\nclass Login:\n    key: str\n\n\nclass AcmeConnector",
        ),
    )
    found = findings("C04", subject)
    assert {finding.about for finding in found} <= {"api_key"}
    assert f"the secret api_key appears in {seen}." in [finding.message for finding in found]
    assert all(finding.level is None for finding in found)


def test_a_providers_words_are_looked_at_too(acme: Acme) -> None:
    """A client that quotes an error body and redacts nothing hands the credential on that it was sent."""
    subject = acme(
        (
            "connector.py",
            'self.http = http.bind(settings.base_url, headers={"X-Key": api_key}, redact=[api_key])',
            'self.http = ConnectorHttp(settings.base_url, headers={"X-Key": api_key}, explain=quoted)',
        ),
        (
            "connector.py",
            "class AcmeConnector",
            "from app.integrations.errors import Rejected\n\n"
            "def quoted(response):\n    return Rejected(response.json()['message'])\n\n\nclass AcmeConnector",
        ),
        (
            "connector.py",
            "    async def check",
            "    async def aclose(self):\n        await self.http.aclose()\n\n    async def check",
        ),
    )
    assert "the secret api_key appears in the error of create_order (400 with an echo)." in messages(
        "C04", subject
    )


def test_a_secret_in_base64_is_recognised(acme: Acme) -> None:
    """As Basic authentication writes it."""
    line = '        raise ValueError(__import__("base64").b64encode(b"user:" + self.key_.encode()))'
    subject = acme(
        ("connector.py", CONSTRUCTED, f"        self.key_ = api_key\n{CONSTRUCTED}"),
        ("connector.py", '        await self.http.get("/me")', line),
    )
    assert any("api_key appears in the error of check" in message for message in messages("C04", subject))


def test_the_webhook_urls_token_is_a_secret(acme: Acme) -> None:
    subject = acme(
        (
            "connector.py",
            "    async def check",
            "    async def register_webhook(self, url, secrets):\n        raise ValueError(url)\n\n"
            "    async def check",
        )
    )
    found = messages("C04", subject)
    assert found
    assert all("the webhook URL's token" in message and "register_webhook" in message for message in found)


def test_a_connector_that_cannot_be_built_only_warns(acme: Acme) -> None:
    subject = acme(("connector.py", CONSTRUCTED, f'        raise KeyError("ACME_URL")\n{CONSTRUCTED}'))
    [finding] = findings("C04", subject)
    assert finding.message == (
        "it cannot be built of made-up secrets and settings (KeyError at connector.py:34)."
    )
    assert finding.level == "quality"


def test_values_for_a_connection_can_be_given(acme: Acme) -> None:
    strict = f'        assert api_key == "key-of-a-form" and settings.base_url == "https://b"\n{CONSTRUCTED}'
    given = '{"secrets": {"api_key": "key-of-a-form"}, "settings": {"base_url": "https://b"}}'
    change = ("connector.py", CONSTRUCTED, strict)
    assert messages("C04", acme(change, files={"tests/connection.json": given})) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"secret": {}}', '{"secrets": []}'])
def test_values_that_cannot_be_read_are_named(acme: Acme, text: str) -> None:
    assert messages("C04", acme(files={"tests/connection.json": text})) == ["connection.json cannot be read."]


def test_settings_that_cannot_be_made_up_are_asked_for(acme: Acme) -> None:
    field = 'shop: str = Field(min_length=5, max_length=4, description="The shop")\n    base_url'
    [finding] = findings("C04", acme(("schemas.py", "base_url", field)))
    assert finding.message == "no settings can be made up for it."
    assert "acme/tests/connection.json" in finding.remedy
