"""Declared checks that a request is genuine.

A check is a pure value: the raw request, the live secrets and the time go in; it returns or raises
`Refused`. It never sees parsed content, so nothing of a stranger's body is interpreted before the check.
During a rotation a secret has two live values; each check tries them all, in constant time each.
"""

import base64
import binascii
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from .errors import DeclarationError, KeyUnavailable, Refused
from .requests import WebhookRequest

LiveSecrets = Mapping[str, Sequence[str]]
"""Secret name to its live values, the newest first."""


class Verification(Protocol):
    """What every check offers.

    secret_names      the declared secrets that it takes
    credential_headers  headers that carry a secret itself (not a signature): never stored
    """

    @property
    def secret_names(self) -> frozenset[str]: ...

    @property
    def credential_headers(self) -> frozenset[str]: ...

    def verify(self, request: WebhookRequest, secrets: LiveSecrets, now: float) -> None: ...


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
        given = _header(request, self.header)
        candidates = [self.prefix + value for value in _live(secrets, self.secret)]
        if not _any_equal(candidates, given):
            raise Refused("token_differs", f"The value of the header {self.header} is not the shared secret.")


@dataclass(frozen=True)
class Body:
    """The raw body, as a part of what is signed."""

    def of(self, request: WebhookRequest) -> bytes:
        return request.body


@dataclass(frozen=True)
class Text:
    """A fixed text, as a part of what is signed."""

    text: str

    def of(self, request: WebhookRequest) -> bytes:
        return self.text.encode()


@dataclass(frozen=True)
class HeaderValue:
    """A header's value, as a part of what is signed."""

    name: str

    def of(self, request: WebhookRequest) -> bytes:
        return _on_the_wire(_header(request, self.name))


@dataclass(frozen=True)
class Method:
    """The request method, as a part of what is signed."""

    def of(self, request: WebhookRequest) -> bytes:
        return request.method.encode()


@dataclass(frozen=True)
class Url:
    """The full public URL, as a part of what is signed."""

    def of(self, request: WebhookRequest) -> bytes:
        return request.url.encode()


Part = Body | Text | HeaderValue | Method | Url


@dataclass(frozen=True)
class Timestamp:
    """A signed time in a header that may not be further away from now than `tolerance` seconds.

    `unit` is how many of the header's units make a second: 1, or 1000 for milliseconds.
    """

    header: str
    tolerance: float = 300.0
    unit: int = 1

    def check(self, request: WebhookRequest, now: float) -> None:
        given = _header(request, self.header)
        if not (given.isascii() and given.isdigit() and len(given) <= 16):
            raise Refused("timestamp_unreadable", f"The header {self.header} is not a time in digits.")
        if abs(now - int(given) / self.unit) > self.tolerance:
            raise Refused(
                "timestamp_old",
                f"The time in {self.header} is more than {self.tolerance:g} s away from our clock.",
            )


Digest = Literal["sha1", "sha256", "sha512"]
Encoding = Literal["hex", "base64"]

_DIGEST_BYTES: dict[Digest, int] = {"sha1": 20, "sha256": 32, "sha512": 64}


@dataclass(frozen=True)
class Hmac:
    """An HMAC over declared parts of the request, in a header.

    algorithm  the hash function
    encoding   how the header writes the signature
    prefix     what stands before it in the header, such as `sha256=`
    signed     the parts, in order; the raw body by default
    timestamp  a time that must be recent; its header is one of the signed parts
    key        how the secret becomes the key's bytes (UTF-8 by default); ValueError if it cannot
    """

    header: str
    secret: str
    algorithm: Digest = "sha256"
    encoding: Encoding = "hex"
    prefix: str = ""
    signed: tuple[Part, ...] = (Body(),)
    timestamp: Timestamp | None = None
    key: Callable[[str], bytes] = str.encode

    def __post_init__(self) -> None:
        if not self.signed:
            raise DeclarationError("The Hmac has no signed parts.", "Leave 'signed' out to sign the body.")
        headers = {part.name.lower() for part in self.signed if isinstance(part, HeaderValue)}
        if self.timestamp and self.timestamp.header.lower() not in headers:
            raise DeclarationError(
                f"The time in {self.timestamp.header} is not signed: an old request could get a new one.",
                f"Add HeaderValue('{self.timestamp.header}') to 'signed', where the provider says.",
            )

    @property
    def secret_names(self) -> frozenset[str]:
        return frozenset({self.secret})

    @property
    def credential_headers(self) -> frozenset[str]:
        return frozenset()

    def verify(self, request: WebhookRequest, secrets: LiveSecrets, now: float) -> None:
        given = _header(request, self.header)
        if not given.startswith(self.prefix):
            raise Refused("signature_malformed", f"The header {self.header} does not start with its prefix.")
        signature = self._decode(given.removeprefix(self.prefix))
        if self.timestamp:
            self.timestamp.check(request, now)
        parts = [part.of(request) for part in self.signed]
        message = parts[0] if len(parts) == 1 else b"".join(parts)
        genuine = malformed = False
        for secret in _live(secrets, self.secret):
            try:
                key = self.key(secret)
            except ValueError:
                malformed = True
                continue
            genuine |= hmac.compare_digest(hmac.digest(key, message, self.algorithm), signature)
        if malformed and not genuine:
            raise KeyUnavailable(
                "secret_malformed",
                f"The connection's secret '{self.secret}' is not written as the provider writes it; "
                "set it as it was given.",
            )
        if not genuine:
            raise Refused(
                "signature_differs",
                f"The signature in {self.header} was not made from this request with our secret.",
            )

    def _decode(self, text: str) -> bytes:
        try:
            if self.encoding == "hex":
                signature = binascii.unhexlify(text)
            else:
                signature = base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error):
            raise Refused(
                "signature_malformed", f"The header {self.header} is not {self.encoding}."
            ) from None
        if len(signature) != _DIGEST_BYTES[self.algorithm]:
            raise Refused("signature_malformed", f"The signature in {self.header} has the wrong length.")
        return signature


@dataclass(frozen=True)
class AnyOf:
    """Genuine if one of the checks says so; the first refusal is the one reported."""

    checks: tuple[Verification, ...]

    def __init__(self, *checks: Verification) -> None:
        object.__setattr__(self, "checks", checks)

    @property
    def secret_names(self) -> frozenset[str]:
        return frozenset[str]().union(*(check.secret_names for check in self.checks))

    @property
    def credential_headers(self) -> frozenset[str]:
        return frozenset[str]().union(*(check.credential_headers for check in self.checks))

    def verify(self, request: WebhookRequest, secrets: LiveSecrets, now: float) -> None:
        first: Refused | KeyUnavailable | None = None
        for check in self.checks:
            try:
                check.verify(request, secrets, now)
            except (Refused, KeyUnavailable) as error:
                first = first or error
            else:
                return
        raise first or Refused("no_check", "No check is declared.")


def _live(secrets: LiveSecrets, name: str) -> Sequence[str]:
    values = secrets.get(name, ())
    if not values:
        raise KeyUnavailable(
            "secret_missing", f"The connection has no value for the secret '{name}'; set it and send again."
        )
    return values


def _header(request: WebhookRequest, name: str) -> str:
    value = request.headers.get(name)
    if not value:
        raise Refused("header_missing", f"The header {name} is missing or empty.")
    return value


def _any_equal(candidates: Sequence[str], given: str) -> bool:
    # Compared as bytes: compare_digest raises on non-ASCII text, which any stranger can send.
    as_bytes = _on_the_wire(given)
    equal = False
    for candidate in candidates:
        equal |= hmac.compare_digest(candidate.encode("utf-8"), as_bytes)
    return equal


def _on_the_wire(header: str) -> bytes:
    # Latin-1 gives back every byte that was received; no other character comes from a request.
    return header.encode("latin-1", "backslashreplace")
