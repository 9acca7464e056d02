"""Declared answers to the requests by which a provider makes sure that the URL is ours.

A handshake is answered before anything is stored, and makes no event. Pure, like verification.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Protocol
from urllib.parse import parse_qsl, urlsplit

from .bodies import decode_json
from .errors import InvalidBody, Refused
from .requests import Reply, WebhookRequest
from .verification import LiveSecrets
from .verification.tokens import any_equal

MAX_HANDSHAKE_BYTES = 16 * 1024
"""No handshake is longer; a larger body is a webhook."""


class Handshake(Protocol):
    """What every handshake offers.

    method        the method that it comes by; GET ones are not checked by `verification`
    secret_names  the declared secrets that it takes
    """

    @property
    def method(self) -> str: ...

    @property
    def secret_names(self) -> frozenset[str]: ...

    def answer(self, request: WebhookRequest, secrets: LiveSecrets) -> Reply | None:
        """The reply, or None if this request is no handshake. Raises Refused."""


@dataclass(frozen=True)
class EchoChallenge:
    """A verified POST with a JSON body that says what it is and holds a challenge: the answer (Slack)."""

    when: Mapping[str, str]
    field: str = "challenge"

    method: ClassVar[str] = "POST"
    secret_names: ClassVar[frozenset[str]] = frozenset()

    def answer(self, request: WebhookRequest, secrets: LiveSecrets) -> Reply | None:
        body = request.body
        if len(body) > MAX_HANDSHAKE_BYTES or not all(v.encode() in body for v in self.when.values()):
            return None
        try:
            value = decode_json(body)
        except InvalidBody:
            return None
        if not isinstance(value, dict) or any(value.get(k) != v for k, v in self.when.items()):
            return None
        challenge = value.get(self.field)
        return Reply(challenge.encode()) if isinstance(challenge, str) else None


@dataclass(frozen=True)
class GetChallenge:
    """A GET whose query shows a shared token and holds a challenge, which is the answer (Meta)."""

    secret: str
    token: str = "hub.verify_token"  # noqa: S105 - the parameter's name
    challenge: str = "hub.challenge"
    when: Mapping[str, str] = field(default_factory=lambda: {"hub.mode": "subscribe"})

    method: ClassVar[str] = "GET"

    @property
    def secret_names(self) -> frozenset[str]:
        return frozenset({self.secret})

    def answer(self, request: WebhookRequest, secrets: LiveSecrets) -> Reply | None:
        query = dict(parse_qsl(urlsplit(request.url).query))
        if any(query.get(name) != value for name, value in self.when.items()) or self.challenge not in query:
            return None
        if not any_equal(secrets.get(self.secret, ()), query.get(self.token, "").encode()):
            raise Refused("token_differs", f"The parameter {self.token} is not the shared secret.")
        return Reply(query[self.challenge].encode())
