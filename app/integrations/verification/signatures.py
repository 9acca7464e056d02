"""Signatures over parts of the request: HMAC, Ed25519, ECDSA, Standard Webhooks."""

import base64
import binascii
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256

from app.integrations.errors import DeclarationError, KeyUnavailable, Refused
from app.integrations.requests import WebhookRequest

from .checks import LiveSecrets, live_values
from .parts import Body, HeaderValue, Part, Text, Timestamp, listed

Digest = Literal["sha1", "sha256", "sha512"]
Encoding = Literal["hex", "base64"]

MOST_SIGNATURES = 10
"""In one header. A sender in the middle of a rotation writes two."""

_DIGEST_BYTES: dict[Digest, int] = {"sha1": 20, "sha256": 32, "sha512": 64}


def base64_key(secret: str) -> bytes:
    """A key that is given in base64. Raises ValueError if it is not."""
    return base64.b64decode(secret, validate=True)


@dataclass(frozen=True)
class _Signature:
    """A signature in a header over declared parts of the request.

    header     where it stands
    secret     the declared secret that it is checked with
    encoding   how it is written
    prefix     what stands before it, such as `sha256=`
    separator  between several values in the header, such as `,` in `t=12,v1=ab`: those with the prefix count
    signed     the parts, in order; the raw body by default
    timestamp  a time that must be recent; its header is one of the signed parts
    """

    header: str
    secret: str
    encoding: Encoding = "hex"
    prefix: str = ""
    separator: str | None = None
    signed: tuple[Part, ...] = (Body(),)
    timestamp: Timestamp | None = None

    credential_headers: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        kind = type(self).__name__
        if not self.signed:
            raise DeclarationError(f"The {kind} has no signed parts.", "Leave 'signed' out to sign the body.")
        headers = {part.name.lower() for part in self.signed if isinstance(part, HeaderValue)}
        if self.timestamp and self.timestamp.header.lower() not in headers:
            raise DeclarationError(
                f"The time in {self.timestamp.header} is not signed: an old request could get a new one.",
                f"Add HeaderValue('{self.timestamp.header}') to 'signed', where the provider says.",
            )

    @property
    def secret_names(self) -> frozenset[str]:
        return frozenset({self.secret})

    def verify(self, request: WebhookRequest, secrets: LiveSecrets, now: float) -> None:
        values = listed(request, self.header, self.prefix, self.separator)[:MOST_SIGNATURES]
        signatures = self._decoded(values)
        if self.timestamp:
            self.timestamp.check(request, now)
        parts = [part.of(request) for part in self.signed]
        message = parts[0] if len(parts) == 1 else b"".join(parts)
        genuine = malformed = False
        for secret in live_values(secrets, self.secret):
            try:
                for signature in signatures:
                    genuine |= self._is_genuine(secret, message, signature)
            except ValueError:
                malformed = True
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

    def _is_genuine(self, secret: str, message: bytes, signature: bytes) -> bool:
        raise NotImplementedError("abstract: each kind of signature has its own")

    def _decoded(self, values: list[str]) -> list[bytes]:
        """Those that can be read: one that cannot does not spoil a good one beside it."""
        decoded: list[bytes] = []
        malformed: Refused | None = None
        for value in values:
            try:
                decoded.append(self._decode(value))
            except Refused as error:
                malformed = error
        if malformed and not decoded:
            raise malformed
        return decoded

    def _decode(self, text: str) -> bytes:
        try:
            if self.encoding == "hex":
                return binascii.unhexlify(text)
            return base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error):
            raise Refused(
                "signature_malformed", f"The header {self.header} is not {self.encoding}."
            ) from None


@dataclass(frozen=True)
class Hmac(_Signature):
    """An HMAC.

    algorithm  the hash function
    key        how the secret becomes the key's bytes (UTF-8 by default); ValueError if it cannot
    """

    algorithm: Digest = "sha256"
    key: Callable[[str], bytes] = str.encode

    def _decode(self, text: str) -> bytes:
        signature = super()._decode(text)
        if len(signature) != _DIGEST_BYTES[self.algorithm]:
            raise Refused("signature_malformed", f"The signature in {self.header} has the wrong length.")
        return signature

    def _is_genuine(self, secret: str, message: bytes, signature: bytes) -> bool:
        return hmac.compare_digest(hmac.digest(self.key(secret), message, self.algorithm), signature)


@dataclass(frozen=True)
class Ed25519(_Signature):
    """An Ed25519 signature; the secret is the provider's public key in hex (Discord)."""

    def _is_genuine(self, secret: str, message: bytes, signature: bytes) -> bool:
        return _verified(lambda: _ed25519_key(secret).verify(signature, message))


@dataclass(frozen=True)
class Ecdsa(_Signature):
    """An ECDSA signature with SHA-256; the secret is the provider's public key, DER in base64 (SendGrid)."""

    encoding: Encoding = "base64"

    def _is_genuine(self, secret: str, message: bytes, signature: bytes) -> bool:
        return _verified(lambda: _ecdsa_key(secret).verify(signature, message, ec.ECDSA(SHA256())))


def _verified(verify: Callable[[], None]) -> bool:
    try:
        verify()
    except InvalidSignature:
        return False
    return True


@lru_cache(maxsize=1024)
def _ed25519_key(text: str) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text.strip()))


@lru_cache(maxsize=1024)
def _ecdsa_key(text: str) -> ec.EllipticCurvePublicKey:
    # Imported when needed, as few platforms need it: every start would take longer by it.
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        key = load_der_public_key(base64_key(text.strip()))
    except UnsupportedAlgorithm:
        raise ValueError("not a key that anybody here knows") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("not an EC key")
    return key


@dataclass(frozen=True)
class StandardWebhooks(Hmac):
    """As standardwebhooks.com has it, version 1: HMAC-SHA256 over id, time and body, with a `whsec_` key.

    headers  the prefix of the three headers: `webhook-`, or `svix-` for older senders
    """

    header: str = field(default="webhook-signature", init=False)
    encoding: Encoding = "base64"
    prefix: str = "v1,"
    separator: str | None = " "
    headers: str = "webhook-"
    key: Callable[[str], bytes] = lambda secret: base64_key(_padded(secret.removeprefix("whsec_")))

    def __post_init__(self) -> None:
        time = f"{self.headers}timestamp"
        made = {
            "header": f"{self.headers}signature",
            "signed": (HeaderValue(f"{self.headers}id"), Text("."), HeaderValue(time), Text("."), Body()),
            "timestamp": Timestamp(time),
        }
        for name, value in made.items():
            object.__setattr__(self, name, value)
        super().__post_init__()


def _padded(text: str) -> str:
    return text + "=" * (-len(text) % 4)
