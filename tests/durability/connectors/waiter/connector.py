"""Webhooks whose sender waits for an answer, which does not come as long as a file is there."""

import asyncio
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from app.integrations.base import BaseIntegration
from app.integrations.models import Event
from app.integrations.requests import Reply, WebhookRequest
from app.integrations.specs import EventSpec


class WaiterSettings(BaseModel):
    """What it waits for."""

    gate: Path = Field(description="The file")


class WaiterConnector(BaseIntegration):
    """A connector whose answers can be held up."""

    name = "Waiter"
    key = "waiter"
    settings_model = WaiterSettings
    reply_within = 60.0
    events = [EventSpec("waiter.thing.happened", "Something happened")]

    def __init__(self, settings: WaiterSettings) -> None:
        self._gate = settings.gate

    async def receive(self, request: WebhookRequest) -> Any:
        [item] = request.items
        while self._gate.exists():
            await asyncio.sleep(0.02)
        event = Event(type="waiter.thing.happened", external_id=item["id"], payload=item)
        return Reply(b"done", "text/plain", events=(event,))
