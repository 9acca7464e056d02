"""A small connector in a folder, with nothing wrong, and ways to spoil it."""

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from app.checks.catalogue import CHECKS
from app.checks.model import Check, Finding
from app.checks.run import found
from app.checks.subject import ConnectorUnderTest, in_folder
from app.integrations import connectors

BY_CODE: Mapping[str, Check] = {check.code: check for check in CHECKS}

FILES = {
    "__init__.py": "from .connector import AcmeConnector\n",
    "connector.py": """
from typing import Any

from app.integrations.base import BaseIntegration
from app.integrations.errors import InvalidBody
from app.integrations.http import ConnectorHttp
from app.integrations.models import Event
from app.integrations.specs import ActionSpec, EventSpec, SecretSpec
from app.integrations.verification import Body, HeaderValue, Hmac, Text, Timestamp

from .schemas import AcmeSettings, Created, CreateOrder, Order, read


class AcmeConnector(BaseIntegration):
    name = "Acme"
    key = "acme"
    secrets = [
        SecretSpec("api_key", "Key of the API"),
        SecretSpec("signing_secret", "Signs webhooks", generate=True),
    ]
    settings_model = AcmeSettings
    verification = Hmac(
        header="Acme-Signature",
        secret="signing_secret",
        signed=(HeaderValue("Acme-Time"), Text("."), Body()),
        timestamp=Timestamp("Acme-Time"),
    )
    events = [EventSpec("acme.order.paid", "An order was paid", Order, unique_id=True)]
    actions = [
        ActionSpec("create_order", "Creates an order", CreateOrder, "create_order", result=Created),
    ]

    def __init__(self, api_key: str, settings: AcmeSettings, http: ConnectorHttp) -> None:
        self.http = http.bind(settings.base_url, headers={"X-Key": api_key}, redact=[api_key])

    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        if not isinstance(payload.get("id"), str) or not isinstance(payload.get("amount"), int):
            raise InvalidBody("not_an_order", "This is not an order: id or amount is missing.")
        return Event(
            type="acme.order.paid",
            external_id=payload["id"][:512].replace("\\0", ""),
            payload={"id": payload["id"], "amount": payload["amount"]},
        )

    async def check(self) -> None:
        await self.http.get("/me")

    async def create_order(self, data: CreateOrder) -> Any:
        return read(await self.http.post("/orders", json=data.model_dump()))
""",
    "schemas.py": """
from pydantic import BaseModel, Field

from app.integrations.errors import Unavailable


class AcmeSettings(BaseModel):
    base_url: str = Field(default="https://api.acme.example", description="Where the API is")


class Order(BaseModel):
    id: str = Field(description="The order")
    amount: int = Field(description="In cents")


class CreateOrder(BaseModel):
    amount: int = Field(ge=100, description="In cents")


class Created(BaseModel):
    id: str = Field(description="The new order")


def read(answer):
    try:
        return answer.json()
    except ValueError:
        raise Unavailable("The answer is not Acme's.") from None
""",
    "tests/test_acme.py": "def test_nothing(): pass\n",
    "tests/fixtures/acme.order.paid.json": '{"id": "ord_1", "amount": 1200}\n',
    "tests/fixtures/acme.order.paid__large.json": '{"id": "ord_2", "amount": 120000}\n',
    "tests/fixtures/README.md": "Written by hand.\n",
    "README.md": """
# Acme
## Setting up
Put the `api_key` into a connection; `base_url` is for tests.
## How webhooks arrive
Signed.
## Events
`acme.order.paid`
## Actions
`create_order`
## Limits
None are known.
""",
}

Acme = Callable[..., ConnectorUnderTest]


@pytest.fixture
def acme(tmp_path: Path) -> Iterator[Acme]:
    """Makes the connector: `changes` are (file, old text, new text), `files` are more files, or None for one
    that is to be missing."""

    def make(
        *changes: tuple[str, str, str], files: Mapping[str, str | None] | None = None, folder: str = "acme"
    ) -> ConnectorUnderTest:
        texts: dict[str, str | None] = {**FILES, **(files or {})}
        for name, old, new in changes:
            text = texts[name]
            assert text is not None
            assert old in text, f"{name} has no {old!r}"
            texts[name] = text.replace(old, new)
        for name, text in texts.items():
            if text is not None:
                path = tmp_path / folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
        return in_folder(tmp_path / folder)

    before = list(connectors.__path__)
    yield make
    connectors.__path__[:] = before
    prefix = f"{connectors.__name__}."
    for name in [name for name in sys.modules if name.startswith(prefix)]:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "") or _path_of(name)):
            del sys.modules[name]
            vars(connectors).pop(name.removeprefix(prefix).partition(".")[0], None)


def _path_of(name: str) -> str:
    return str(list(getattr(sys.modules[name], "__path__", [])))


def findings(code: str, subject: ConnectorUnderTest) -> list[Finding]:
    """What a check finds; that it looked."""
    seen = found(BY_CODE[code], subject)
    assert not seen.skipped, seen.skipped
    return list(seen.findings)


def messages(code: str, subject: ConnectorUnderTest) -> list[str]:
    return [finding.message for finding in findings(code, subject)]


def skipped(code: str, subject: ConnectorUnderTest) -> str:
    return found(BY_CODE[code], subject).skipped
