"""WhatsApp: declarations, inbound changes, action handlers."""

import base64
from typing import Any

from pydantic import ValidationError

from app.integrations.base import BaseIntegration
from app.integrations.errors import Rejected
from app.integrations.handshakes import GetChallenge
from app.integrations.http import ConnectorHttp
from app.integrations.inbound import validated
from app.integrations.models import Event
from app.integrations.requests import Reply, WebhookRequest
from app.integrations.specs import ActionSpec, EventSpec, SecretSpec
from app.integrations.verification import Hmac

from . import schemas
from .client import WhatsAppClient
from .schemas import SentMessage, WhatsAppSettings

MAX_DOWNLOAD = 700_000
"""Bytes that get_media returns inside its result: in base64 still below the megabyte that is stored."""


class WhatsAppConnector(BaseIntegration):
    """A business phone number on the Cloud API, which Meta hosts."""

    name = "WhatsApp"
    key = "whatsapp"
    secrets = [
        SecretSpec(
            name="access_token", description="Access token of a system user, with WhatsApp permissions"
        ),
        SecretSpec(name="app_secret", description="App secret: App settings, Basic; it signs webhooks"),
        SecretSpec(
            name="verify_token",
            description="What Meta shows when it makes sure of the callback URL",
            generate=True,
        ),
    ]
    settings_model = WhatsAppSettings
    verification = Hmac(header="X-Hub-Signature-256", secret="app_secret", prefix="sha256=")  # noqa: S106 - a name
    handshake = GetChallenge(secret="verify_token")  # noqa: S106 - a name
    events = [
        EventSpec("whatsapp.message.received", "Somebody wrote", schemas.MessagePayload, unique_id=True),
        EventSpec(
            "whatsapp.message_status.updated",
            "A message was sent, delivered, read, played, or failed",
            schemas.StatusPayload,
            unique_id=True,
        ),
        EventSpec("whatsapp.change.received", "Any other change, as WhatsApp sent it", schemas.ChangePayload),
    ]
    # The Cloud API has no idempotency keys, so whatever sends something is `once`.
    actions = [
        ActionSpec(
            "send_text",
            "Send a text, within 24 hours of the person's last message",
            schemas.SendText,
            "send_text",
            result=SentMessage,
        ),
        ActionSpec(
            "send_template",
            "Send an approved template, at any time",
            schemas.SendTemplate,
            "send_template",
            result=SentMessage,
        ),
        ActionSpec(
            "send_media",
            "Send a picture, video, sound, document or sticker",
            schemas.SendMedia,
            "send_media",
            result=SentMessage,
        ),
        ActionSpec(
            "send_reaction",
            "React to a message, or take the reaction back",
            schemas.SendReaction,
            "send_reaction",
            result=SentMessage,
        ),
        ActionSpec(
            "upload_media",
            "Upload a file for send_media",
            schemas.UploadMedia,
            "upload_media",
            result=schemas.UploadedMedia,
        ),
        ActionSpec(
            "get_media",
            "Ask about a file that came with a message, and fetch it if wanted",
            schemas.GetMedia,
            "get_media",
            effect="idempotent",
            result=schemas.Media,
            reads=True,
        ),
        ActionSpec(
            "mark_as_read",
            "Mark a message as read, and show that an answer is being written",
            schemas.MarkAsRead,
            "mark_as_read",
            effect="idempotent",
            result=schemas.Done,
        ),
    ]

    def __init__(self, access_token: str, settings: WhatsAppSettings, http: ConnectorHttp) -> None:
        self.settings = settings
        self.client = WhatsAppClient(http, access_token, settings)

    async def receive(self, request: WebhookRequest) -> Event | list[Event] | Reply | None:
        """Makes the events of all changes in a batch. Raises InvalidBody."""
        events: list[Event] = []
        for item in request.items:
            notification = validated(schemas.Notification, item, "notification")
            for entry in notification.entry:
                for change in entry.changes:
                    events += _events(entry.id, change)
        return events

    async def check(self) -> None:
        await self.client.get_phone_number(self.settings.phone_number_id)

    async def register_webhook(self, url: str, secrets: dict[str, str]) -> None:
        if self.settings.waba_id:
            override = {"override_callback_uri": url, "verify_token": secrets["verify_token"]}
            await self.client.override_callback(self.settings.waba_id, override)

    async def unregister_webhook(self) -> None:
        if self.settings.waba_id:
            await self.client.override_callback(self.settings.waba_id, None)

    # Actions.

    async def send_text(self, data: schemas.SendText) -> SentMessage:
        return await self._send("text", data)

    async def send_template(self, data: schemas.SendTemplate) -> SentMessage:
        return await self._send("template", data)

    async def send_media(self, data: schemas.SendMedia) -> SentMessage:
        media = data.media.model_dump(exclude_none=True)
        return await self._send(data.type, data, {data.type: media}, {"type", "media"})

    async def send_reaction(self, data: schemas.SendReaction) -> SentMessage:
        reaction = {"message_id": data.message_id, "emoji": data.emoji}
        return await self._send("reaction", data, {"reaction": reaction}, {"message_id", "emoji"})

    async def _send(
        self,
        kind: str,
        data: schemas.Outgoing,
        content: dict[str, Any] | None = None,
        in_content: set[str] | None = None,
    ) -> SentMessage:
        exclude = {"phone_number_id", *(in_content or ())}
        message = data.model_dump(mode="json", exclude=exclude, exclude_none=True)
        return await self.client.send(self._number(data), {"type": kind, **message, **(content or {})})

    async def upload_media(self, data: schemas.UploadMedia) -> schemas.UploadedMedia:
        return await self.client.upload_media(self._number(data), data.file, data.type)

    async def get_media(self, data: schemas.GetMedia) -> schemas.Media:
        info = await self.client.get_media(data.media_id, self._number(data))
        media = schemas.Media(**info.model_dump(exclude={"url"}))
        if data.download:
            # Asked before, because it is held in memory.
            if (info.file_size or 0) > MAX_DOWNLOAD:
                raise Rejected(f"The file is larger than {MAX_DOWNLOAD} bytes, too large for a result.")
            media.content_base64 = base64.b64encode(await self.client.download(info.url)).decode("ascii")
        return media

    async def mark_as_read(self, data: schemas.MarkAsRead) -> schemas.Done:
        status: dict[str, Any] = {"message_id": data.message_id}
        if data.typing:
            status["typing_indicator"] = {"type": "text"}
        return await self.client.mark_as_read(self._number(data), status)

    def _number(self, data: schemas.FromNumber) -> str:
        return data.phone_number_id or self.settings.phone_number_id


def _events(waba_id: str, change: schemas.Change) -> list[Event]:
    """The messages and statuses in a change; the change as it is if it holds none, or others than known."""
    events = _messages_and_statuses(waba_id, change.value) if change.field == "messages" else []
    if events:
        return events
    payload = schemas.ChangePayload(waba_id=waba_id, field=change.field, value=change.value)
    return [Event(type="whatsapp.change.received", payload=payload.model_dump())]


def _messages_and_statuses(waba_id: str, original: Any) -> list[Event]:
    try:
        value = schemas.MessagesValue.model_validate(original)
    except ValidationError:
        return []
    common = {"waba_id": waba_id, **value.metadata.model_dump()}
    return [
        *(
            _message(message, value.contact_of(message), {**common, "raw": raw})
            for message, raw in zip(value.messages, original.get("messages", ()), strict=True)
        ),
        *(
            _status(status, {**common, "raw": raw})
            for status, raw in zip(value.statuses, original.get("statuses", ()), strict=True)
        ),
    ]


def _message(message: schemas.Message, contact: schemas.Contact, common: dict[str, Any]) -> Event:
    content, reply = message.content, message.content.reply
    payload = schemas.MessagePayload(
        **common,
        message_id=message.id,
        type=message.type,
        timestamp=message.timestamp,
        from_number=message.sender,
        from_user_id=message.from_user_id,
        from_name=contact.profile.name,
        from_username=contact.profile.username,
        group_id=message.group_id,
        text=(reply or content).words,
        reply_id=reply.id if reply else content.payload,
        response_json=reply.response_json if reply else None,
        media_id=content.id if content.mime_type else None,
        mime_type=content.mime_type,
        filename=content.filename,
        context_message_id=message.context.id or content.message_id,
    )
    return Event(type="whatsapp.message.received", external_id=message.id, payload=payload.model_dump())


def _status(status: schemas.Status, common: dict[str, Any]) -> Event:
    problem = status.errors[0] if status.errors else None
    payload = schemas.StatusPayload(
        **common,
        **status.model_dump(include={"status", "timestamp", "recipient_id", "recipient_user_id"}),
        message_id=status.id,
        error_code=problem.code if problem else None,
        error_title=problem.title if problem else None,
        biz_opaque_callback_data=status.biz_opaque_callback_data,
    )
    # A message reaches each status once; in a group, once for each who is in it.
    identity = ":".join(filter(None, (status.id, status.status, status.recipient_participant_id)))
    return Event(type="whatsapp.message_status.updated", external_id=identity, payload=payload.model_dump())
