"""Events as the API shows them."""

from typing import Any

import orjson
from pydantic import BaseModel, Field

from app.infra.clock import Instant, rfc3339

from .service import FeedItem


class EventOut(BaseModel):
    """A unified event. `cursor` is its place in the feed."""

    id: str
    type: str
    external_id: str | None
    payload: dict[str, Any]
    integration: str
    connection: str
    webhook: str = Field(description="The stored webhook that it was made of")
    conflicting: bool = Field(description="The same external_id came before with other content")
    received_at: Instant
    cursor: str


def event_json(row: FeedItem) -> dict[str, Any]:
    """An event in the shape of EventOut. The payload goes out as it is stored, without being parsed."""
    return {
        "id": row.id,
        "type": row.type,
        "external_id": row.external_id,
        "payload": orjson.Fragment(row.payload),
        "integration": row.integration,
        "connection": row.connection_id,
        "webhook": row.webhook_id,
        "conflicting": row.conflicting,
        "received_at": rfc3339(row.received_at),
        "cursor": str(row.seq),
    }
