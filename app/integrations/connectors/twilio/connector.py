"""Twilio: declarations, inbound messages and status callbacks, action handlers."""

from collections.abc import Sequence
from typing import Any
from xml.etree.ElementTree import Element, SubElement, tostring

from pydantic import BaseModel

from app.integrations.base import BaseIntegration
from app.integrations.bodies import ByContentType, Form, JsonObject
from app.integrations.errors import Rejected
from app.integrations.http import ConnectorHttp
from app.integrations.inbound import validated
from app.integrations.models import Event
from app.integrations.requests import Reply, WebhookRequest
from app.integrations.specs import ActionSpec, EventSpec, SecretSpec
from app.integrations.urls import webhook_token
from app.integrations.verification import AllOf, AnyOf, BodyDigest, Hmac, Part, SortedForm, Url

from . import schemas
from .client import TwilioClient


def _signed(*parts: Part) -> Hmac:
    return Hmac(
        header="X-Twilio-Signature",
        secret="auth_token",  # noqa: S106 - a name
        algorithm="sha1",
        encoding="base64",
        signed=parts,
    )


# Twilio signs the URL now with and now without its port; its own libraries accept both.
_URLS = (Url(port="removed"), Url(port="added"))
_DIGEST = "bodySHA256"


class TwilioConnector(BaseIntegration):
    """An account, or a subaccount, with the messages that come in and the fate of those that go out."""

    name = "Twilio"
    key = "twilio"
    secrets = [
        SecretSpec(
            name="auth_token",
            description="The account's auth token: signs webhooks, and opens the API unless a key does",
        ),
        SecretSpec(
            name="api_key_secret",
            description="The secret of the API key that the setting api_key_sid names",
            required=False,
        ),
    ]
    settings_model = schemas.TwilioSettings
    verification = AnyOf(
        *(_signed(url, SortedForm(unless=_DIGEST)) for url in _URLS),
        # Of a body that is no form, the URL names the hash.
        *(AllOf(_signed(url), BodyDigest(_DIGEST)) for url in _URLS),
    )
    body = ByContentType({"application/x-www-form-urlencoded": Form(), "application/json": JsonObject()})
    reply_within = 10.0  # Twilio waits 15 s
    events = [
        EventSpec(
            name="twilio.message.received",
            description="Somebody sent a message to one of the account's numbers or senders",
            model=schemas.MessageReceived,
            unique_id=True,
        ),
        EventSpec(
            name="twilio.message_status.updated",
            description="A message that was sent got on: sent, delivered, undelivered, failed, read",
            model=schemas.MessageStatusUpdated,
        ),
        EventSpec(
            name="twilio.webhook.received",
            description="Anything else that Twilio sent to the URL, as it was sent",
            model=schemas.WebhookReceived,
        ),
    ]
    # Messages have no idempotency key, so sending is `once`. The others set a state.
    actions = [
        ActionSpec(
            name="send_message",
            description="Send an SMS, MMS, WhatsApp or other message, now or at a time",
            model=schemas.SendMessage,
            handler="send_message",
            result=schemas.Message,
        ),
        ActionSpec(
            name="fetch_message",
            description="Ask how a message got on",
            model=schemas.MessageReference,
            handler="fetch_message",
            effect="idempotent",
            result=schemas.Message,
            reads=True,
        ),
        ActionSpec(
            name="cancel_message",
            description="Cancel a scheduled message",
            model=schemas.MessageReference,
            handler="cancel_message",
            effect="idempotent",
            result=schemas.Message,
        ),
        ActionSpec(
            name="redact_message",
            description="Empty the text of a message that Twilio keeps",
            model=schemas.MessageReference,
            handler="redact_message",
            effect="idempotent",
            result=schemas.Message,
            destructive=True,
        ),
        ActionSpec(
            name="delete_message",
            description="Delete a message that Twilio keeps",
            model=schemas.MessageReference,
            handler="delete_message",
            effect="idempotent",
            result=schemas.DeletedMessage,
            destructive=True,
        ),
    ]

    def __init__(
        self,
        auth_token: str,
        settings: schemas.TwilioSettings,
        http: ConnectorHttp,
        api_key_secret: str | None = None,
    ) -> None:
        self.settings = settings
        self.client = TwilioClient(http, settings, auth_token, api_key_secret)

    async def receive(self, request: WebhookRequest) -> Event | Reply:
        """Makes the event of a webhook; a message that came in is answered with TwiML.

        Raises InvalidBody (invalid_webhook, invalid_message, invalid_status_callback).
        """
        [fields] = request.items
        kind = validated(schemas.Kind, fields, "webhook")
        if kind.is_message:
            return Reply(twiml(self.settings.reply), "text/xml", events=(_received(fields),))
        if kind.is_status:
            return _updated(fields)
        content = schemas.WebhookReceived(raw=fields)
        token = request.headers.get("i-twilio-idempotency-token")
        return Event(
            type="twilio.webhook.received",
            external_id=token if token and len(token) <= 200 else None,
            payload=content.model_dump(),
        )

    async def check(self) -> None:
        status = await self.client.check()
        if status not in (None, "active"):
            raise Rejected("Twilio knows the credential, but the account is suspended or closed.")

    async def register_webhook(self, url: str, secrets: dict[str, str]) -> None:
        if self.settings.phone_number_sid:
            await self.client.set_sms_url(self.settings.phone_number_sid, url)

    async def unregister_webhook(self, urls: Sequence[str] = ()) -> None:
        # Only if it is still ours: somebody may have given the number another use since.
        number = self.settings.phone_number_sid
        if number and webhook_token(await self.client.sms_url(number)) in map(webhook_token, urls):
            await self.client.set_sms_url(number, "")

    # Actions.

    async def send_message(self, data: schemas.SendMessage) -> dict[str, Any]:
        return _json(await self.client.create_message(data.form()))

    async def fetch_message(self, data: schemas.MessageReference) -> dict[str, Any]:
        return _json(await self.client.message(data.Sid))

    async def cancel_message(self, data: schemas.MessageReference) -> dict[str, Any]:
        return _json(await self.client.update_message(data.Sid, {"Status": "canceled"}))

    async def redact_message(self, data: schemas.MessageReference) -> dict[str, Any]:
        return _json(await self.client.update_message(data.Sid, {"Body": ""}))

    async def delete_message(self, data: schemas.MessageReference) -> dict[str, Any]:
        # Idempotent: a repetition is refused as "not found", which says that the message is not there.
        try:
            await self.client.delete_message(data.Sid)
        except Rejected as error:
            if error.status != 404:
                raise
            return _json(schemas.DeletedMessage(deleted=False))
        return _json(schemas.DeletedMessage(deleted=True))


def twiml(reply: str | None) -> bytes:
    """The answer to an incoming message: nothing to do, or a message back."""
    response = Element("Response")
    if reply:
        SubElement(response, "Message").text = reply
    document: bytes = tostring(response, encoding="utf-8", xml_declaration=True)
    return document


def _received(fields: dict[str, Any]) -> Event:
    message = validated(schemas.IncomingMessage, fields, "message")
    content = schemas.MessageReceived(
        message_sid=message.MessageSid,
        account_sid=message.AccountSid,
        messaging_service_sid=message.MessagingServiceSid,
        from_=message.From,
        to=message.To,
        body=message.Body,
        media=message.media(fields),
        profile_name=message.ProfileName,
        from_city=message.FromCity,
        from_country=message.FromCountry,
        raw=fields,
    )
    return Event(
        type="twilio.message.received",
        external_id=message.MessageSid,
        payload=content.model_dump(by_alias=True),
    )


def _updated(fields: dict[str, Any]) -> Event:
    change = validated(schemas.StatusCallback, fields, "status_callback")
    content = schemas.MessageStatusUpdated(
        message_sid=change.MessageSid,
        account_sid=change.AccountSid,
        messaging_service_sid=change.MessagingServiceSid,
        status=change.status,
        error_code=change.ErrorCode,
        error_message=change.ErrorMessage or change.ChannelStatusMessage,
        from_=change.From,
        to=change.To,
        raw=fields,
    )
    return Event(
        type="twilio.message_status.updated",
        external_id=f"{change.MessageSid}:{change.status}",
        payload=content.model_dump(by_alias=True),
    )


def _json(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True)
