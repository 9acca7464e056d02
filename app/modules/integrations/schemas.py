"""Integrations and connections as the API takes and shows them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.infra.clock import Instant
from app.integrations.specs import Limits


class SecretOut(BaseModel):
    """A secret that an integration needs."""

    name: str
    description: str
    required: bool
    generated: bool = Field(description="The platform makes a value if none is given")


class ActionSpecOut(BaseModel):
    """An action that an integration offers."""

    name: str
    description: str
    effect: Literal["once", "idempotent", "checkable"] = Field(
        description="What repeating it does: once (it happens again), idempotent (nothing more), "
        "checkable (the provider is asked first)"
    )
    reads: bool = Field(description="It only reads")
    destructive: bool = Field(description="It destroys something")
    payload_schema: dict[str, Any] = Field(description="JSON Schema of the payload")
    result_schema: dict[str, Any] | None = Field(description="JSON Schema of the result, if declared")


class EventSpecOut(BaseModel):
    """An event type that an integration emits."""

    name: str
    description: str
    unique_id: bool = Field(description="external_id alone identifies what happened")
    payload_schema: dict[str, Any] | None = Field(description="JSON Schema of the payload, if declared")


class PollSpecOut(BaseModel):
    """Something that an integration asks its provider for, again and again."""

    name: str
    every: float = Field(description="Seconds between two polls")
    deadline: float = Field(description="Seconds that one may take")


class LimitsOut(BaseModel):
    """How fast actions go."""

    concurrency: int = Field(description="Actions at the same time")
    rate: int | None = Field(description="Actions in `per` seconds, evenly spaced; null is no limit")
    per: float = Field(description="Seconds that the rate is for")

    @classmethod
    def of(cls, limits: Limits) -> "LimitsOut":
        return cls(concurrency=limits.concurrency, rate=limits.rate, per=limits.per)


class IntegrationOut(BaseModel):
    """An integration: what it declares, and whether it can be used."""

    key: str
    name: str
    version: str
    available: bool
    description: str = Field(description="First line of the connector's docstring")
    secrets: list[SecretOut]
    actions: list[ActionSpecOut]
    events: list[EventSpecOut]
    polls: list[PollSpecOut]
    limits: LimitsOut | None = Field(
        description="How fast a connection's actions go, unless it has limits of its own"
    )
    settings_schema: dict[str, Any] | None = Field(
        description="JSON Schema of the settings, if there are any"
    )
    receives: list[Literal["webhook", "poll"]] = Field(description="How events come in")
    verified: bool = Field(description="Webhooks carry a signature or token that is checked")
    verification: str | None = Field(
        description="What proves that a webhook is genuine, in words; null without webhooks"
    )


class BrokenOut(BaseModel):
    """A connector that cannot be used."""

    source: str
    reason: str
    remedy: str


class CatalogueOut(BaseModel):
    """Every integration, and the connectors that are broken."""

    items: list[IntegrationOut]
    next: None = None
    broken: list[BrokenOut]


class ConnectionRequest(BaseModel):
    """A new connection."""

    model_config = ConfigDict(extra="forbid")

    integration: str = Field(description="Key of the integration")
    name: str = Field(default="", max_length=200, description="A name for people; the key by default")
    secrets: dict[str, str] = Field(default_factory=dict, repr=False, description="Values of its secrets")
    settings: dict[str, Any] = Field(default_factory=dict, description="Its settings")
    enabled: bool = Field(default=True, description="Whether it takes webhooks, polls and acts")


class ConnectionChange(BaseModel):
    """What to change; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    name: str | None = Field(default=None, min_length=1, max_length=200)
    settings: dict[str, Any] | None = Field(default=None, description="Replaces all settings")
    enabled: bool | None = None


class RegistrationOut(BaseModel):
    """Whether the provider knows where to send webhooks."""

    state: Literal["none", "pending", "done", "failed"] = Field(
        description="none: nothing to tell, or no public address; pending; done; failed"
    )
    error: str | None = None


class ConnectionOut(BaseModel):
    """A connection. Its `state` says what keeps it from working, if anything does."""

    id: str
    tenant: str
    integration: str
    name: str
    enabled: bool
    state: Literal["ready", "disabled", "incomplete", "unavailable"] = Field(
        description="incomplete: a required secret has no value; unavailable: the connector is gone or broken"
    )
    missing_secrets: list[str]
    settings: dict[str, Any]
    webhook_url: str | None = Field(description="Where the provider sends webhooks: keep it to yourself")
    registration: RegistrationOut
    created_at: Instant
    updated_at: Instant


class CheckOut(BaseModel):
    """What the provider says about the credentials."""

    ok: bool | None = Field(description="null if the connector has no way to ask")
    code: str | None = Field(description="authentication_failed, not_checked, or why it could not be told")
    message: str


class RefusalOut(BaseModel):
    """A request that was turned away, without its content."""

    at: Instant
    code: str
    message: str
    headers: list[str] = Field(description="Names of the request's headers")
    length: int = Field(description="Bytes of body")


class SecretsRequest(BaseModel):
    """Values to set."""

    model_config = ConfigDict(extra="forbid")

    secrets: dict[str, str] = Field(min_length=1, repr=False, description="Values by name")
    keep_previous_for: int = Field(
        default=0,
        ge=0,
        le=30 * 24 * 3600,
        description="Seconds in which webhooks verified by the previous values are still accepted",
    )


class SecretInfoOut(BaseModel):
    """A secret that is set: never its value."""

    name: str
    version: int
    set_at: Instant | None


class RotateRequest(BaseModel):
    """How to rotate the webhook URL."""

    model_config = ConfigDict(extra="forbid")

    keep_previous_for: int = Field(
        default=24 * 3600,
        ge=0,
        le=30 * 24 * 3600,
        description="Seconds in which the previous URL still works",
    )
