"""A made-up connection: what an instance of any connector is built with.

Secrets and settings are made up from what is declared. Where that is not enough, because a setting has a
form that cannot be guessed, `connection.json` in the connector's tests folder says more:
{"secrets": {name: value}, "settings": {name: value}}.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from app.integrations.base import BaseIntegration
from app.integrations.http import ConnectorHttp
from app.integrations.registry import Integration
from app.integrations.requests import Headers, WebhookRequest
from app.integrations.verification import BySettings, Verification

from .examples import payloads_for
from .fixtures import TOKEN
from .genuine import NOW, Sender, UnknownScheme, ways
from .subject import ConnectorUnderTest

FILE = "connection.json"


class NotBuilt(Exception):
    """No instance can be built of made-up values: what happened, and the remedy."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True)
class MadeUpConnection:
    """Secrets that are recognised wherever they turn up, settings, and the provider that knows them.

    verification  how the connection's requests are checked: as declared, or as its settings choose
    """

    integration: Integration
    sender: Sender
    settings: BaseModel | None
    verification: Verification | None

    @property
    def secrets(self) -> dict[str, str]:
        return self.sender.secrets

    def signed(self, request: WebhookRequest, now: float = NOW) -> WebhookRequest:
        """The request as its provider sends it; as it stands if nobody here knows how."""
        if self.verification is None:
            return request
        try:
            return self.sender.sign(request, ways(self.verification)[0], now)
        except UnknownScheme:
            return request

    def received(self, request: WebhookRequest) -> WebhookRequest:
        """The request as a connector gets it: without the credentials that were in it."""
        hidden = {"authorization", "cookie", "proxy-authorization"}
        if self.verification is not None:
            hidden |= self.verification.credential_headers
        headers = Headers([pair for pair in request.headers.pairs if pair[0] not in hidden])
        return replace(request, url=request.url.replace(TOKEN, "{token}"), headers=headers)

    @asynccontextmanager
    async def instance(self) -> AsyncIterator[BaseIntegration]:
        """An instance as the platform builds it. Raises NotBuilt."""
        http = ConnectorHttp(redact=self.secrets.values())
        try:
            try:
                built = self.integration.create(dict(self.secrets), self.settings, http)
            except Exception as error:
                what = f"{type(error).__name__}{place(error, self.integration.connector)}"
                raise NotBuilt(
                    f"it cannot be built of made-up secrets and settings ({what}).",
                    "Let the constructor take whatever the declarations allow, or put values that it takes "
                    f"into {FILE} beside its fixtures.",
                ) from error
            try:
                yield built
            finally:
                await built.aclose()
        finally:
            await http.aclose()


def made_up_connection(subject: ConnectorUnderTest) -> MadeUpConnection:
    """Raises NotBuilt."""
    return made_up_connections(subject)[0]


def made_up_connections(subject: ConnectorUnderTest) -> list[MadeUpConnection]:
    """One connection for each verification that there is: more than one only if settings choose it.

    Raises NotBuilt.
    """
    assert subject.integration is not None
    given = _given(subject)
    found: list[MadeUpConnection] = []
    for settings in _settings(subject, given.get("settings", {})):
        verification = subject.connector.verification
        if isinstance(verification, BySettings):
            verification = verification.choose(settings)
        if not any(connection.verification == verification for connection in found):
            sender = Sender.to(subject.connector, verification, given.get("secrets"))
            found.append(MadeUpConnection(subject.integration, sender, settings, verification))
    return found


def _settings(subject: ConnectorUnderTest, given: dict[str, Any]) -> list[BaseModel | None]:
    """The smallest settings, and if they choose the verification one for each choice that they offer."""
    model = subject.connector.settings_model
    if model is None:
        return [None]
    smallest = next(payloads_for(model, given), None)
    if smallest is None:
        raise NotBuilt(
            "no settings can be made up for it.",
            f'Put {{"settings": {{...}}}} into {subject.shown(subject.tests, FILE)}.',
        )
    made: list[BaseModel | None] = [model.model_validate(smallest)]
    if isinstance(subject.connector.verification, BySettings):
        for name, field in model.model_json_schema().get("properties", {}).items():
            for value in field.get("enum", ()):
                chosen = next(payloads_for(model, {**given, name: value}), None)
                made += [] if chosen is None else [model.model_validate(chosen)]
    return made


def place(error: BaseException, connector: type[BaseIntegration]) -> str:
    """Where in a connector's files an error came from, such as ` at client.py:12`."""
    package = connector.__module__.rpartition(".")[0] or connector.__module__
    trace, found = error.__traceback__, ""
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__", "")).startswith(package):
            found = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _given(subject: ConnectorUnderTest) -> dict[str, dict[str, Any]]:
    path = subject.tests / FILE if subject.tests is not None else None
    if path is None or not path.exists():
        return {}
    try:
        given: Any = json.loads(path.read_text("utf-8"))
        good = isinstance(given, dict) and set(given) <= {"secrets", "settings"}
        good = good and all(isinstance(part, dict) for part in given.values())
    except ValueError:
        good = False
    if not good:
        raise NotBuilt(
            f"{FILE} cannot be read.",
            f'Write {{"secrets": {{...}}, "settings": {{...}}}} into {subject.shown(path)}.',
        )
    return dict(given)
