"""Amazon SES: declarations, and the notifications that come through an SNS topic."""

from typing import Any

from app.integrations.base import BaseIntegration
from app.integrations.bodies import decode_json
from app.integrations.errors import InvalidBody, ProviderError, UnhandledWebhook
from app.integrations.http import ConnectorHttp
from app.integrations.inbound import validated
from app.integrations.models import Event
from app.integrations.requests import WebhookRequest
from app.integrations.specs import EventSpec, SecretSpec
from app.integrations.verification import SnsSignature

from . import schemas
from .client import SnsClient

_NAMED: dict[str, tuple[str, type[schemas.EmailPayload], str]] = {
    "Send": ("ses.email.sent", schemas.EmailPayload, "SES took a mail and will try to deliver it"),
    "Delivery": ("ses.email.delivered", schemas.DeliveryPayload, "A mail reached the recipient's server"),
    "Bounce": ("ses.email.bounced", schemas.BouncePayload, "A mail was sent back, for good or for now"),
    "Complaint": ("ses.email.complained", schemas.ComplaintPayload, "A recipient marked a mail as spam"),
    "Reject": ("ses.email.rejected", schemas.FailurePayload, "SES refused a mail: it holds a virus"),
    "Rendering Failure": ("ses.email.failed", schemas.FailurePayload, "A template could not be filled in"),
    "DeliveryDelay": ("ses.email.delayed", schemas.DelayPayload, "A mail could not be delivered yet"),
    "Open": ("ses.email.opened", schemas.OpenPayload, "A mail was opened"),
    "Click": ("ses.email.clicked", schemas.OpenPayload, "A link in a mail was clicked"),
    "Subscription": ("ses.subscription.updated", schemas.EmailPayload, "A recipient changed preferences"),
}
"""The kinds of notification that have an event of their own: its name, its payload, and what it says."""


class SesConnector(BaseIntegration):
    """One SNS topic to which SES publishes. A subscription of that topic confirms itself."""

    name = "Amazon SES"
    key = "ses"
    secrets = [
        SecretSpec(
            name="topic_arn",
            description="The SNS topic: arn:aws:sns:<region>:<account>:<name>. No secret; it is kept with "
            "them because requests are judged by it",
        ),
    ]
    verification = SnsSignature(topic_secret="topic_arn")  # noqa: S106 - a name
    events = [
        *(
            EventSpec(name=name, description=says, model=model, unique_id=True)
            for name, model, says in _NAMED.values()
        ),
        EventSpec(
            name="ses.notification.received",
            description="Anything else that the topic was given, mail that SES received included",
            model=schemas.NotificationPayload,
            unique_id=True,
        ),
    ]

    def __init__(self, http: ConnectorHttp) -> None:
        self.client = SnsClient(http)

    async def receive(self, request: WebhookRequest) -> Event | None:
        """Makes the event of one SNS message, or confirms the subscription.

        Raises InvalidBody (invalid_sns_message, invalid_notification), UnhandledWebhook
        (subscription_not_confirmed).
        """
        [item] = request.items
        message = validated(schemas.SnsMessage, item, "sns_message")
        if message.Type == "SubscriptionConfirmation":
            await self._confirm(message)
            return None
        content = _object(message) if message.Type == "Notification" else None
        kind = validated(schemas.Kind, content, "notification") if content else None
        if content is None or kind is None or kind.kind not in _NAMED:
            return _other(message, kind, content)
        name, model, _ = _NAMED[kind.kind]
        made = validated(schemas.Notification, content, "notification")
        payload = model.model_validate(
            {**made.flat(), "kind": kind.kind, "sns_message_id": message.MessageId, "raw": content}
        )
        return Event(type=name, external_id=message.MessageId, payload=payload.model_dump())

    async def _confirm(self, message: schemas.SnsMessage) -> None:
        try:
            await self.client.confirm(message.SubscribeURL, message.TopicArn)
        except ProviderError as error:
            # The token is good for two days at least: the webhook waits, failed, to be replayed.
            raise UnhandledWebhook(
                "subscription_not_confirmed",
                f"The subscription could not be confirmed ({error}) Replay this webhook within two days, "
                "or ask for a new confirmation in the SNS console.",
            ) from None


def _object(message: schemas.SnsMessage) -> dict[str, Any] | None:
    """The JSON object inside the message; None if a text was published."""
    try:
        content = decode_json(message.Message.encode())
    except InvalidBody:
        return None
    return content if isinstance(content, dict) else None


def _other(message: schemas.SnsMessage, kind: schemas.Kind | None, content: dict[str, Any] | None) -> Event:
    known = kind.kind if kind else ""
    payload = schemas.NotificationPayload(
        kind=known or message.Type,
        sns_message_id=message.MessageId,
        timestamp=message.Timestamp,
        subject=message.Subject,
        text=message.Message if content is None else None,
        raw=content or {},
    )
    return Event(
        type="ses.notification.received", external_id=message.MessageId, payload=payload.model_dump()
    )
