"""What comes in from Twilio, and what each action takes.

What comes in and what actions take is named as in the API, `MessageSid`; what events and results hold as in
its answers, `message_sid`.
"""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from app.integrations.inbound import ProviderId
from app.integrations.urls import BaseUrl

Sid = Annotated[str, Field(pattern=r"^[A-Z]{2}[0-9A-Za-z]{32}$")]
_TEXT = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]*$"


class TwilioSettings(BaseModel):
    """Configuration of a connection that is not secret."""

    model_config = ConfigDict(extra="forbid")

    account_sid: Sid = Field(description="The account's SID: AC and 32 characters")
    api_key_sid: Sid | None = Field(
        default=None,
        description="An API key (SK...) to use instead of the auth token; its secret is api_key_secret",
    )
    phone_number_sid: Sid | None = Field(
        default=None,
        description="A phone number (PN...) whose URL for messages the platform keeps up to date",
    )
    reply: str | None = Field(
        default=None,
        min_length=1,
        max_length=1600,
        pattern=_TEXT,
        description="What every incoming message is answered with; nothing if not set",
    )
    base_url: BaseUrl = Field(
        default="https://api.twilio.com",
        description="Address of the API: Twilio's, that of a region, or a stand-in",
    )


# What comes in: only what the events are made of; everything else stays in the original.


class Kind(BaseModel):
    """What tells webhooks apart."""

    MessageSid: Any = None
    MessageStatus: Any = None
    SmsStatus: Any = None

    @property
    def is_message(self) -> bool:
        return self.MessageSid is not None and self._status in (None, "received", "receiving")

    @property
    def is_status(self) -> bool:
        return self.MessageSid is not None and not self.is_message

    @property
    def _status(self) -> Any:
        return self.MessageStatus or self.SmsStatus


_Code = Annotated[int | None, BeforeValidator(lambda value: value or None)]


class _Message(BaseModel):
    MessageSid: ProviderId
    AccountSid: str | None = None
    MessagingServiceSid: str | None = None


class IncomingMessage(_Message):
    """A message to one of the account's numbers or senders."""

    From: str
    To: str
    Body: str = ""
    NumMedia: int = Field(default=0, ge=0, le=1000)
    ProfileName: str | None = None
    FromCity: str | None = None
    FromCountry: str | None = None

    def media(self, fields: dict[str, Any]) -> list["Media"]:
        """The attachments, which are named by number."""
        numbers = [str(number) for number in range(self.NumMedia)]
        urls = [(fields.get(f"MediaUrl{n}"), fields.get(f"MediaContentType{n}")) for n in numbers]
        return [
            Media(url=url, content_type=kind if isinstance(kind, str) else None)
            for url, kind in urls
            if isinstance(url, str)
        ]


class StatusCallback(_Message):
    """How a message got on."""

    MessageStatus: str | None = Field(default=None, pattern=r"^[!-~]{1,100}$")
    SmsStatus: str | None = Field(default=None, pattern=r"^[!-~]{1,100}$")
    ErrorCode: _Code = None
    ErrorMessage: str | None = None
    ChannelStatusMessage: str | None = None
    From: str | None = None
    To: str | None = None

    @property
    def status(self) -> str:
        return self.MessageStatus or self.SmsStatus or ""


# Event payloads.


class _Payload(BaseModel):
    model_config = ConfigDict(populate_by_name=True)


class Media(BaseModel):
    """An attachment."""

    url: str = Field(description="Where it can be fetched, with the account's credentials if so configured")
    content_type: str | None = Field(description="Such as image/jpeg")


class MessageReceived(_Payload):
    """A message that came in."""

    message_sid: str = Field(description="The message's SID, SM... or MM...")
    account_sid: str | None = Field(description="The account's SID")
    messaging_service_sid: str | None = Field(description="The Messaging Service that it came through")
    from_: str = Field(alias="from", description="Who sent it: +4930123456, whatsapp:+4930123456")
    to: str = Field(description="The number or sender that it was sent to")
    body: str = Field(description="The text; may be empty if there is media")
    media: list[Media] = Field(description="Attachments")
    profile_name: str | None = Field(description="WhatsApp: the sender's name")
    from_city: str | None = Field(description="Where the sender's number is from, if Twilio knows")
    from_country: str | None = Field(description="The same: two-letter country code")
    raw: dict[str, Any] = Field(description="All fields as Twilio sent them")


class MessageStatusUpdated(_Payload):
    """How a message that was sent got on."""

    message_sid: str = Field(description="The message's SID, as send_message gave it")
    account_sid: str | None = Field(description="The account's SID")
    messaging_service_sid: str | None = Field(description="The Messaging Service that it went through")
    status: str = Field(description="Such as queued, sent, delivered, undelivered, failed, read, canceled")
    error_code: int | None = Field(description="Why it failed: https://www.twilio.com/docs/api/errors")
    error_message: str | None = Field(description="The same in words, if Twilio or the channel said any")
    from_: str | None = Field(alias="from", description="The number or sender that it was sent from")
    to: str | None = Field(description="Who it was sent to")
    raw: dict[str, Any] = Field(description="All fields as Twilio sent them")


class WebhookReceived(BaseModel):
    """Something that is not about a message, such as a call."""

    raw: dict[str, Any] = Field(description="All fields as Twilio sent them")


# What actions take.


class SendMessage(BaseModel):
    """POST /2010-04-01/Accounts/{AccountSid}/Messages.json."""

    model_config = ConfigDict(extra="forbid")

    To: str = Field(description="Who gets it: +4930123456, or a channel address such as whatsapp:+4930123456")
    From: str | None = Field(default=None, description="The account's number, short code or sender")
    MessagingServiceSid: str | None = Field(
        default=None, description="A Messaging Service (MG...) that chooses the sender, instead"
    )
    Body: str | None = Field(default=None, min_length=1, description="The text; up to 1600 characters")
    MediaUrl: list[str] | None = Field(
        default=None, min_length=1, description="Public addresses of media; up to 10"
    )
    ContentSid: str | None = Field(default=None, description="A content template (HX...), instead of a text")
    ContentVariables: dict[str, str] | None = Field(
        default=None, description="Values for the template's placeholders"
    )
    StatusCallback: str | None = Field(
        default=None,
        description="Where Twilio reports how it gets on: the connection's webhook_url makes events of it",
    )
    ValidityPeriod: int | None = Field(
        default=None, ge=1, description="Seconds that it may wait in Twilio's queue"
    )
    ScheduleType: Literal["fixed"] | None = Field(default=None, description="For a scheduled message")
    SendAt: str | None = Field(
        default=None, description="When to send a scheduled message: RFC 3339; needs a Messaging Service"
    )

    @model_validator(mode="after")
    def _complete(self) -> "SendMessage":
        if self.From is None and self.MessagingServiceSid is None:
            raise ValueError("give From or MessagingServiceSid")
        if self.Body is None and self.MediaUrl is None and self.ContentSid is None:
            raise ValueError("give Body, MediaUrl or ContentSid")
        if (self.SendAt is None) != (self.ScheduleType is None):
            raise ValueError("SendAt and ScheduleType go together")
        return self

    def form(self) -> dict[str, Any]:
        fields = self.model_dump(mode="json", exclude_none=True)
        if self.ContentVariables is not None:
            fields["ContentVariables"] = json.dumps(self.ContentVariables)
        return fields


class MessageReference(BaseModel):
    """A message that Twilio knows."""

    model_config = ConfigDict(extra="forbid")

    Sid: str = Field(min_length=1, max_length=100, description="The message's SID, SM... or MM...")


# What actions give.


class Message(BaseModel):
    """A message as Twilio keeps it, with all its other fields."""

    model_config = ConfigDict(extra="allow", populate_by_name=True)

    sid: str = Field(description="The message's SID")
    status: str = Field(description="Such as queued, accepted, scheduled, sent, delivered, failed, canceled")
    from_: str | None = Field(default=None, alias="from", description="The sender; null until it is chosen")
    to: str | None = Field(default=None, description="Who gets it")
    body: str | None = Field(default=None, description="The text; empty once it is redacted")
    error_code: int | None = Field(default=None, description="Why it failed")
    error_message: str | None = Field(default=None, description="The same in words")


class DeletedMessage(BaseModel):
    """What became of a deletion."""

    deleted: bool = Field(description="Whether it was there; if not, it was gone already")
