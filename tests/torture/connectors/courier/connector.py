"""Actions with an effect that a stand-in counts, one for each class of effects."""

import asyncio
import os
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from app.integrations.base import BaseIntegration
from app.integrations.http import ConnectorHttp, current_attempt
from app.integrations.models import Applied, CannotTell, NotApplied, ProbeAnswer
from app.integrations.specs import ActionSpec, Limits, SecretSpec


class CourierSettings(BaseModel):
    """Where the provider is."""

    base_url: str = Field(description="Its address")


class Parcel(BaseModel):
    """What is delivered."""

    ref: str = Field(description="Names the effect")
    fates: list[str] = Field(default=[], description="What the stand-in does with each try; then it delivers")
    before: float = Field(default=0.0, description="Seconds until the effect")
    hold: Path | None = Field(
        default=None,
        description="A file that keeps it from being sent; who is kept writes its number into it",
    )
    after: float = Field(default=0.0, description="Seconds from the effect to the answer")


class CourierConnector(BaseIntegration):
    """Carries things out."""

    name = "Courier"
    key = "courier"
    secrets = [SecretSpec("token", "Not looked at", required=False)]
    settings_model = CourierSettings
    limits = Limits(concurrency=16)
    actions = [
        ActionSpec("deliver", "Happens again when repeated", Parcel, "deliver"),
        ActionSpec("put", "The provider knows the repetition by its key", Parcel, "put", effect="idempotent"),
        ActionSpec(
            "lodge", "The provider can be asked for it", Parcel, "deliver", effect="checkable", probe="find"
        ),
    ]

    def __init__(self, settings: CourierSettings, http: ConnectorHttp, token: str = "") -> None:
        # How long to wait is the platform's to say, with action_timeout.
        asker = {"X-Process": str(os.getpid())}
        self._http = http.bind(settings.base_url, headers=asker, timeout=3600.0)

    async def deliver(self, parcel: Parcel) -> Any:
        if parcel.hold:
            parcel.hold.write_text(str(os.getpid()))
            while parcel.hold.exists():
                await asyncio.sleep(0.02)
        return (await self._http.post("/effects", json=parcel.model_dump(mode="json"))).json()

    async def put(self, parcel: Parcel) -> Any:
        attempt = current_attempt.get()
        assert attempt is not None
        headers = {"Idempotency-Key": attempt.key}
        return (
            await self._http.post("/effects", json=parcel.model_dump(mode="json"), headers=headers)
        ).json()

    async def find(self, parcel: Parcel) -> ProbeAnswer:
        found = (await self._http.get(f"/effects/{parcel.ref}")).json()
        if found["count"]:
            return Applied(found)
        return CannotTell() if found["open"] else NotApplied()
