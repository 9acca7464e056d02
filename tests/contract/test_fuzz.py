"""Requests that are almost what a provider sends, through the real endpoint, processor and storage.

C08 and `test_any_bytes` ask a connector alone. Here mutated fixtures go in at the webhook URL, most of them
properly signed, so that they get past verification, and the question is what the platform makes of them:

- an answer below 500, and nothing unhandled anywhere;
- of each that is acknowledged, what its connector makes of it: events, a failure with a reason, a declared
  handshake, or nothing, if the connector says so;
- of a genuine request behind them, its own events.

The same requests in every run: hypothesis is derandomized.
"""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import httpx2
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from structlog.testing import capture_logs

from app.checks.connection import MadeUpConnection, made_up_connections
from app.checks.delivery import deliver
from app.checks.fixtures import Fixture, made_up_request, request_of
from app.checks.genuine import UnknownScheme, ways
from app.checks.subject import ConnectorUnderTest, discovered
from app.config import Settings
from app.integrations.requests import Headers, WebhookRequest
from app.integrations.verification import SnsSignature
from app.main import Platform, open_platform
from app.modules.events.models import EventRow
from app.modules.webhooks.models import Webhook

SUBJECTS = [
    pytest.param(subject, id=subject.key)
    for subject in discovered(entry_points=None)
    if subject.has_webhooks and subject.fixtures
]
EXAMPLES = 22
"""Batches for each connector."""
BATCH = 12
PUBLIC_URL = "https://hooks.example.com"
NOWHERE = "http://127.0.0.1:9"
PATIENCE = 20.0
MARK = "m4rked"
"""In values that are put in: no reason may show one."""

FAULTS = {"connector_error", "handler_timeout", "not_an_event", "payload_not_json", "not_storable"}
"""Codes of failures that say that the connector is at fault, and not the body."""


# Mutations. Each takes the chance that hypothesis gives and shrinks.


SCALARS: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308),
    *(float("inf"), float("nan"), "", " ", "0", "-1", "true", "null", MARK, MARK * 200, "\x00", "\u202e"),
    *("\ud800", "a\udfffb", "\U0001f600", "é", "e\u0301", "2030-02-30T25:61:61Z", "1e5", "[]", "{}", '{"a":'),
    *("9" * 30, "../../etc/passwd", "https://169.254.169.254/", "<a/>", "%00", "\r\nX-Injected: 1"),
)
SHAPES: tuple[Any, ...] = (
    *([], {}, [[]], [None], [{}], {"": None}, {"a": {"b": {"c": []}}}, [MARK], {"id": MARK}, {"type": []}),
    *([1, "1", None, {}], {MARK: MARK}, [[[[[[]]]]]], {"id": None, "type": None}),
)
CONTENT_TYPES = (
    *(
        "application/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "text/plain",
        "text/xml",
    ),
    *(
        "application/json; charset=utf-16",
        "multipart/form-data; boundary=x",
        "multipart/form-data; boundary=",
    ),
    *("application/cloudevents-batch+json", "nonsense", ";;;", "application/json, text/xml", "\xff\xfe", ""),
)
HEADER_VALUES = (
    "",
    " ",
    MARK,
    "é",
    "\xff\xfe",
    "0",
    "-1",
    "9" * 40,
    "a=1,b=2",
    "v1,AAAA",
    "," * 50,
    "x" * 9000,
)


def mutated_value(chance: Random, value: Any) -> Any:
    """The value with one part of it changed, at any depth, also in JSON inside texts."""
    kind = chance.randrange(6)
    if isinstance(value, dict) and value and kind:
        name = chance.choice(sorted(value))
        rest = {other: part for other, part in value.items() if other != name}
        if kind == 1:
            return rest
        if kind == 2:
            return rest | {chance.choice(("", MARK, name + " ", name.upper(), "\ud800", "é")): value[name]}
        return value | {name: mutated_value(chance, value[name])}
    if isinstance(value, list) and value and kind:
        at = chance.randrange(len(value))
        if kind == 1:
            return [*value[:at], *value[at + 1 :]]
        if kind == 2:
            return value * chance.choice((2, 30))
        return [*value[:at], mutated_value(chance, value[at]), *value[at + 1 :]]
    if isinstance(value, str) and value[:1] in ("{", "[") and kind > 1:
        with contextlib.suppress(ValueError):
            return json.dumps(mutated_value(chance, json.loads(value)))
    if kind == 1:
        return [value]
    if kind == 2:
        return {"value": value}
    if kind == 3 and isinstance(value, int | float | str):
        return str(value) + MARK if isinstance(value, str) else str(value)
    return chance.choice(SCALARS if kind < 5 else SHAPES)


def mutated_json(chance: Random, body: bytes) -> bytes:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return mutated_bytes(chance, body)
    for _ in range(chance.randrange(1, 4)):
        value = mutated_value(chance, value)
    written = json.dumps(value, ensure_ascii=chance.random() < 0.8).encode("utf-8", "surrogatepass")
    if chance.randrange(8) == 0 and isinstance(value, dict) and value:
        name = json.dumps(chance.choice(sorted(value)))
        written = b"{" + name.encode() + b":0," + written[1:]  # a name that comes twice
    return written


def mutated_form(chance: Random, body: bytes) -> bytes:
    pairs = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
    if not pairs:
        return mutated_bytes(chance, body)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(pairs))
        name, value = pairs[at]
        others = pairs[:at] + pairs[at + 1 :]
        new = mutated_value(chance, value)
        text = new if isinstance(new, str) else json.dumps(new)
        pairs = chance.choice(
            (
                others or pairs,
                [*pairs, (name, value)],
                [*others, (name, text)],
                [*others, (name, text)],
                [*others, (chance.choice((name + "[]", name + "[x]", name + "[", f"[{name}]", "")), value)],
            )
        )
    return urlencode([(n, v.encode("utf-8", "surrogatepass")) for n, v in pairs]).encode()


def mutated_bytes(chance: Random, body: bytes) -> bytes:
    at = chance.randrange(len(body) + 1)
    noise = chance.choice(
        (b"\x00", b"\xff", b"\xed\xa0\x80", b"%", b"&", b"[", b'"', b"\\u", b"<!DOCTYPE a>", b"--")
    )
    return chance.choice(
        (
            body[:at],
            body[at:],
            body + body,
            body[:at] + noise + body[at:],
            body[:at] + bytes([chance.randrange(256)]) + body[at + 1 :],
            b"\xef\xbb\xbf" + body,
            body.decode("utf-8", "replace").encode("utf-16"),
            b"",
            b"[" * 5000,
            body.replace(b'"', b"'"),
            b"[" + body + b"," + body + b"]",
        )
    )


def mutated_body(chance: Random, request: WebhookRequest) -> WebhookRequest:
    form = "urlencoded" in request.headers.get("content-type", "")
    mutate: Callable[[Random, bytes], bytes] = mutated_form if form else mutated_json
    if chance.randrange(5) == 0:
        mutate = mutated_bytes
    return replace(request, body=mutate(chance, request.body))


def mutated_headers(chance: Random, request: WebhookRequest) -> WebhookRequest:
    pairs = list(request.headers.pairs) or [("content-type", "application/json")]
    at = chance.randrange(len(pairs))
    name, value = pairs[at]
    kind = chance.randrange(5)
    if kind == 0:
        del pairs[at]
    elif kind == 1:
        pairs.insert(chance.randrange(len(pairs) + 1), (name, chance.choice((value, *HEADER_VALUES))))
    elif kind == 2:
        pairs[at] = (name, chance.choice(HEADER_VALUES))
    elif kind == 3:
        pairs = [pair for pair in pairs if pair[0] != "content-type"]
        pairs.append(("content-type", chance.choice(CONTENT_TYPES)))
    else:
        pairs[at] = (name, value + chance.choice(HEADER_VALUES))
    return replace(request, headers=Headers(pairs))


def mutated_query(chance: Random, request: WebhookRequest) -> WebhookRequest:
    query = chance.choice(
        ("", "a=1", "a=%ff", "%", "a[b][=1", "hub.mode=subscribe&hub.challenge=1", "x" * 3000)
    )
    return replace(request, url=urlsplit(request.url)._replace(query=query).geturl())


def almost(chance: Random, request: WebhookRequest, connection: MadeUpConnection) -> WebhookRequest:
    """The request with something wrong, mostly with a signature that covers what is wrong."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        mutate = chance.choice((mutated_body, mutated_body, mutated_body, mutated_headers, mutated_query))
        request = mutate(chance, request)
    if connection.verification is not None and chance.randrange(6):
        # What cannot be signed goes out as it is.
        with contextlib.suppress(Exception):
            way = chance.choice(ways(connection.verification))
            request = connection.sender.sign(request, way, time.time())
        if chance.randrange(8) == 0:
            request = mutated_headers(chance, request)
    if chance.randrange(40) == 0:
        request = replace(request, method=chance.choice(("GET", "PUT", "HEAD", "OPTIONS")))
    return request


# The platform.


@dataclass
class Answer:
    """A request that was sent, and its answer."""

    request: WebhookRequest
    status: int
    webhook: str | None
    body: bytes


class Arena:
    """One platform with every connector, called without a socket between."""

    def __init__(self, platform: Platform, runner: asyncio.Runner) -> None:
        self.platform = platform
        self.runner = runner
        self._client = httpx2.AsyncClient(transport=httpx2.ASGITransport(platform.app), base_url=PUBLIC_URL)

    async def connect(self, connection: MadeUpConnection) -> dict[str, Any]:
        settings = connection.settings.model_dump(mode="json") if connection.settings else {}
        if "base_url" in settings:
            settings["base_url"] = NOWHERE  # providers are told of the URL, and there are none here
        body = {
            "integration": connection.integration.key,
            "secrets": connection.secrets,
            "settings": settings,
        }
        headers = {"Authorization": f"Bearer {self.platform.admin_key}"}
        answer = await self._client.post("/api/v1/connections", json=body, headers=headers)
        assert answer.status_code == 201, answer.text
        made: dict[str, Any] = answer.json()
        return made

    async def send(self, request: WebhookRequest) -> Answer:
        headers = [(name.encode(), value.encode("latin-1")) for name, value in request.headers.pairs]
        answer = await self._client.request(
            request.method, request.url, headers=headers, content=request.body
        )
        return Answer(request, answer.status_code, answer.headers.get("trunkline-webhook-id"), answer.content)

    async def settled(self, connection: str) -> dict[str, Webhook]:
        """The connection's webhooks, by id, once none of them waits."""
        deadline = time.monotonic() + PATIENCE
        query = select(Webhook).where(Webhook.connection_id == connection)
        while True:
            rows = await self.platform.database.read(lambda session: list(session.scalars(query)))
            if all(row.state in ("processed", "failed") for row in rows):
                return {row.id: row for row in rows}
            assert time.monotonic() < deadline, "something is never settled"
            await asyncio.sleep(0.005)

    async def events(self, connection: str) -> list[EventRow]:
        query = select(EventRow).where(EventRow.connection_id == connection)
        return await self.platform.database.read(lambda session: list(session.scalars(query)))


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setattr(socket, "getaddrinfo", _only_here)
        options = Settings(
            data_dir=tmp_path_factory.mktemp("fuzz"),
            public_url=PUBLIC_URL,
            stop_timeout=1.0,
            handler_timeout=10.0,
        )
        transport = httpx2.MockTransport(_certificate)
        platform = runner.run(open_platform(options, lambda: PUBLIC_URL, None, transport))
        yield Arena(platform, runner)
        runner.run(platform.close())


_getaddrinfo = socket.getaddrinfo


def _only_here(host: Any, *arguments: Any, **named: Any) -> Any:
    if host not in ("127.0.0.1", "localhost", "::1", None):
        raise socket.gaierror("no names are resolved in this test")
    return _getaddrinfo(host, *arguments, **named)


_certificates: dict[str, str] = {}


def _certificate(request: httpx2.Request) -> httpx2.Response:
    text = _certificates.get(str(request.url))
    return httpx2.Response(404) if text is None else httpx2.Response(200, text=text)


@cache
def connections_of(subject: ConnectorUnderTest) -> list[MadeUpConnection]:
    found = made_up_connections(subject)
    for connection in found:
        _certificates.update(connection.sender.fetched)
    return found


# The properties.


@pytest.mark.parametrize("subject", SUBJECTS)
@given(chance=st.randoms(use_true_random=False), size=st.integers(2, BATCH))
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # a finding shows the whole request: nothing has to be shrunk
    suppress_health_check=list(HealthCheck),
)
def test_whatever_comes_is_answered_and_accounted_for(
    subject: ConnectorUnderTest, arena: Arena, chance: Random, size: int
) -> None:
    arena.runner.run(play(arena, subject, chance, size))


async def play(arena: Arena, subject: ConnectorUnderTest, chance: Random, size: int) -> None:
    unhandled: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    connection = chance.choice(connections_of(subject))
    made = await arena.connect(connection)

    def asked(fixture: Fixture) -> WebhookRequest:
        request = request_of(subject.connector, fixture)
        query = urlsplit(request.url).query
        return replace(request, url=made["webhook_url"] + (f"?{query}" if query else ""))

    first, last = chance.choice(subject.fixtures), chance.choice(subject.fixtures)
    batch = [almost(chance, asked(first), connection) for _ in range(size)]
    with capture_logs() as logged:
        answers = await asyncio.gather(*(arena.send(request) for request in batch))
        genuine = await arena.send(connection.signed(asked(last), time.time()))
        webhooks = await arena.settled(made["id"])
        events = await arena.events(made["id"])
        for answer in answers:
            await judge(arena, subject, connection, answer, webhooks, events)
    assert unhandled == []
    assert [entry for entry in logged if entry["log_level"] in ("error", "critical")] == []
    if not can_be_signed(connection):  # nobody sends to it: what it gets, it polls
        assert genuine.status == 401
        return
    assert genuine.status in range(200, 300)
    assert genuine.webhook is not None
    assert webhooks[genuine.webhook].state == "processed", webhooks[genuine.webhook].reason
    expected = await identities(connection, last)
    # If the same has come before it, as far as its provider's ids tell, there is no second one.
    known = {(event.type, event.external_id) for event in events}
    assert [identity for identity in expected if identity not in known] == []
    if first is not last:
        own = [(e.type, e.external_id) for e in events if e.webhook_id == genuine.webhook]
        assert own == expected


def can_be_signed(connection: MadeUpConnection) -> bool:
    if connection.verification is None:
        return True
    try:
        request = made_up_request(connection.integration.connector, b"{}")
        connection.sender.sign(request, ways(connection.verification)[0])
    except UnknownScheme:
        return False
    return True


_identities: dict[tuple[int, str], list[tuple[str, str | None]]] = {}


async def identities(connection: MadeUpConnection, fixture: Fixture) -> list[tuple[str, str | None]]:
    """What a genuine fixture becomes: whenever it is sent, the same (C09)."""
    known = _identities.get((id(connection), fixture.name))
    if known is None:
        request = request_of(connection.integration.connector, fixture)
        received = connection.received(connection.signed(request, time.time()))
        async with connection.instance() as instance:
            known = (await deliver(instance, received)).identities
        _identities[id(connection), fixture.name] = known
    return known


async def judge(
    arena: Arena,
    subject: ConnectorUnderTest,
    connection: MadeUpConnection,
    answer: Answer,
    webhooks: dict[str, Webhook],
    events: list[EventRow],
) -> None:
    what = (
        f"{answer.status} for {answer.request.method} {answer.request.headers.pairs} {answer.request.body!r}"
    )
    if answer.status == 503 and isinstance(connection.verification, SnsSignature):
        return  # it names a certificate that cannot be had, which may be for the moment only
    assert 200 <= answer.status < 500, what
    if answer.status >= 300:
        assert answer.webhook is None, what
        return
    if answer.webhook is None:
        assert subject.connector.handshake is not None, what
        return
    row = webhooks[answer.webhook]
    again = await arena.platform.worker.processor.preview(row.id)
    assert (row.state == "failed") == (again.failure is not None), what
    if again.failure is not None:
        assert row.reason_code not in FAULTS, f"{row.reason}: {what}"
        assert row.reason, what
        assert MARK not in row.reason, what
        assert row.reason_code != "undeclared_event", f"{row.reason}: {what}"
    # What the connector makes of it is there, made by this webhook or by the same before it.
    known = {(event.type, event.external_id) for event in events}
    assert {(event.type, event.external_id) for event in again.events} <= known, what
    if any(event.external_id is None for event in again.events):
        assert any(event.webhook_id == row.id for event in events), what
