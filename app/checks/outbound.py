"""C10 and C12: what actions make of a provider's failures, and that they go no other way than HTTP."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import httpx2

from app.integrations.base import BaseIntegration, call
from app.integrations.errors import (
    AuthenticationFailed,
    IntegrationError,
    NotSent,
    ProviderError,
    RateLimited,
    Rejected,
    Unavailable,
)
from app.integrations.http import AttemptTrace, current_attempt
from app.integrations.models import Action
from app.integrations.specs import ActionSpec

from .connection import FILE, MadeUpConnection, made_up_connection, place
from .delivery import DEADLINE
from .examples import payloads_for
from .model import Finding, NotApplicable
from .standin import Answer, StandIn, always, breaking
from .subject import ConnectorUnderTest

Payloads = dict[str, dict[str, Any]]
"""By action; an action for which none can be made up is missing."""

RETRY_AFTER = 7
_MOST_CANDIDATES = 40
_OUTAGE_WORDS = b'{"error": "unauthorized", "message": "invalid API key"}'
_PAGE = b"<html><body><h1>Something is wrong</h1></body></html>"


@dataclass(frozen=True)
class Request:
    """Something that a connector asks its provider for; `repeatable` if it may be asked again."""

    name: str
    ask: Callable[[], Awaitable[Any]]
    repeatable: bool = False
    is_action: bool = False


@dataclass(frozen=True)
class Case:
    """A failure of the provider, and the errors that say so."""

    name: str
    answer: Answer
    expected: tuple[type[ProviderError], ...]
    outage: bool = False
    may_succeed: Callable[["Request"], bool] = lambda _: False


CASES = (
    Case("401", always(401, _PAGE), (AuthenticationFailed,)),
    # A key may be good, and too narrow for what was asked.
    Case(
        "403", always(403, _PAGE), (AuthenticationFailed, Rejected), may_succeed=lambda r: r.name == "check"
    ),
    Case("429", always(429, _PAGE, retry_after=str(RETRY_AFTER)), (RateLimited,)),
    Case("400", always(400, _PAGE), (Rejected,)),
    # A deletion of what is gone already may well be taken as done.
    Case("404", always(404, _PAGE), (Rejected,), may_succeed=lambda r: r.repeatable),
    Case("422", always(422, _PAGE), (Rejected,)),
    Case("500", always(500, _PAGE), (Unavailable,), outage=True),
    Case("502", always(502, b""), (Unavailable,), outage=True),
    Case("503", always(503, _OUTAGE_WORDS), (Unavailable, RateLimited), outage=True),
    Case("timeout", breaking(httpx2.ReadTimeout), (Unavailable,), outage=True),
    Case("broken connection", breaking(httpx2.ReadError), (Unavailable,), outage=True),
    Case("refused connection", breaking(httpx2.ConnectError), (NotSent, Unavailable), outage=True),
    Case(
        "page of a proxy",
        always(200, _PAGE),
        (Unavailable, Rejected),
        outage=True,
        may_succeed=lambda _: True,
    ),
)


def failures_are_typed(subject: ConnectorUnderTest) -> Iterator[Finding]:
    """C10."""
    connector = subject.connector
    asks = connector.check is not BaseIntegration.check
    if not connector.actions and not connector.polls and not asks:
        raise NotApplicable("it asks its provider for nothing")
    yield from asyncio.run(_failures(subject))


def only_http(subject: ConnectorUnderTest) -> Iterator[Finding]:
    """C12."""
    yield from _lifted_blocks(subject)
    if subject.integration is None:
        return
    standin = StandIn(always(500))
    asyncio.run(_exercise(subject, standin))
    for host in dict.fromkeys(standin.tried):
        yield Finding(
            f"it connects to {host} past ConnectorHttp, so that nothing can stand in for the provider.",
            "Use the `http` that the constructor is given, or httpx2.",
            about=host,
        )


async def payloads_of(subject: ConnectorUnderTest, connection: MadeUpConnection) -> Payloads:
    """A payload for each action: the example among its tests, or the smallest made-up one that is sent."""
    payloads: Payloads = {}
    standin = StandIn(always(500))
    with standin.in_place():
        async with connection.instance() as instance:
            for spec in instance.actions:
                for payload in islice(_candidates(subject, spec), _MOST_CANDIDATES):
                    payloads.setdefault(spec.name, payload)
                    standin.requests.clear()
                    await outcome(partial(instance.execute, Action(type=spec.name, payload=payload)))
                    if standin.requests:
                        payloads[spec.name] = payload
                        break
    return payloads


def _candidates(subject: ConnectorUnderTest, spec: ActionSpec) -> Iterator[dict[str, Any]]:
    path = subject.tests / "actions" / f"{spec.name}.json" if subject.tests is not None else None
    if path is None or not path.exists():
        yield from payloads_for(spec.model)
        return
    try:
        payload = json.loads(path.read_text("utf-8"))
        spec.model.model_validate(payload)
    except ValueError:
        return
    yield dict(payload)


def _no_payload(subject: ConnectorUnderTest, spec: ActionSpec) -> Finding:
    return Finding(
        f"no payload of the action {spec.name} can be made up, or its example does not fit.",
        f"Put one into {subject.shown(subject.tests, 'actions', f'{spec.name}.json')}.",
        about=spec.name,
    )


async def _failures(subject: ConnectorUnderTest) -> list[Finding]:
    connection = made_up_connection(subject)
    payloads = await payloads_of(subject, connection)
    found = {
        spec.name: [_no_payload(subject, spec)]
        for spec in subject.connector.actions
        if spec.name not in payloads
    }
    for case in CASES:
        standin = StandIn(case.answer)
        with standin.in_place():
            async with connection.instance() as instance:
                for request in requests_of(instance, payloads):
                    standin.requests.clear()
                    error = await outcome(request.ask)
                    problem = _problem(error, request, case, subject)
                    if not standin.requests:
                        found[request.name] = [_silent(subject, request, error)]
                    elif problem is not None:
                        found.setdefault(request.name, []).append(_finding(request.name, case, *problem))
    return [finding for findings in found.values() for finding in findings]


def _silent(subject: ConnectorUnderTest, request: Request, error: Exception | None) -> Finding:
    what = "ends"
    if error is not None:
        words = f" ({error})" if isinstance(error, IntegrationError) else place(error, subject.connector)
        what = f"raises {type(error).__name__}{words}"
    remedy = "Let it ask."
    if request.is_action:
        example = subject.shown(subject.tests, "actions", f"{request.name}.json")
        remedy = f"Put a payload that is sent into {example}, or what the connection needs into {FILE}."
    return Finding(f"{request.name} {what} without asking the provider.", remedy, about=request.name)


def requests_of(instance: BaseIntegration, payloads: Payloads) -> Iterator[Request]:
    """What an instance asks of its provider."""
    for spec in instance.actions:
        if spec.name in payloads:
            action = Action(type=spec.name, payload=payloads[spec.name])
            yield Request(spec.name, partial(instance.execute, action), spec.effect != "once", True)
    for poll in instance.polls:
        yield Request(poll.name, partial(call, getattr(instance, poll.handler), None))
    if type(instance).check is not BaseIntegration.check:
        yield Request("check", instance.check)


def _problem(
    error: Exception | None, request: Request, case: Case, subject: ConnectorUnderTest
) -> tuple[str, bool] | None:
    """What is wrong with what came of it, and whether an outage was taken for a bad key."""
    if error is None:
        return None if case.may_succeed(request) else ("succeeds", False)
    if isinstance(error, case.expected):
        if case.name == "429" and error.retry_after != RETRY_AFTER:
            given = "None" if error.retry_after is None else f"{error.retry_after:g}"
            return f"raises RateLimited with retry_after={given}", False
        return None
    if isinstance(error, TimeoutError):
        return f"takes longer than {DEADLINE:g} s", False
    where = "" if isinstance(error, ProviderError) else place(error, subject.connector)
    wrong_key = case.outage and isinstance(error, AuthenticationFailed)
    return f"raises {type(error).__name__}{where}", wrong_key


async def outcome(ask: Callable[[], Awaitable[Any]]) -> Exception | None:
    """What it raises, in an attempt like the platform's."""
    token = current_attempt.set(AttemptTrace(key="act_made_up"))
    try:
        async with asyncio.timeout(DEADLINE):
            await ask()
    except Exception as error:  # noqa: BLE001 - the question is what a connector raises
        return error
    finally:
        current_attempt.reset(token)
    return None


def _finding(name: str, case: Case, what: str, wrong_key: bool) -> Finding:
    expected = " or ".join(kind.__name__ for kind in case.expected)
    wanted = f" (Retry-After: {RETRY_AFTER})" if case.name == "429" else ""
    return Finding(
        f"{name} {what} when the provider gives {_article(case.name)}{wanted}.",
        f"Raise {expected}: ConnectorHttp does, unless `explain` says otherwise.",
        about=name,
        level="contract" if wrong_key else None,
    )


def _article(name: str) -> str:
    return name if name[0].isdigit() else f"a {name}"


async def _exercise(subject: ConnectorUnderTest, standin: StandIn) -> None:
    connection = made_up_connection(subject)
    payloads = await payloads_of(subject, connection)
    with standin.in_place():
        async with connection.instance() as instance:
            for request in requests_of(instance, payloads):
                await outcome(request.ask)


def _lifted_blocks(subject: ConnectorUnderTest) -> Iterator[Finding]:
    """Tests that open the network again, which the test run closes."""
    if subject.tests is None or not subject.tests.is_dir():
        return
    for path in sorted(subject.tests.glob("**/*.py")):
        text = path.read_text("utf-8", "replace")
        for word in ("enable_socket", "allow_hosts", "socket_enabled"):
            if word in text:
                yield Finding(
                    f"{path.name} lets its tests use the network ({word}).",
                    "Use httpx2.MockTransport, a server on loopback or a twin.",
                    about=path.name,
                )
