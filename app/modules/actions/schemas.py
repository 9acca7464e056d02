"""Actions as the API takes and shows them."""

from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from app.infra.clock import Instant

from .models import ActionRow, Attempt

State = Literal["queued", "running", "succeeded", "failed", "unknown", "cancelled"]


class ActionRequest(BaseModel):
    """A requested outbound operation."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(max_length=200, description="Name of one of the integration's actions")
    payload: dict[str, Any] = Field(default_factory=dict, repr=False, description="Its input")


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


class ActionOut(BaseModel):
    """An action and what became of it.

    succeeded: the provider did it. failed: it did not happen. unknown: it may have happened, and repeating
    it might do it twice; somebody has to look. cancelled: it was never tried.
    """

    id: str
    type: str
    state: State
    result: Any = Field(description="What the connector returned, once succeeded")
    warning: str | None
    error: ErrorOut | None
    attempts: list[AttemptOut]
    integration: str
    connection: str
    effect: Literal["once", "idempotent", "checkable"]
    created_at: Instant
    run_at: Instant
    finished_at: Instant | None

    @classmethod
    def of(cls, row: ActionRow, attempts: list[Attempt]) -> "ActionOut":
        return cls.model_validate(
            {
                "id": row.id,
                "type": row.type,
                "state": row.state,
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
                    }
                    for attempt in attempts
                ],
                "integration": row.integration,
                "connection": row.connection_id,
                "effect": row.effect,
                "created_at": row.created_at,
                "run_at": row.run_at,
                "finished_at": row.finished_at,
            }
        )


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def _error(code: str | None, message: str | None) -> dict[str, str] | None:
    return None if code is None else {"code": code, "message": message or ""}
