"""Signed webhooks: what is sent is told on as it is."""

from typing import Any

from app.integrations.base import BaseIntegration
from app.integrations.models import Event
from app.integrations.specs import EventSpec, SecretSpec
from app.integrations.verification import Hmac


class SignedConnector(BaseIntegration):
    """A sender that signs."""

    name = "Signed"
    key = "signed"
    secrets = [SecretSpec("signing_secret", "Signs webhooks", generate=True)]
    verification = Hmac(header="X-Signature", secret="signing_secret", prefix="sha256=")
    events = [EventSpec("signed.thing.happened", "Something happened")]

    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        return Event(type="signed.thing.happened", external_id=payload["id"], payload=payload)
