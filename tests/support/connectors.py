"""Connectors that tests register: small, and each peculiar in one way."""

from typing import Any

from pydantic import BaseModel, Field

from app.integrations.base import BaseIntegration
from app.integrations.http import ConnectorHttp
from app.integrations.models import Event
from app.integrations.specs import ActionSpec, EventSpec, SecretSpec
from app.integrations.verification import Hmac


class Note(BaseModel):
    """An action's payload."""

    text: str = Field(description="What to say")
    count: int = Field(default=1, ge=1, description="How often")


class ChatSettings(BaseModel):
    """Where the provider is."""

    base_url: str = Field(default="http://127.0.0.1:9", description="The provider's address")


class ChatConnector(BaseIntegration):
    """A signed webhook with one event, and one action over HTTP."""

    name = "Chat"
    key = "chat"
    secrets = [
        SecretSpec("token", "The provider's token"),
        SecretSpec("signing_secret", "Signs webhooks", generate=True),
    ]
    settings_model = ChatSettings
    verification = Hmac(header="X-Signature", secret="signing_secret", prefix="sha256=")
    events = [
        EventSpec("chat.message.received", "A message came in"),
        EventSpec("chat.order.paid", "An order was paid", unique_id=True),
    ]
    actions = [
        ActionSpec("send_note", "Sends a note", Note, "send_note"),
        ActionSpec("put_note", "Sets the note", Note, "send_note", effect="idempotent"),
    ]

    def __init__(self, token: str, settings: ChatSettings, http: ConnectorHttp) -> None:
        self._http = http.bind(settings.base_url, headers={"Authorization": f"Bearer {token}"})

    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        kind = payload.get("kind", "message.received")
        return Event(type=f"chat.{kind}", external_id=payload.get("id"), payload={"text": payload["text"]})

    async def send_note(self, note: Note) -> Any:
        return (await self._http.post("/notes", json=note.model_dump())).json()


class OpenConnector(BaseIntegration):
    """No verification, no secrets: the shortest connector there can be."""

    name = "Open"
    key = "open"
    events = [EventSpec("open.thing.happened", "Something happened")]

    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        return Event(type="open.thing.happened", external_id=payload.get("id"), payload=payload)
