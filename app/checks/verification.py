"""C07: genuine requests are accepted, others are refused. Generated from what is declared."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from urllib.parse import urlencode

from app.integrations.errors import KeyUnavailable, Refused
from app.integrations.handshakes import EchoChallenge, GetChallenge
from app.integrations.requests import WebhookRequest
from app.integrations.verification import Body, LiveSecrets, Method, SnsSignature, Url, Verification

from .connection import MadeUpConnection, made_up_connections
from .fixtures import made_up_request, request_of, with_headers
from .genuine import (
    NOW,
    Sender,
    UnknownScheme,
    Way,
    changed_body,
    covers,
    described,
    headers_of,
    takes_secrets,
    tolerance,
    ways,
)
from .model import Finding, NotApplicable
from .subject import ConnectorUnderTest

CHALLENGE = "made-up-challenge-1"


def genuine_alone_is_accepted(subject: ConnectorUnderTest) -> Iterator[Finding]:
    """C07."""
    connector = subject.connector
    if connector.verification is None and connector.handshake is None:
        raise NotApplicable("it declares no verification")
    requests = _requests(subject)
    connections = made_up_connections(subject)
    for connection in connections:
        verification = connection.verification
        other = Sender.to(connector, verification, salt="two")
        for way in ways(verification) if verification is not None else ():
            for name, request in requests.items():
                try:
                    yield from _judge(verification, way, request, name, connection.sender, other)
                except UnknownScheme as error:
                    yield _unknown(str(error))
                    return
    yield from _handshakes(subject, connections[0])


def _requests(subject: ConnectorUnderTest) -> dict[str, WebhookRequest]:
    """One request for each form that the fixtures have; a made-up one if there are none."""
    found: dict[str, WebhookRequest] = {}
    for fixture in filter(lambda fixture: fixture.is_readable, subject.fixtures):
        request = request_of(subject.connector, fixture)
        forms = {known.headers.get("content-type") for known in found.values()}
        if request.headers.get("content-type") not in forms:
            found[fixture.name] = request
    return found or {"a made-up body": made_up_request(subject.connector, b'{"id": "1"}')}


def _judge(
    verification: Verification | None,
    way: Way,
    request: WebhookRequest,
    name: str,
    sender: Sender,
    other: Sender,
) -> Iterator[Finding]:
    assert verification is not None
    live = sender.live()
    genuine = sender.sign(request, way)
    judge = _Judge(verification, described(way), name)
    yield from judge.accepts(genuine, live, "a genuine request")
    if covers(way, Body):
        yield from judge.refuses(changed_body(genuine, way), live, "another body")
    for header in headers_of(way):
        for value, what in (
            (None, "missing"),
            ("", "empty"),
            ("é", "beyond ASCII"),
            ("\xff\xfe", "not text"),
        ):
            changed = with_headers(genuine, {header: value})
            yield from judge.refuses(changed, live, f"the header {header} {what}")
    if covers(way, Url):
        changed = replace(genuine, url=genuine.url.replace("hooks.example.com", "other.example.com"))
        yield from judge.refuses(changed, live, "another URL")
    if covers(way, Method):
        yield from judge.refuses(replace(genuine, method="PUT"), live, "another method")
    if takes_secrets(way):
        yield from judge.refuses(genuine, other.live(), "another secret")
        yield from judge.accepts(genuine, sender.live(newer=other), "the older of two live secrets")
        yield from judge.accepts(genuine, sender.live(older=other), "the newer of two live secrets")
        for secret in _secrets_of(way):
            yield from judge.refuses(genuine, {**live, secret: []}, f"no value for the secret {secret}")
    if any(isinstance(check, SnsSignature) for check in way):
        yield from judge.refuses(genuine, {**live, **other.fetched_live}, "another certificate")
    if (seconds := tolerance(way)) is not None:
        for sent, what in ((NOW - seconds - 60, "an old time"), (NOW + seconds + 60, "a time to come")):
            yield from judge.refuses(sender.sign(request, way, sent), live, what)


class _Judge:
    """Asks one verification, and says what it should have said."""

    def __init__(self, verification: Verification, way: str, fixture: str) -> None:
        self._verification = verification
        self._way = way
        self._fixture = fixture

    def accepts(self, request: WebhookRequest, live: LiveSecrets, what: str) -> Iterator[Finding]:
        error = self._verdict(request, live)
        if error is not None:
            yield self._finding(f"is not accepted with {what} ({self._words(error)})")

    def refuses(self, request: WebhookRequest, live: LiveSecrets, what: str) -> Iterator[Finding]:
        error = self._verdict(request, live)
        if error is None:
            yield self._finding(f"is accepted with {what}")
        elif not isinstance(error, Refused | KeyUnavailable):
            yield self._finding(f"raises {type(error).__name__} with {what}")

    def _verdict(self, request: WebhookRequest, live: LiveSecrets) -> Exception | None:
        try:
            self._verification.verify(request, live, NOW)
        except Exception as error:  # noqa: BLE001 - the question is what it raises
            return error
        return None

    def _words(self, error: Exception) -> str:
        return str(error) if isinstance(error, Refused | KeyUnavailable) else type(error).__name__

    def _finding(self, what: str) -> Finding:
        return Finding(
            f"{self._fixture}, sent by way of {self._way}, {what}.",
            "Correct 'verification' after the provider's documentation.",
            about=self._way,
        )


def _secrets_of(way: Way) -> list[str]:
    return sorted({name for check in way for name in check.secret_names})


def _unknown(kind: str) -> Finding:
    return Finding(
        f"its verification is a {kind}, for which no genuine request can be made here.",
        "Test it in its own tests with the provider's published vectors, and make an exemption.",
        about=kind,
        level="quality",
    )


def _handshakes(subject: ConnectorUnderTest, connection: MadeUpConnection) -> Iterator[Finding]:
    handshake = subject.connector.handshake
    live = connection.sender.live()
    request = made_up_request(subject.connector, b"")
    if isinstance(handshake, GetChallenge):
        secret = connection.secrets[handshake.secret]

        def asked(token: str) -> WebhookRequest:
            query = {**handshake.when, handshake.token: token, handshake.challenge: CHALLENGE}
            return replace(request, method="GET", url=f"{request.url}?{urlencode(query)}")

        yield from _answers(lambda: handshake.answer(asked(secret), live))
        for token in ("made up", "", "é"):
            try:
                handshake.answer(asked(token), live)
            except Refused:
                continue
            yield Finding("its handshake is answered with a wrong token.", "Compare it.", about="handshake")
    elif isinstance(handshake, EchoChallenge):
        body = json.dumps({**handshake.when, handshake.field: CHALLENGE}).encode()
        yield from _answers(lambda: handshake.answer(replace(request, body=body), live))


def _answers(ask: Callable[[], object]) -> Iterator[Finding]:
    reply = ask()
    if getattr(reply, "body", None) != CHALLENGE.encode():
        yield Finding("its handshake is not answered with the challenge.", "Correct it.", about="handshake")
