"""Polls as the API shows them."""

from pydantic import BaseModel, Field

from app.infra.clock import Instant

from .models import PollState


class PollOut(BaseModel):
    """How a poll is doing."""

    name: str
    polled_at: Instant | None = Field(description="Last success")
    failures: int = Field(description="Failures since the last success")
    error_code: str | None
    error: str | None

    @classmethod
    def of(cls, row: PollState) -> "PollOut":
        return cls(
            name=row.name,
            polled_at=row.polled_at,
            failures=row.failures,
            error_code=row.error_code,
            error=row.error,
        )
