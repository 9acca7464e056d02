"""SendGrid: declarations, the Event Webhook, action handlers."""

from collections.abc import Sequence
from typing import Any

from app.integrations.base import BaseIntegration
from app.integrations.bodies import JsonArray
from app.integrations.http import ConnectorHttp
from app.integrations.inbound import validated
from app.integrations.models import Event
from app.integrations.specs import ActionSpec, EventSpec, SecretSpec
from app.integrations.urls import webhook_token
from app.integrations.verification import Body, Ecdsa, HeaderValue

from . import schemas
from .client import SendGridClient

_NAMED = {
    "processed": ("sendgrid.email.processed", "SendGrid took a mail and will try to deliver it"),
    "delivered": ("sendgrid.email.delivered", "The recipient's server took a mail"),
    "deferred": ("sendgrid.email.deferred", "The recipient's server put a mail off; it is tried again"),
    "bounce": ("sendgrid.email.bounced", "The recipient's server refused a mail, for good or for now"),
    "dropped": ("sendgrid.email.dropped", "SendGrid did not send a mail, such as to a known bad address"),
    "open": ("sendgrid.email.opened", "A recipient opened a mail"),
    "click": ("sendgrid.email.clicked", "A recipient clicked a link in a mail"),
    "spamreport": ("sendgrid.email.complained", "A recipient marked a mail as spam"),
    "unsubscribe": ("sendgrid.recipient.unsubscribed", "A recipient wants no more mail"),
    "group_unsubscribe": ("sendgrid.group.unsubscribed", "A recipient left an unsubscribe group"),
    "group_resubscribe": ("sendgrid.group.resubscribed", "A recipient came back to an unsubscribe group"),
}
"""SendGrid's kinds that have an event of their own: its name, and what it says."""


class SendGridConnector(BaseIntegration):
    """An account or subuser: mail out, and the Event Webhook, a batch of events at a time."""

    name = "SendGrid"
    key = "sendgrid"
    secrets = [
        SecretSpec(name="api_key", description="An API key (SG....) that may send mail"),
        SecretSpec(
            name="verification_key",
            description="The signed event webhook's verification key, MFkw...; needed for webhooks only. "
            "No secret: a public key, kept with them because requests are judged by it",
            required=False,
        ),
    ]
    settings_model = schemas.SendGridSettings
    # The time is signed but not judged: whether a repetition, for up to 24 hours, is signed anew is not
    # documented. sg_event_id makes a replayed request harmless.
    verification = Ecdsa(
        header="X-Twilio-Email-Event-Webhook-Signature",
        secret="verification_key",  # noqa: S106 - a name
        signed=(HeaderValue("X-Twilio-Email-Event-Webhook-Timestamp"), Body()),
    )
    body = JsonArray()
    events = [
        *(
            EventSpec(name=name, description=says, model=schemas.EventPayload, unique_id=True)
            for name, says in _NAMED.values()
        ),
        EventSpec(
            name="sendgrid.event.received",
            description="An event of any other kind, such as account_status_change",
            model=schemas.EventPayload,
            unique_id=True,
        ),
    ]
    actions = [
        # There is no idempotency key, so a mail whose answer was lost may have been sent: `once`.
        ActionSpec(
            name="send_mail",
            description="Send a mail, or one to each of many, now or at a time",
            model=schemas.SendMail,
            handler="send_mail",
            result=schemas.SentMail,
        ),
    ]

    def __init__(self, api_key: str, settings: schemas.SendGridSettings, http: ConnectorHttp) -> None:
        self.settings = settings
        self.client = SendGridClient(http, api_key, settings.base_url)

    async def handle_webhook(self, payload: dict[str, Any]) -> Event:
        """Makes the event of one of the batch. Raises InvalidBody (invalid_event)."""
        event = validated(schemas.WebhookEvent, payload, "event")
        name, _ = _NAMED.get(event.event, ("sendgrid.event.received", ""))
        content = schemas.EventPayload(**event.model_dump(), raw=payload)
        return Event(type=name, external_id=event.sg_event_id, payload=content.model_dump())

    async def check(self) -> None:
        await self.client.scopes()

    async def register_webhook(self, url: str, secrets: dict[str, str]) -> None:
        # The key that it then signs with cannot be stored from here; it stays the same when the URL changes.
        if self.settings.event_webhook_id:
            webhook = await self.client.event_webhook(self.settings.event_webhook_id)
            webhook.url, webhook.enabled = url, True
            await self.client.update_event_webhook(self.settings.event_webhook_id, webhook)
            await self.client.sign_event_webhook(self.settings.event_webhook_id)

    async def unregister_webhook(self, urls: Sequence[str] = ()) -> None:
        if self.settings.event_webhook_id:
            webhook = await self.client.event_webhook(self.settings.event_webhook_id)
            # Only if it is still ours: somebody may have given it another use since.
            if webhook_token(webhook.url) in map(webhook_token, urls):
                webhook.enabled = False
                await self.client.update_event_webhook(self.settings.event_webhook_id, webhook)

    async def send_mail(self, data: schemas.SendMail) -> dict[str, Any]:
        message_id = await self.client.send(data.body())
        return schemas.SentMail(message_id=message_id).model_dump()
