"""What comes in from Acme, and what each action takes."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.integrations.inbound import ProviderId
from app.integrations.urls import BaseUrl


class AcmeSettings(BaseModel):
    """Configuration of a connection that is not secret."""

    model_config = ConfigDict(extra="forbid")

    base_url: BaseUrl = Field(
        default="https://api.acme.example",
        description="Address of the API, or of a stand-in",
    )


# What comes in.


# <inbound models>
class Sender(BaseModel):
    """Who wrote."""

    id: ProviderId = Field(description="The person")
    name: str | None = Field(default=None, description="As others see it")


class MessagePayload(BaseModel):
    """A message; its ids are what `reply_to_message` takes."""

    message_id: ProviderId = Field(description="The message")
    chat_id: ProviderId = Field(description="The chat that it is in")
    sender: Sender = Field(description="Who wrote it")
    text: str | None = Field(default=None, description="The text; null if it is a picture, say")
    sent_at: str = Field(description="When it was written, RFC 3339")


class Notification(BaseModel):
    """A webhook: the fields that events are made of."""

    id: ProviderId = Field(description="The notification; the same if it is sent again")
    type: Literal["message.received"] = Field(description="What happened")
    message: MessagePayload = Field(description="The message")


# </inbound>
# Actions.


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SendMessage(_Input):
    """A new message."""

    chat_id: str = Field(min_length=1, description="The chat")
    text: str = Field(min_length=1, description="The text")


class ReplyToMessage(SendMessage):
    """An answer to a message."""

    message_id: str = Field(min_length=1, description="The message that is answered")


class SentMessage(BaseModel):
    """A message that was sent."""

    message_id: str = Field(description="The new message")
    chat_id: str = Field(description="The chat that it is in")
