"""Says whatever it is given wherever it can, and does what the payload tells it."""

import logging
from typing import Any

from pydantic import BaseModel, Field

from app.integrations.base import BaseIntegration
from app.integrations.errors import Unavailable
from app.integrations.http import ConnectorHttp
from app.integrations.models import Event
from app.integrations.specs import ActionSpec, EventSpec, PollSpec, SecretSpec
from app.integrations.verification import Hmac


class RelaySettings(BaseModel):
    """Where the provider is."""

    base_url: str = Field(description="Its address")


class Message(BaseModel):
    """What is sent on."""

    text: str = Field(description="The words")
    fault: str = Field(default="", description="How it goes wrong")


class RelayConnector(BaseIntegration):
    """Its provider wants the credential in the path, as some do."""

    name = "Relay"
    key = "relay"
    secrets = [
        SecretSpec("token", "The provider's token"),
        SecretSpec("signing_secret", "Signs webhooks", generate=True),
    ]
    settings_model = RelaySettings
    verification = Hmac(header="X-Signature", secret="signing_secret", prefix="sha256=")
    events = [EventSpec("relay.message.received", "A message came in")]
    actions = [
        ActionSpec("send_message", "Sends it", Message, "send_message"),
        ActionSpec("put_message", "Sets it", Message, "send_message", effect="idempotent"),
    ]
    polls = [PollSpec("messages", every=0.05, handler="ask")]

    def __init__(self, token: str, signing_secret: str, settings: RelaySettings, http: ConnectorHttp) -> None:
        self._token = token
        self._http = http.bind(f"{settings.base_url}/bot{token}", redact=[token, signing_secret])

    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        if payload.get("fault") == "raise":
            raise RuntimeError(f"{payload} {self._token}")
        if payload.get("fault") == "fetch":
            await self._http.post("/files", json={}, params={"text": payload["text"]}, effect=False)
        if payload.get("fault") == "field":
            Message.model_validate({"text": payload})
        return Event(type="relay.message.received", external_id=payload.get("id"), payload=payload)

    async def send_message(self, message: Message) -> Any:
        if message.fault == "raise":
            raise RuntimeError(f"{message} {self._token}")
        answer = await self._http.post(
            "/notes",
            json={"text": message.text},
            params={"text": message.text},
            headers={"X-Fault": message.fault},
        )
        return answer.json()

    async def ask(self, cursor: str | None) -> tuple[list[dict[str, Any]], str | None]:
        if cursor is None:
            return [{"id": "polled", "text": self._token}], "1"
        logging.getLogger("relay").debug("asked")
        raise Unavailable(f"{self._token} is not there")
