"""What crosses the border between a connector and the platform."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Event(BaseModel):
    """A unified event that a connector made from one inbound item.

    `external_id` is the provider's own identifier of what happened. Without it no deduplication is
    claimed; see `EventSpec.unique_id` for what it means with it.
    """

    model_config = ConfigDict(extra="forbid")

    type: str = Field(description="One of the integration's declared event types")
    external_id: str | None = Field(
        default=None,
        max_length=512,
        pattern=r"^[^\x00]*$",  # PostgreSQL's text has no NUL
        description="The provider's identifier of what happened",
    )
    payload: dict[str, Any] = Field(default_factory=dict, description="The event's content")


class Action(BaseModel):
    """A requested outbound operation. `payload` is validated against the action's declared model."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(description="The name of one of the integration's declared actions")
    payload: dict[str, Any] = Field(default_factory=dict, description="The action's input")


@dataclass(frozen=True)
class Applied:
    """A probe's answer: the action has happened. `result` becomes the action's result."""

    result: Any = None


@dataclass(frozen=True)
class NotApplied:
    """A probe's answer: the action has not happened and cannot happen any more by an earlier try."""


@dataclass(frozen=True)
class CannotTell:
    """A probe's answer: the provider does not say. It is asked again later."""


ProbeAnswer = Applied | NotApplied | CannotTell
