"""Webhooks that wait to be processed as long as a file is there."""

import asyncio
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from app.integrations.base import BaseIntegration
from app.integrations.models import Event
from app.integrations.specs import EventSpec


class StalledSettings(BaseModel):
    """What it waits for."""

    gate: Path = Field(description="The file")


class StalledConnector(BaseIntegration):
    """A connector that does not get on."""

    name = "Stalled"
    key = "stalled"
    settings_model = StalledSettings
    events = [EventSpec("stalled.thing.happened", "Something happened")]

    def __init__(self, settings: StalledSettings) -> None:
        self._gate = settings.gate

    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        while self._gate.exists():
            await asyncio.sleep(0.05)
        return Event(type="stalled.thing.happened", external_id=payload["id"], payload=payload)
