"""What a connector declares: plain values, checked once at registration."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

Effect = Literal["once", "idempotent", "checkable"]
"""What repeating an action would do.

once        it would happen again: at most one try may have reached the provider
idempotent  the provider recognises the repetition by a key that stays the same
checkable   the provider can be asked whether it happened (`ActionSpec.probe`)
"""


@dataclass(frozen=True)
class SecretSpec:
    """A secret that the connector needs.

    Every declared secret is taken by the constructor (a parameter of the same name) or named by
    `verification`. `generate` lets the platform make the value when nobody gives one, for secrets
    that both sides only have to agree on, such as a webhook secret.
    """

    name: str
    description: str
    required: bool = True
    generate: bool = False


@dataclass(frozen=True)
class ActionSpec:
    """An outbound action: `handler` names the method that takes one validated `model` instance.

    `probe`, for the effect checkable, names a method that takes the same instance, asks the provider whether
    the action has happened, and returns Applied, NotApplied or CannotTell (`app.integrations.models`).
    `reads` says that it changes nothing, so that it may be repeated whatever became of the last try.
    """

    name: str
    description: str
    model: type[BaseModel]
    handler: str
    effect: Effect = "once"
    probe: str | None = None
    result: type[BaseModel] | None = None
    reads: bool = False
    destructive: bool = False


@dataclass(frozen=True)
class Limits:
    """How fast a connection's actions may go, by what the provider publishes. They delay, they do not fail.

    concurrency  actions at the same time
    rate, per    at most `rate` actions in `per` seconds, evenly spaced; None is no limit
    """

    concurrency: int = 10
    rate: int | None = None
    per: float = 1.0

    def __post_init__(self) -> None:
        if self.concurrency < 1 or (self.rate is not None and self.rate < 1) or not 0 < self.per <= 86_400:
            raise ValueError("limits are at least 1, and `per` is at most a day of seconds")

    @property
    def interval(self) -> float:
        """Seconds between two actions."""
        return 0.0 if self.rate is None else self.per / self.rate


@dataclass(frozen=True)
class EventSpec:
    """An event type that the integration can emit, named `<key>.<noun>.<past tense>`.

    `unique_id=True` says that `external_id` alone identifies what happened, everywhere and forever
    (Telegram's update_id, Stripe's evt_...): a second event with it is a duplicate even if its content
    differs. Otherwise a duplicate has the same id and the same content. `model` describes the payload.
    """

    name: str
    description: str
    model: type[BaseModel] | None = None
    unique_id: bool = False


@dataclass(frozen=True)
class PollSpec:
    """A source that is asked instead of telling.

    `handler` names a method `async (cursor: str | None) -> tuple[list[dict], str | None]` that returns
    the new items and where to go on. The first call gets None. Items are stored like webhooks; items,
    events and cursor are one transaction, so a crash repeats a poll but neither loses nor doubles an
    event. `every` is the pause between two polls in seconds, skipped while items keep coming; `deadline`
    is how long one poll may take, which a long poll needs to say.
    """

    name: str
    every: float
    handler: str
    deadline: float = 60.0
