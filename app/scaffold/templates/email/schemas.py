"""What comes in from Acme, and what each action takes."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.integrations.files import FileUpload
from app.integrations.inbound import ProviderId
from app.integrations.urls import BaseUrl

Address = Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$", examples=["ann@example.com"])]


class AcmeSettings(BaseModel):
    """Configuration of a connection that is not secret."""

    model_config = ConfigDict(extra="forbid")

    base_url: BaseUrl = Field(
        default="https://api.acme.example",
        description="Address of the API, or of a stand-in",
    )


# What comes in.


# <inbound models>
class MailPayload(BaseModel):
    """What became of a mail."""

    message_id: str = Field(description="The mail, as `send_email` returned it")
    recipient: str = Field(description="The address that it is about")
    at: str = Field(description="When it happened, RFC 3339")


class BouncedPayload(MailPayload):
    """A mail came back."""

    reason: str | None = Field(default=None, description="What the recipient's server said")
    permanent: bool = Field(default=False, description="Whether trying again is of no use")


class Notification(BouncedPayload):
    """A webhook: the fields that events are made of."""

    event_id: ProviderId = Field(description="The notification; the same if it is sent again")
    event: Literal["delivered", "bounced"] = Field(description="What happened")


# </inbound>
# Actions.


class SendEmail(BaseModel):
    """A mail."""

    model_config = ConfigDict(extra="forbid")

    sender: Address = Field(description="Who it is from: an address that is known to be yours")
    to: list[Address] = Field(min_length=1, description="Who gets it")
    subject: str = Field(min_length=1, description="The subject")
    text: str = Field(min_length=1, description="The text")
    html: str | None = Field(default=None, description="The same as HTML")
    reply_to: Address | None = Field(default=None, description="Where answers go")
    attachments: list[FileUpload] = Field(default=[], description="Files that go with it")


class SentEmail(BaseModel):
    """A mail that was accepted."""

    message_id: str = Field(description="The mail, as its events name it")
