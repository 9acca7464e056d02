"""Webhooks as the API shows them."""

from typing import Literal

from pydantic import BaseModel, Field

from app.infra.clock import Instant

from .models import Webhook


class WebhookOut(BaseModel):
    """A stored inbound request or polled item, without its content."""

    id: str
    state: Literal["received", "answering", "processed", "failed"] = Field(
        description="received: waiting; answering: its sender waits for the reply; processed; failed"
    )
    source: Literal["webhook", "poll"]
    integration: str
    connection: str
    received_at: Instant
    processed_at: Instant | None
    tries: int = Field(description="How often it was processed")
    reason_code: str | None = Field(description="Why it failed, as a stable code")
    reason: str | None = Field(description="Why it failed, in words")

    @classmethod
    def of(cls, row: Webhook) -> "WebhookOut":
        return cls.model_validate(_fields(row))


class WebhookDetail(WebhookOut):
    """A stored inbound request with its content. Headers that carry credentials are left out."""

    method: str
    query: str
    headers: list[tuple[str, str]]
    body: str | None = Field(description="The body as text, if it is UTF-8")
    body_base64: str | None = Field(description="The body in base64, if it is not")
    events: list[str] = Field(description="Ids of the events that were made of it")


def _fields(row: Webhook) -> dict[str, object]:
    return {
        "id": row.id,
        "state": row.state,
        "source": row.source,
        "integration": row.integration,
        "connection": row.connection_id,
        "received_at": row.received_at,
        "processed_at": row.processed_at,
        "tries": row.tries,
        "reason_code": row.reason_code,
        "reason": row.reason,
    }
