"""A source that is asked by offset and forgets what a later question confirms, as getUpdates does."""

from typing import Any

from pydantic import BaseModel, Field

from app.integrations.base import BaseIntegration
from app.integrations.http import ConnectorHttp
from app.integrations.models import Event
from app.integrations.specs import EventSpec, PollSpec


class PolledSettings(BaseModel):
    """Where the source is."""

    base_url: str = Field(description="Its address")


class PolledConnector(BaseIntegration):
    """A source that does not tell by itself."""

    name = "Polled"
    key = "polled"
    settings_model = PolledSettings
    polls = [PollSpec("items", every=0.02, handler="poll_items")]
    events = [EventSpec("polled.thing.happened", "Something happened")]

    def __init__(self, settings: PolledSettings, http: ConnectorHttp) -> None:
        self._http = http.bind(settings.base_url)

    async def poll_items(self, cursor: str | None) -> tuple[list[dict[str, Any]], str | None]:
        answer = await self._http.get("/items", params={"offset": cursor or "0"})
        items = answer.json()["items"]
        return items, str(items[-1]["n"] + 1) if items else cursor

    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        # Every other item has no id: nothing but the cursor, stored with it, keeps it from coming twice.
        identity = f"n{payload['n']}" if payload["n"] % 2 else None
        return Event(type="polled.thing.happened", external_id=identity, payload=payload)
