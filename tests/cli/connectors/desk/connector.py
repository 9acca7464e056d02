"""A connector whose provider is imagined: what happens is ordered by the payload."""

import asyncio
from typing import Any

from pydantic import BaseModel, Field

from app.integrations.base import BaseIntegration
from app.integrations.errors import AuthenticationFailed, InvalidBody, Rejected, Unavailable
from app.integrations.models import Event
from app.integrations.specs import ActionSpec, EventSpec, SecretSpec


class DeskSettings(BaseModel):
    """Settings of several kinds."""

    region: str = Field(default="eu", description="Where it is")
    level: int = Field(default=1, ge=1, description="How much")
    tags: list[str] = Field(default=[], description="Marks")


class Reply(BaseModel):
    """What an action takes."""

    text: str = Field(description="What to say")
    ticket: int | str = Field(default=1, description="Which ticket")


class DeskConnector(BaseIntegration):
    """A help desk."""

    name = "Desk"
    key = "desk"
    secrets = [
        SecretSpec("api_key", "The desk's key"),
        SecretSpec("second_key", "Another one", required=False),
    ]
    settings_model = DeskSettings
    events = [EventSpec("desk.ticket.opened", "A ticket was opened", unique_id=True)]
    actions = [
        ActionSpec("reply", "Answers a ticket", Reply, "reply", effect="idempotent"),
        ActionSpec("refuse", "Is refused", Reply, "refuse"),
        ActionSpec("vanish", "Gets lost on the way", Reply, "vanish", destructive=True),
        ActionSpec("linger", "Takes its time", Reply, "linger"),
    ]

    def __init__(self, api_key: str, settings: DeskSettings, second_key: str | None = None) -> None:
        self.api_key = api_key
        self.settings = settings

    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        if "text" not in payload:
            raise InvalidBody("not_a_ticket", "This is not a ticket: text is missing.")
        return Event(type="desk.ticket.opened", external_id=payload.get("id"), payload=payload)

    async def check(self) -> None:
        if self.api_key == "wrong":
            raise AuthenticationFailed("The desk does not know this key.", status=401)

    async def reply(self, data: Reply) -> dict[str, Any]:
        return data.model_dump()

    async def refuse(self, data: Reply) -> None:
        raise Rejected("The ticket is closed.", status=409)

    async def vanish(self, data: Reply) -> None:
        raise Unavailable("No answer came.")

    async def linger(self, data: Reply) -> None:
        await asyncio.sleep(3600)
