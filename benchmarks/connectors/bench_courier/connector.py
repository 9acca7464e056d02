"""An ordinary connector with one action, which posts to a provider."""

from typing import Any

from pydantic import BaseModel, Field

from app.integrations.base import BaseIntegration
from app.integrations.http import ConnectorHttp
from app.integrations.specs import ActionSpec, Limits


class CourierSettings(BaseModel):
    """Where the provider is."""

    base_url: str = Field(description="Its address")


class Parcel(BaseModel):
    """What is delivered."""

    ref: str = Field(description="Names it")


class BenchCourierIntegration(BaseIntegration):
    """Delivers the benchmark's parcels."""

    name = "Benchmark (actions)"
    key = "bench_courier"
    settings_model = CourierSettings
    actions = [ActionSpec("deliver", "Delivers a parcel", Parcel, "deliver")]
    limits = Limits(concurrency=64)

    def __init__(self, settings: CourierSettings, http: ConnectorHttp) -> None:
        self._http = http.bind(settings.base_url)

    async def deliver(self, parcel: Parcel) -> Any:
        return (await self._http.post("/parcels", json=parcel.model_dump())).json()
