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
            "acme.mail.delivered",
            "The recipient's server took a mail",
            schemas.MailPayload,
        ),
        EventSpec(
            "acme.mail.bounced",
            "A mail came back",
            schemas.BouncedPayload,
        ),
    ]
    # </inbound>
    # `once`: a mail that may have left is not sent again. Declare more if more is promised.
    actions = [
        ActionSpec(
            "send_email",
            "Send a mail, with attachments if there are any",
            schemas.SendEmail,
            "send_email",
            result=schemas.SentEmail,
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
        model = schemas.BouncedPayload if notification.event == "bounced" else schemas.MailPayload
        content = model.model_validate(notification.model_dump(include=set(model.model_fields)))
        return Event(
            type=f"acme.mail.{notification.event}",
            external_id=notification.event_id,
            payload=content.model_dump(),
        )

    # </inbound>
    async def check(self) -> None:
        await self.client.account()

    # Actions.

    async def send_email(self, data: schemas.SendEmail) -> schemas.SentEmail:
        return await self.client.send(data)
