"""Actions with an effect that a stand-in counts."""

from typing import Any

from pydantic import BaseModel, Field

from app.integrations.base import BaseIntegration
from app.integrations.http import ConnectorHttp
from app.integrations.specs import ActionSpec, SecretSpec


class CourierSettings(BaseModel):
    """Where the provider is."""

    base_url: str = Field(description="Its address")


class Parcel(BaseModel):
    """What is delivered."""

    ref: str = Field(description="Names the effect")
    fate: str = Field(default="deliver", description="What the stand-in does with it")
    before: float = Field(default=0.0, description="Seconds until the effect")
    after: float = Field(default=0.0, description="Seconds from the effect to the answer")


class CourierConnector(BaseIntegration):
    """Carries things out."""

    name = "Courier"
    key = "courier"
    secrets = [SecretSpec("token", "Not looked at", required=False)]
    settings_model = CourierSettings
    actions = [
        ActionSpec("deliver", "Happens again when repeated", Parcel, "deliver"),
        ActionSpec("put", "Changes nothing when repeated", Parcel, "deliver", effect="idempotent"),
    ]

    def __init__(self, settings: CourierSettings, http: ConnectorHttp, token: str = "") -> None:
        self._http = http.bind(settings.base_url)

    async def deliver(self, parcel: Parcel) -> Any:
        return (await self._http.post("/effects", json=parcel.model_dump())).json()
