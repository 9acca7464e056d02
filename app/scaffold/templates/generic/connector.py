"""Acme: declarations, what comes in, action handlers."""

from typing import Any

from app.integrations.base import BaseIntegration
from app.integrations.http import ConnectorHttp
from app.integrations.inbound import validated
from app.integrations.models import Event
from app.integrations.specs import ActionSpec, EventSpec, SecretSpec
from app.integrations.verification import Hmac

from . import schemas
from .client import AcmeClient


class AcmeConnector(BaseIntegration):
    """Acme: say in a line what it is. The catalogue shows it."""

    name = "Acme"
    key = "acme"
    secrets = [
        SecretSpec("api_key", "Key of the API: say where it is found"),
        SecretSpec("signing_secret", "Signs webhooks: say where it is found"),
    ]
    settings_model = schemas.AcmeSettings
    # If a time is signed too, declare it with `timestamp`: then old requests are refused.
    verification = Hmac(
        header="X-Acme-Signature",
        secret="signing_secret",  # noqa: S106 - a name
        prefix="sha256=",
    )
    # <inbound events>
    events = [
        EventSpec(
            "acme.item.created",
            "An item was created",
            schemas.ItemPayload,
        ),
    ]
    # </inbound>
    # `once` is what is true when in doubt: declare more if more is promised.
    actions = [
        ActionSpec(
            "create_item",
            "Create an item",
            schemas.CreateItem,
            "create_item",
            result=schemas.Item,
        ),
    ]

    def __init__(
        self,
        api_key: str,
        settings: schemas.AcmeSettings,
        http: ConnectorHttp,
    ) -> None:
        self.client = AcmeClient(http, api_key, settings.base_url)

    # <inbound handler>
    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        """Makes the event of one webhook. Raises InvalidBody (invalid_notification)."""
        notification = validated(schemas.Notification, payload, "notification")
        return Event(
            type="acme.item.created",
            external_id=notification.id,
            payload=notification.item.model_dump(),
        )

    # </inbound>
    async def check(self) -> None:
        await self.client.account()

    # Actions.

    async def create_item(self, data: schemas.CreateItem) -> schemas.Item:
        return await self.client.create_item(data)
