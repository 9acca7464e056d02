"""An ordinary connector with a signature: validates an envelope, keeps the whole payload."""

from typing import Any

from pydantic import BaseModel

from app.integrations.base import BaseIntegration
from app.integrations.models import Event
from app.integrations.specs import EventSpec, SecretSpec
from app.integrations.verification import Hmac


class Envelope(BaseModel):
    id: str
    type: str


class BenchHmacIntegration(BaseIntegration):
    """Receives the benchmark's messages."""

    name = "Benchmark (HMAC)"
    key = "bench_hmac"
    secrets = [SecretSpec(name="signing_secret", description="Key of the HMAC over the raw body")]
    events = [EventSpec(name="bench_hmac.message.received", description="A message of the load")]
    verification = Hmac(header="X-Signature-256", secret="signing_secret", prefix="sha256=")

    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        envelope = Envelope.model_validate(payload)
        return Event(type="bench_hmac.message.received", external_id=envelope.id, payload=payload)
