"""Actions as the API takes and shows them."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from app.infra.clock import Instant
from app.modules.integrations.schemas import LimitsOut

from .gates import GateState
from .models import ActionRow, Attempt

State = Literal["queued", "running", "succeeded", "failed", "unknown", "cancelled"]


_HOW_TO_WRITE = "write it as RFC 3339 does, with its time zone, such as 2027-01-01T09:00:00Z"


def _written(value: object) -> object:
    if not isinstance(value, str) or ":" not in value:
        raise ValueError(_HOW_TO_WRITE)
    return value


def _in_utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError(_HOW_TO_WRITE)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise ValueError("in UTC it is not within the years 1 to 9999") from None


Moment = Annotated[datetime, BeforeValidator(_written), AfterValidator(_in_utc)]
"""A time as callers write it. A number is none: by its size it would be taken for seconds or milliseconds."""


class ActionRequest(BaseModel):
    """A requested outbound operation."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(max_length=200, description="Name of one of the integration's actions")
    payload: dict[str, Any] = Field(default_factory=dict, repr=False, description="Its input")
    run_at: Moment | None = Field(default=None, description="Not before then; at once without it")
    deadline: Moment | None = Field(
        default=None, description="No try after then; without it, the platform's action_lifetime after run_at"
    )


class ResolveRequest(BaseModel):
    """What somebody found out about an unknown action."""

    model_config = ConfigDict(extra="forbid")

    state: Literal["succeeded", "failed"] = Field(description="What became of it")
    note: str = Field(default="", max_length=500, description="How that is known")


class ErrorOut(BaseModel):
    """Why an action did not succeed."""

    code: str
    message: str


class AttemptOut(BaseModel):
    """One try."""

    number: int
    state: Literal["open", "succeeded", "failed", "unknown"]
    sent: bool | None = Field(
        description="Whether anything with an effect may have left; null if nobody can tell any more"
    )
    status: int | None = Field(description="HTTP status of the provider's answer, if there was one")
    error: ErrorOut | None
    retry_after: float | None = Field(description="Seconds that the provider asked to wait, if it did")
    started_at: Instant
    finished_at: Instant | None
    duration: float | None = Field(description="Seconds that it took")


class ActionOut(BaseModel):
    """An action and what became of it.

    succeeded: the provider did it. failed: it did not happen. unknown: it may have happened, and repeating
    it might do it twice; somebody has to look. cancelled: it did not happen. While it is queued after a try,
    `error` is what that try met and `run_at` when the next one is due.
    """

    id: str
    type: str
    state: State
    waiting: Literal["time", "retry", "slot", "rate", "provider"] | None = Field(
        description="What a queued action waits for: its run_at; the next try; a free slot, or its turn, by "
        "the connection's limits; the provider, which is down or has asked for a pause"
    )
    result: Any = Field(description="What the connector returned, once succeeded")
    warning: str | None
    error: ErrorOut | None
    attempts: list[AttemptOut]
    integration: str
    connection: str
    effect: Literal["once", "idempotent", "checkable"]
    created_at: Instant
    run_at: Instant
    deadline: Instant = Field(description="No try begins after then")
    finished_at: Instant | None

    @classmethod
    def of(cls, row: ActionRow, attempts: list[Attempt]) -> "ActionOut":
        return cls.model_validate(
            {
                "id": row.id,
                "type": row.type,
                "state": row.state,
                "waiting": row.waiting,
                "result": None if row.result is None else orjson.loads(row.result),
                "warning": row.warning,
                "error": _error(row.error_code, row.error),
                "attempts": [
                    {
                        "number": attempt.number,
                        "state": attempt.state,
                        "sent": attempt.sent,
                        "status": attempt.status,
                        "error": _error(attempt.error_code, attempt.error),
                        "retry_after": _seconds(attempt.retry_after_ms),
                        "started_at": attempt.started_at,
                        "finished_at": attempt.finished_at,
                        "duration": _duration(attempt),
                    }
                    for attempt in attempts
                ],
                "integration": row.integration,
                "connection": row.connection_id,
                "effect": row.effect,
                "created_at": row.created_at,
                "run_at": row.run_at,
                "deadline": row.deadline,
                "finished_at": row.finished_at,
            }
        )


class LimitsRequest(BaseModel):
    """A connection's own limits, instead of its connector's."""

    model_config = ConfigDict(extra="forbid")

    concurrency: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Actions at the same time; without it, as the connector says",
    )
    rate: int | None = Field(
        default=None, ge=1, le=1_000_000, description="Actions in `per` seconds; without it, no limit"
    )
    per: float = Field(default=1.0, gt=0, le=86_400, description="Seconds that the rate is for")

    @model_validator(mode="after")
    def _not_too_fast(self) -> Self:
        # What GET shows, rate null and a per, may be sent back.
        if "per" in self.model_fields_set and "rate" not in self.model_fields_set:
            raise ValueError("per says what rate is for: give rate too, or leave both out for no rate")
        if self.rate is not None and self.rate / self.per > 10_000:
            raise ValueError("more than 10,000 a second is no limit: leave rate out")
        return self


class GateOut(BaseModel):
    """What lets a connection's actions through, and what holds them back."""

    state: GateState = Field(
        description="open; paused: nothing is tried until paused_until; trying: one action at a time, to see "
        "whether the provider is back"
    )
    reason: Literal["provider_down", "rate_limited"] | None = Field(description="Why it is not open")
    paused_until: Instant | None
    outages: int = Field(description="Attempts in a row that found the provider down")
    running: int = Field(description="Actions that are being tried")
    queued: int = Field(description="Actions that wait")
    limits: LimitsOut = Field(description="What is in force")
    declared: LimitsOut = Field(description="What the connector declares")


def _duration(attempt: Attempt) -> float | None:
    if attempt.finished_at is None:
        return None
    return max(attempt.finished_at - attempt.started_at, 0) / 1000


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _error(code: str | None, message: str | None) -> dict[str, str] | None:
    return None if code is None else {"code": code, "message": message or ""}
