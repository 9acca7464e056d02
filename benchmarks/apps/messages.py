"""The benchmark's message as an application would model and store it."""

from typing import Any

from pydantic import BaseModel
from sqlalchemy import JSON
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Sender(BaseModel):
    id: int
    name: str
    locale: str
    is_bot: bool


class Channel(BaseModel):
    id: str
    kind: str
    title: str
    members: int


class Attachment(BaseModel):
    id: int
    kind: str
    name: str
    bytes: int


class Webhook(BaseModel):
    id: str
    type: str
    sent_at: str
    sender: Sender
    channel: Channel
    text: str
    tags: list[str]
    attachments: list[Attachment]
    metrics: dict[str, float]


class Stored(BaseModel):
    id: int


class Base(DeclarativeBase):
    pass


class Message(Base):
    __tablename__ = "messages"

    id: Mapped[int] = mapped_column(primary_key=True)
    external_id: Mapped[str] = mapped_column(index=True)
    type: Mapped[str]
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)


def message_of(webhook: Webhook) -> Message:
    return Message(external_id=webhook.id, type=webhook.type, payload=webhook.model_dump())
