"""What comes in from Amazon SES through SNS.

Names are those of the notifications
(https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html), written in small
letters in events. Times are ISO 8601 in UTC.
"""

from typing import Any

from pydantic import BaseModel, Field

from app.integrations.inbound import ProviderId


class SnsMessage(BaseModel):
    """The envelope, already verified."""

    Type: str
    MessageId: ProviderId
    TopicArn: str
    Message: str
    Timestamp: str
    Subject: str | None = None
    SubscribeURL: str = ""


class Kind(BaseModel):
    """What tells notifications apart: event publishing and identity notifications name it differently."""

    eventType: Any = None  # noqa: N815 - as SES writes it
    notificationType: Any = None  # noqa: N815

    @property
    def kind(self) -> str:
        value = self.eventType or self.notificationType
        return value if isinstance(value, str) else ""


class CommonHeaders(BaseModel):
    """What people read of a mail's head."""

    subject: str | None = None


class Mail(BaseModel):
    """The mail that it is about."""

    messageId: str  # noqa: N815
    timestamp: str | None = None
    source: str | None = None
    destination: list[str] = []
    commonHeaders: CommonHeaders = CommonHeaders()  # noqa: N815
    tags: dict[str, list[str]] = {}


class Recipient(BaseModel):
    """Somebody whose copy it is about."""

    emailAddress: str | None = None  # noqa: N815
    status: str | None = None
    diagnosticCode: str | None = None  # noqa: N815


class Details(BaseModel):
    """What stands under the kind's own name; each kind has some of these."""

    timestamp: str | None = None
    recipients: list[str] = []
    bouncedRecipients: list[Recipient] = []  # noqa: N815
    complainedRecipients: list[Recipient] = []  # noqa: N815
    delayedRecipients: list[Recipient] = []  # noqa: N815
    bounceType: str | None = None  # noqa: N815
    bounceSubType: str | None = None  # noqa: N815
    complaintFeedbackType: str | None = None  # noqa: N815
    complaintSubType: str | None = None  # noqa: N815
    feedbackId: str | None = None  # noqa: N815
    smtpResponse: str | None = None  # noqa: N815
    processingTimeMillis: int | None = None  # noqa: N815
    delayType: str | None = None  # noqa: N815
    expirationTime: str | None = None  # noqa: N815
    reason: str | None = None
    errorMessage: str | None = None  # noqa: N815
    templateName: str | None = None  # noqa: N815
    ipAddress: str | None = None  # noqa: N815
    userAgent: str | None = None  # noqa: N815
    link: str | None = None

    @property
    def affected(self) -> list[Recipient]:
        return self.bouncedRecipients or self.complainedRecipients or self.delayedRecipients


class Notification(BaseModel):
    """A notification of one of the named kinds."""

    mail: Mail
    send: Details | None = None
    delivery: Details | None = None
    bounce: Details | None = None
    complaint: Details | None = None
    reject: Details | None = None
    failure: Details | None = None
    deliveryDelay: Details | None = None  # noqa: N815
    open: Details | None = None
    click: Details | None = None
    subscription: Details | None = None

    def flat(self) -> dict[str, Any]:
        named = (
            self.send,
            self.delivery,
            self.bounce,
            self.complaint,
            self.reject,
            self.failure,
            self.deliveryDelay,
            self.open,
            self.click,
            self.subscription,
        )
        details = next((one for one in named if one is not None), Details())
        named_recipients = [one.emailAddress for one in details.affected if one.emailAddress]
        return {
            "message_id": self.mail.messageId,
            "timestamp": details.timestamp or self.mail.timestamp,
            "source": self.mail.source,
            "subject": self.mail.commonHeaders.subject,
            "recipients": details.recipients or named_recipients or self.mail.destination,
            "tags": self.mail.tags,
            "bounce_type": details.bounceType,
            "bounce_sub_type": details.bounceSubType,
            "complaint_feedback_type": details.complaintFeedbackType,
            "complaint_sub_type": details.complaintSubType,
            "feedback_id": details.feedbackId,
            "diagnostic_codes": [one.diagnosticCode for one in details.affected if one.diagnosticCode],
            "smtp_response": details.smtpResponse,
            "processing_time_millis": details.processingTimeMillis,
            "delay_type": details.delayType,
            "expiration_time": details.expirationTime,
            "reason": details.reason or details.errorMessage,
            "template_name": details.templateName,
            "ip_address": details.ipAddress,
            "user_agent": details.userAgent,
            "link": details.link,
        }


# Event payloads.


class EmailPayload(BaseModel):
    """What every event about a mail has."""

    kind: str = Field(description="eventType or notificationType as SES wrote it, such as Bounce")
    sns_message_id: str = Field(description="The id of the SNS message, the same when it is repeated")
    message_id: str = Field(description="The mail's id at SES, as sending gave it")
    timestamp: str | None = Field(description="When it happened")
    source: str | None = Field(description="The envelope's sender")
    subject: str | None = Field(description="The mail's subject, if headers are included")
    recipients: list[str] = Field(
        description="Whose copies it is about; if SES does not say, all recipients of the mail"
    )
    tags: dict[str, list[str]] = Field(description="Message tags, ses:configuration-set among them")
    raw: dict[str, Any] = Field(description="The notification as SES published it")


class DeliveryPayload(EmailPayload):
    """A delivery."""

    smtp_response: str | None = Field(description="What the receiving server said")
    processing_time_millis: int | None = Field(description="Milliseconds from SES to that server")


class BouncePayload(EmailPayload):
    """A bounce."""

    bounce_type: str | None = Field(description="Permanent, Transient or Undetermined")
    bounce_sub_type: str | None = Field(description="Such as General, NoEmail, Suppressed, MailboxFull")
    feedback_id: str | None = Field(description="The bounce's own id")
    diagnostic_codes: list[str] = Field(description="What the receiving servers said")


class ComplaintPayload(EmailPayload):
    """A complaint. Providers hide who complained: recipients are all at that provider."""

    complaint_feedback_type: str | None = Field(description="Such as abuse, fraud, not-spam")
    complaint_sub_type: str | None = Field(description="OnAccountSuppressionList, or null")
    feedback_id: str | None = Field(description="The complaint's own id")


class FailurePayload(EmailPayload):
    """A mail that was never sent."""

    reason: str | None = Field(description="Why: Bad content, or what the template lacks")
    template_name: str | None = Field(description="The template that could not be filled in")


class DelayPayload(EmailPayload):
    """A delay."""

    delay_type: str | None = Field(description="Such as MailboxFull, TransientCommunicationFailure")
    expiration_time: str | None = Field(description="When SES will give up")
    diagnostic_codes: list[str] = Field(description="What the receiving servers said")


class OpenPayload(EmailPayload):
    """Something that a recipient did."""

    ip_address: str | None = Field(description="The recipient's address")
    user_agent: str | None = Field(description="The recipient's program")
    link: str | None = Field(description="The link that was clicked")


class NotificationPayload(BaseModel):
    """Anything else."""

    kind: str = Field(description="What it says it is, such as Received or UnsubscribeConfirmation")
    sns_message_id: str = Field(description="The id of the SNS message")
    timestamp: str = Field(description="When it was published")
    subject: str | None = Field(description="The subject that it was published with")
    text: str | None = Field(description="What was published, if it is not a JSON object")
    raw: dict[str, Any] = Field(description="What was published, if it is a JSON object")
