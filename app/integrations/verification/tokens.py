"""Checks without a signature over the request: a shared secret shown, a hash named."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

from app.integrations.errors import Refused
from app.integrations.requests import WebhookRequest

from .checks import LiveSecrets, header_value, live_values, on_the_wire


@dataclass(frozen=True)
class StaticToken:
    """The sender puts a shared secret into a header as it is (Telegram, GitLab)."""

    header: str
    secret: str
    prefix: str = ""

    @property
    def secret_names(self) -> frozenset[str]:
        return frozenset({self.secret})

    @property
    def credential_headers(self) -> frozenset[str]:
        return frozenset({self.header.lower()})

    def verify(self, request: WebhookRequest, secrets: LiveSecrets, now: float) -> None:
        given = header_value(request, self.header)
        candidates = [self.prefix + value for value in live_values(secrets, self.secret)]
        if not any_equal(candidates, on_the_wire(given)):
            raise Refused("token_differs", f"The value of the header {self.header} is not the shared secret.")


@dataclass(frozen=True)
class Basic:
    """HTTP Basic authentication with a user name and a password, both declared secrets (Pipedrive)."""

    user: str
    password: str

    credential_headers: ClassVar[frozenset[str]] = frozenset({"authorization"})

    @property
    def secret_names(self) -> frozenset[str]:
        return frozenset({self.user, self.password})

    def verify(self, request: WebhookRequest, secrets: LiveSecrets, now: float) -> None:
        scheme, _, encoded = header_value(request, "Authorization").partition(" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True)
        except (ValueError, binascii.Error):
            given = b""
        if scheme.lower() != "basic" or not given:
            raise Refused("credentials_malformed", "The header Authorization is not HTTP Basic.")
        candidates = [
            f"{user}:{password}"
            for user in live_values(secrets, self.user)
            for password in live_values(secrets, self.password)
        ]
        if not any_equal(candidates, given):
            raise Refused("credentials_differ", "The user name or the password is not the connection's.")


@dataclass(frozen=True)
class BodyDigest:
    """The URL's query names the hex SHA-256 of the body; of use where the URL is signed (Twilio, JSON)."""

    parameter: str

    secret_names: ClassVar[frozenset[str]] = frozenset()
    credential_headers: ClassVar[frozenset[str]] = frozenset()

    def verify(self, request: WebhookRequest, secrets: LiveSecrets, now: float) -> None:
        named = parse_qs(urlsplit(request.url).query).get(self.parameter, [])
        actual = hashlib.sha256(request.body).hexdigest()
        if len(named) != 1 or not hmac.compare_digest(named[0].lower().encode(), actual.encode()):
            raise Refused("body_differs", f"The body is not the one whose hash {self.parameter} names.")


def any_equal(candidates: Sequence[str], given: bytes) -> bool:
    # Compared as bytes: compare_digest raises on non-ASCII text, which any stranger can send.
    equal = False
    for candidate in candidates:
        equal |= hmac.compare_digest(candidate.encode("utf-8"), given)
    return equal
