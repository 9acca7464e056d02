"""A delivery as the platform carries it out, from a received request to events."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import orjson

from app.integrations.base import BaseIntegration, call
from app.integrations.models import Event
from app.integrations.requests import Reply, WebhookRequest

DEADLINE = 10.0
"""Seconds that a connector gets for one delivery; the platform gives it 30."""


class BadEvent(Exception):
    """What the connector returned is not what the contract says; the message says how."""


@dataclass(frozen=True)
class Delivered:
    """What became of a delivery."""

    events: Sequence[Event]
    reply: Reply | None = None

    @property
    def identities(self) -> list[tuple[str, str | None]]:
        return [(event.type, event.external_id) for event in self.events]


async def deliver(instance: BaseIntegration, request: WebhookRequest) -> Delivered:
    """Makes the events of a request that has been verified, and rid of credentials. Raises what the connector
    raises, BadEvent or TimeoutError."""
    async with asyncio.timeout(DEADLINE):
        if type(instance).receive is BaseIntegration.receive:
            made = [await call(instance.handle_webhook, item) for item in request.items]
            return Delivered([_checked(event, instance) for event in made])
        answer = await call(instance.receive, request)
    if isinstance(answer, Reply):
        if instance.reply_within is None:
            raise BadEvent("it returned a Reply without reply_within, when the sender has been answered")
        return Delivered([_checked(event, instance) for event in answer.events], answer)
    listed = answer if isinstance(answer, list | tuple) else [] if answer is None else [answer]
    return Delivered([_checked(event, instance) for event in listed])


def _checked(event: object, instance: BaseIntegration) -> Event:
    if not isinstance(event, Event):
        raise BadEvent(f"it returned a {type(event).__name__} instead of an Event")
    try:
        orjson.dumps(event.payload)
    except TypeError as error:
        raise BadEvent(f"the payload of {event.type} is not JSON ({type(error).__name__})") from None
    return event
