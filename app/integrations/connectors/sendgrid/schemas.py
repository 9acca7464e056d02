"""What comes in from SendGrid, and what each action takes.

Names are those of the Event Webhook (https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event)
and of Mail Send (https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send). Times are Unix
seconds.
"""

import base64
import binascii
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from app.integrations.inbound import ProviderId
from app.integrations.urls import BaseUrl


class SendGridSettings(BaseModel):
    """Configuration of a connection that is not secret."""

    model_config = ConfigDict(extra="forbid")

    base_url: BaseUrl = Field(
        default="https://api.sendgrid.com",
        description="Address of the API: SendGrid's, https://api.eu.sendgrid.com for EU subusers, a stand-in",
    )
    event_webhook_id: str | None = Field(
        default=None,
        pattern=r"^[0-9A-Za-z-]{1,64}$",
        description="An event webhook made by hand whose URL and signing the platform keeps up to date",
    )


# What comes in. Custom arguments stand beside the event's own fields, under any name and of any kind: what
# is not of the kind that SendGrid would send is left to the original.


def _text(value: Any) -> Any:
    return value if isinstance(value, str) else None


def _number(value: Any) -> Any:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 16:
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _texts(value: Any) -> Any:
    return [part for part in (value if isinstance(value, list) else [value]) if isinstance(part, str)]


Text = Annotated[str | None, BeforeValidator(_text)]
Number = Annotated[int | None, BeforeValidator(_number)]


class _EventFields(BaseModel):
    event: str = Field(description="SendGrid's kind of event, such as bounce")
    sg_event_id: ProviderId | None = Field(default=None, description="The event's id")
    sg_message_id: Text = Field(
        default=None, description="The mail's id; it begins with the message_id that send_mail gave"
    )
    email: Text = Field(default=None, description="The recipient")
    timestamp: Number = Field(default=None, description="When it happened")
    smtp_id: Text = Field(default=None, description="The mail's Message-ID header")
    category: Annotated[list[str], BeforeValidator(_texts)] = Field(
        default=[], description="The mail's categories"
    )
    reason: Text = Field(default=None, description="Why it bounced or was dropped")
    response: Text = Field(default=None, description="What the receiving server said")
    status: Text = Field(default=None, description="The receiving server's code, such as 5.0.0")
    type: Text = Field(default=None, description="Of a bounce: bounce, for good, or blocked, for now")
    bounce_classification: Text = Field(default=None, description="Of a bounce: why, in SendGrid's terms")
    attempt: Number = Field(default=None, description="How often delivery was tried")
    ip: Text = Field(default=None, description="The sending or the recipient's address")
    useragent: Text = Field(default=None, description="The recipient's program")
    url: Text = Field(default=None, description="The link that was clicked")
    asm_group_id: Number = Field(default=None, description="The unsubscribe group")


class WebhookEvent(_EventFields):
    """One event of a batch."""

    smtp_id: Text = Field(default=None, alias="smtp-id")


class EventPayload(_EventFields):
    """An event, with what it has of these fields."""

    raw: dict[str, Any] = Field(description="The event as SendGrid sent it, custom arguments included")


# What actions take.


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Address(_Request):
    """An email address."""

    email: str = Field(min_length=3, description="The address")
    name: str | None = Field(default=None, description="The name beside it")


class Personalization(_Request):
    """One mail of many: who gets it, and what differs."""

    to: list[Address] = Field(min_length=1, description="Recipients, who see each other")
    cc: list[Address] | None = Field(default=None, description="Recipients of a copy")
    bcc: list[Address] | None = Field(default=None, description="Recipients whom nobody sees")
    from_: Address | None = Field(default=None, alias="from", description="Another sender of the same domain")
    subject: str | None = Field(default=None, min_length=1, description="Another subject")
    headers: dict[str, str] | None = Field(default=None, description="More headers")
    substitutions: dict[str, str] | None = Field(
        default=None, description="Texts and what to put in their place; not for dynamic templates"
    )
    dynamic_template_data: dict[str, Any] | None = Field(
        default=None, description="What a dynamic template is filled with"
    )
    custom_args: dict[str, str] | None = Field(default=None, description="Your own facts: events carry them")
    send_at: int | None = Field(default=None, description="When to send it: at most 72 hours ahead")


class Content(_Request):
    """A body."""

    type: str = Field(min_length=1, description="text/plain or text/html; plain text comes first")
    value: str = Field(min_length=1, description="The text")


class Attachment(_Request):
    """A file."""

    content: str = Field(min_length=1, repr=False, description="The content in base64")
    filename: str = Field(min_length=1, description="Name with extension")
    type: str | None = Field(default=None, min_length=1, description="MIME type, such as application/pdf")
    disposition: Literal["attachment", "inline"] | None = Field(
        default=None, description="Whether it is shown inside the text"
    )
    content_id: str | None = Field(default=None, description="Its name in the text: cid:<content_id>")

    @field_validator("content")
    @classmethod
    def _decodable(cls, value: str) -> str:
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("it is not standard base64 (A-Z a-z 0-9 + / with = padding)") from None
        return value


class UnsubscribeGroup(_Request):
    """How recipients unsubscribe."""

    group_id: int = Field(description="The unsubscribe group that the mail belongs to")
    groups_to_display: list[int] | None = Field(default=None, description="Groups to choose from; up to 25")


class Switch(_Request):
    """Something that is on or off."""

    enable: bool = Field(description="Whether it is on")


class MailSettings(_Request):
    """How the mail is handled."""

    sandbox_mode: Switch | None = Field(default=None, description="Only check the mail; nothing is sent")
    bypass_list_management: Switch | None = Field(
        default=None, description="Send to those, too, who unsubscribed: for emergencies"
    )


class TrackingSettings(_Request):
    """What is tracked."""

    click_tracking: Switch | None = Field(default=None, description="Clicks on links")
    open_tracking: Switch | None = Field(default=None, description="Openings, with an invisible picture")


class SendMail(_Request):
    """POST /v3/mail/send. One mail is described by `to`, `cc`, `bcc`; many by `personalizations`."""

    from_: Address = Field(alias="from", description="The sender, which has to be verified")
    to: list[Address] | None = Field(default=None, min_length=1, description="Recipients, who see each other")
    cc: list[Address] | None = Field(default=None, description="Recipients of a copy")
    bcc: list[Address] | None = Field(default=None, description="Recipients whom nobody sees")
    dynamic_template_data: dict[str, Any] | None = Field(
        default=None, description="What a dynamic template is filled with"
    )
    personalizations: list[Personalization] | None = Field(
        default=None, min_length=1, description="Many mails in one, instead of `to`; up to 1000"
    )
    reply_to: Address | None = Field(default=None, description="Where answers go")
    subject: str | None = Field(default=None, min_length=1, description="The subject; a template may have it")
    content: list[Content] | None = Field(default=None, min_length=1, description="The text; or a template")
    template_id: str | None = Field(default=None, description="A template instead of a text: d-...")
    attachments: list[Attachment] | None = Field(default=None, description="Files")
    headers: dict[str, str] | None = Field(default=None, description="More headers")
    categories: list[Annotated[str, Field(max_length=255)]] | None = Field(
        default=None, description="What statistics go by; up to 10"
    )
    custom_args: dict[str, str] | None = Field(default=None, description="Your own facts: events carry them")
    send_at: int | None = Field(default=None, description="When to send it: at most 72 hours ahead")
    batch_id: str | None = Field(default=None, description="A batch by which scheduled mails are cancelled")
    asm: UnsubscribeGroup | None = Field(default=None, description="How recipients unsubscribe")
    ip_pool_name: str | None = Field(default=None, description="The pool of addresses to send from")
    mail_settings: MailSettings | None = Field(default=None, description="How the mail is handled")
    tracking_settings: TrackingSettings | None = Field(default=None, description="What is tracked")

    @model_validator(mode="after")
    def _complete(self) -> "SendMail":
        if (self.to is None) == (self.personalizations is None):
            raise ValueError("give either to or personalizations")
        if self.to is None and (self.cc or self.bcc or self.dynamic_template_data):
            raise ValueError("cc, bcc and dynamic_template_data stand inside personalizations")
        if self.content is None and self.template_id is None:
            raise ValueError("give content or template_id")
        return self

    def body(self) -> dict[str, Any]:
        """As the API takes it, where one mail is a list of one."""
        whole: dict[str, Any] = self.model_dump(mode="json", by_alias=True, exclude_none=True)
        if self.to is not None:
            names = ("to", "cc", "bcc", "dynamic_template_data")
            whole["personalizations"] = [{name: whole.pop(name) for name in names if name in whole}]
        return whole


# What actions give.


class SentMail(BaseModel):
    """A mail that SendGrid took."""

    message_id: str | None = Field(
        description="Its id, with which sg_message_id of its events begins; null in sandbox mode"
    )
