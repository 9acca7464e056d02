"""C06, C08 and C09: what a connector makes of what comes in."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from unittest.mock import patch

from pydantic import BaseModel, ValidationError

from app.integrations.base import BaseIntegration, TriedToEnd
from app.integrations.errors import InboundError, KeyUnavailable, Refused
from app.integrations.requests import WebhookRequest

from .connection import MadeUpConnection, NotBuilt, made_up_connection, place
from .delivery import DEADLINE, BadEvent, Delivered, deliver
from .fixtures import Fixture, UnreadableFixture, request_of, stray_headers
from .garbage import requests_of_garbage
from .genuine import NOW
from .model import Finding, Level, NotApplicable
from .subject import ConnectorUnderTest

RETRY_DELAY = 37
"""Seconds after which a provider sends the same again."""

_MOST_KINDS = 5
_SLOW = f"it takes longer than {DEADLINE:g} s"


def events_have_fixtures(subject: ConnectorUnderTest) -> Iterator[Finding]:
    """C06."""
    connector = subject.connector
    if not connector.events and not subject.fixtures:
        raise NotApplicable("it declares no events")
    declared = {spec.name for spec in connector.events}
    named = {fixture.event for fixture in subject.fixtures}
    for event in sorted(declared - named):
        where = subject.shown(subject.tests, "fixtures", f"{event}.json")
        yield Finding(f"event {event} has no fixture.", f"Add {where}.", about=event)
    for fixture in subject.fixtures:
        if fixture.event not in declared:
            yield Finding(
                f"fixture {fixture.name} is named after no declared event.",
                "Rename it to <event>[__variant], declare the event, or begin its name with _ if it is for "
                "tests of its own.",
                about=fixture.event,
            )
    if subject.tests is not None:
        for path in stray_headers(subject.tests / "fixtures"):
            yield Finding(f"{path.name} has no body beside it.", "Give both the same name.", about=path.name)
    for fixture in subject.fixtures:
        if fixture.event in declared:
            yield from asyncio.run(_delivered_as_named(subject, fixture))


def garbage_is_refused_well(subject: ConnectorUnderTest) -> Iterator[Finding]:
    """C08."""
    if not subject.has_webhooks:
        raise NotApplicable("it takes no webhooks")
    problems = asyncio.run(_problems_with_garbage(subject))
    for problem in problems[:_MOST_KINDS]:
        yield Finding(
            f"{problem.what} for {problem.example}.",
            "Validate an envelope model before looking into the payload, and raise InvalidBody.",
            about=problem.about,
            level=problem.level,
        )


def same_delivery_same_id(subject: ConnectorUnderTest) -> Iterator[Finding]:
    """C09."""
    if not subject.fixtures:
        raise NotApplicable("it has no fixtures")
    for fixture in subject.fixtures:
        yield from asyncio.run(_same_twice(subject, fixture))
    yield from asyncio.run(_shared_ids(subject))


async def _delivered_as_named(subject: ConnectorUnderTest, fixture: Fixture) -> list[Finding]:
    connector = subject.connector
    try:
        delivered = await _deliver(subject, fixture)
    except NotBuilt:
        raise
    except Exception as error:  # noqa: BLE001 - the question is whether it can be used
        return [_unusable(fixture, error, connector)]
    found: list[Finding] = []
    types = {event.type for event in delivered.events}
    if fixture.event not in types:
        made = ", ".join(sorted(types)) or "nothing"
        found.append(
            Finding(
                f"fixture {fixture.name} does not become {fixture.event} but {made}.",
                "Correct the connector, or rename the fixture.",
                about=fixture.event,
            )
        )
    for event in delivered.events:
        spec = connector.event_spec(event.type)
        if spec is None:
            found.append(
                Finding(
                    f"fixture {fixture.name} becomes {event.type}, which is not declared.",
                    f"Add EventSpec(name='{event.type}', description=...) to events.",
                    about=event.type,
                    level="contract",
                )
            )
            continue
        if spec.model is not None and (fields := _misfits(event.payload, spec.model)):
            found.append(
                Finding(
                    f"the payload made of {fixture.name} does not fit {spec.model.__name__} ({fields}).",
                    "Correct the payload or the model.",
                    about=event.type,
                )
            )
    return found


async def _same_twice(subject: ConnectorUnderTest, fixture: Fixture) -> list[Finding]:
    first = await _identities(subject, fixture)
    with patch.object(time, "time", lambda: NOW + RETRY_DELAY):
        again = await _identities(subject, fixture, now=NOW + RETRY_DELAY)
    if first == again:
        return []
    return [
        Finding(
            f"fixture {fixture.name}, delivered again, becomes other events or other ids.",
            "Take external_id from what stays the same when the provider sends again: not from the time, "
            "the signature or chance.",
            about=fixture.event,
        )
    ]


async def _shared_ids(subject: ConnectorUnderTest) -> list[Finding]:
    """Ids that would make one event of two: `unique_id` says that nothing else has to be looked at."""
    found: list[Finding] = []
    owners: dict[tuple[str, str], Fixture] = {}
    for fixture in subject.fixtures:
        for kind, external_id in dict.fromkeys(await _identities(subject, fixture)):
            spec = subject.connector.event_spec(kind)
            if external_id is None or spec is None or not spec.unique_id:
                continue
            owner = owners.setdefault((kind, external_id), fixture)
            if owner is not fixture and owner.body != fixture.body:
                found.append(
                    Finding(
                        f"fixtures {owner.name} and {fixture.name} become {kind} with the same id, which is "
                        "declared unique: the second would be dropped.",
                        "Take unique_id=True away, or give the fixtures the ids that two deliveries have.",
                        about=kind,
                        level="quality",
                    )
                )
    return found


async def _identities(
    subject: ConnectorUnderTest, fixture: Fixture, now: float = NOW
) -> list[tuple[str, str | None]]:
    try:
        return (await _deliver(subject, fixture, now)).identities
    except NotBuilt:
        raise
    except Exception:  # noqa: BLE001 - C06 says it
        return []


async def _deliver(subject: ConnectorUnderTest, fixture: Fixture, now: float = NOW) -> Delivered:
    """A genuine delivery to a new instance."""
    connection = made_up_connection(subject)
    request = connection.signed(request_of(subject.connector, fixture), now)
    async with connection.instance() as instance:
        return await deliver(instance, connection.received(request))


def _unusable(fixture: Fixture, error: Exception, connector: type[BaseIntegration]) -> Finding:
    if isinstance(error, UnreadableFixture):
        what = f"{error}."
    elif isinstance(error, InboundError):
        what = f"fixture {fixture.name} is refused ({error.code}: {error})."
    elif isinstance(error, BadEvent):
        return Finding(
            f"fixture {fixture.name}: {error}.", "Correct the handler.", about=fixture.event, level="contract"
        )
    else:
        what = f"fixture {fixture.name} ends in {type(error).__name__}{place(error, connector)}."
    return Finding(what, "Correct the connector or the fixture.", about=fixture.event)


def _misfits(payload: dict[str, object], model: type[BaseModel]) -> str:
    try:
        model.model_validate(payload)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)[:5]
        return ", ".join(".".join(map(str, problem["loc"])) or "payload" for problem in problems)
    return ""


@dataclass(frozen=True)
class _Problem:
    what: str
    example: str
    about: str
    level: Level | None = None


async def _problems_with_garbage(subject: ConnectorUnderTest) -> list[_Problem]:
    connector = subject.connector
    connection = made_up_connection(subject)
    genuine = [
        connection.signed(request_of(connector, fixture))
        for fixture in subject.fixtures
        if fixture.is_readable
    ]
    found: dict[str, _Problem] = {}
    async with connection.instance() as instance:
        for request in requests_of_garbage(connector, genuine):
            for problem in (
                _judged(connection, request),
                await _handled(instance, connection.received(request)),
            ):
                if problem is not None:
                    found.setdefault(problem.what, problem)
            if _SLOW in found:
                break  # the next would take as long
    return list(found.values())


def _judged(connection: MadeUpConnection, request: WebhookRequest) -> _Problem | None:
    """Verification has to bear anything too: nobody is asked who they are before it."""
    if connection.verification is None:
        return None
    try:
        connection.verification.verify(request, connection.sender.live(), NOW)
    except (Refused, KeyUnavailable):
        return None
    except Exception as error:  # noqa: BLE001 - the question is what it raises
        return _raised("verification", error, connection.integration.connector, request, "contract")
    return None


async def _handled(instance: BaseIntegration, request: WebhookRequest) -> _Problem | None:
    try:
        await deliver(instance, request)
    except (InboundError, ValidationError, asyncio.CancelledError):
        return None
    except TimeoutError:
        return _Problem(_SLOW, _shown(request), "TimeoutError", "contract")
    except BadEvent as error:
        return _Problem(str(error), _shown(request), "Event")
    except TriedToEnd as error:
        return _raised("it", error.original, type(instance), request, "contract")
    except Exception as error:  # noqa: BLE001 - the question is what a connector raises
        return _raised("it", error, type(instance), request)
    return None


def _raised(
    what: str,
    error: BaseException,
    connector: type[BaseIntegration],
    request: WebhookRequest,
    level: Level | None = None,
) -> _Problem:
    kind = type(error).__name__
    return _Problem(f"{what} raises {kind}{place(error, connector)}", _shown(request), kind, level)


def _shown(request: WebhookRequest) -> str:
    body = request.body
    return f"the body {body[:100]!r}{'…' if len(body) > 100 else ''}"
