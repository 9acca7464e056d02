"""Genuine requests, made as the provider makes them: the other side of `app.integrations.verification`.

A check of a request tells only that it is genuine. What is here holds what only the provider has (private
keys, a certificate), and turns a request into one that a declared verification must accept.
"""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import product
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from app.integrations.base import BaseIntegration
from app.integrations.errors import KeyUnavailable
from app.integrations.requests import WebhookRequest
from app.integrations.verification import (
    AllOf,
    AnyOf,
    Basic,
    Body,
    BodyDigest,
    Ecdsa,
    Ed25519,
    HeaderValue,
    Hmac,
    LiveSecrets,
    Method,
    SnsSignature,
    SortedForm,
    StandardWebhooks,
    StaticToken,
    Url,
    Verification,
)

from .fixtures import with_headers

NOW = 1_900_000_000.0
"""The time at which made-up requests are sent."""

_TOPIC = "arn:aws:sns:us-east-1:123456789012:"

Way = tuple[Verification, ...]
"""One way to be genuine: single checks that a request has to satisfy together."""

_SIGNATURES = (Hmac, Ed25519, Ecdsa)
_SIGNED_BY_SNS = {
    "Notification": ["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"],
    "SubscriptionConfirmation": [
        "Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type",
    ],
}  # fmt: skip
_SIGNED_BY_SNS["UnsubscribeConfirmation"] = _SIGNED_BY_SNS["SubscriptionConfirmation"]


class UnknownScheme(Exception):
    """The verification is of a kind that nothing here can sign for; the message names it."""


@dataclass
class Sender:
    """A provider that shares secrets with one connection.

    secrets  what the connection is given, by secret name
    fetched  what is at the URLs that its requests name
    """

    secrets: dict[str, str]
    fetched: dict[str, str] = field(default_factory=dict)
    _ed25519: dict[str, Ed25519PrivateKey] = field(default_factory=dict, repr=False)
    _ecdsa: dict[str, ec.EllipticCurvePrivateKey] = field(default_factory=dict, repr=False)
    _rsa: rsa.RSAPrivateKey | None = field(default=None, repr=False)

    @classmethod
    def to(
        cls,
        connector: type[BaseIntegration],
        verification: Verification | None,
        given: Mapping[str, str] | None = None,
        *,
        salt: str = "one",
    ) -> "Sender":
        """A provider for a connector whose requests are checked in this way; `salt` tells several apart.
        `given` values are used as they are, unless they would have to be public keys."""
        made = {spec.name: made_up_secret(spec.name, salt) for spec in connector.secrets} | dict(given or {})
        sender = cls(made)
        for check in single_checks(verification):
            sender._share(check, given or {}, salt)
        return sender

    def live(self, *, newer: "Sender | None" = None, older: "Sender | None" = None) -> LiveSecrets:
        """The connection's live values; during a rotation with those that another sender has."""
        known = [sender for sender in (newer, self, older) if sender is not None]
        values = {name: [sender.secrets[name] for sender in known] for name in self.secrets}
        return values | self.fetched_live

    @property
    def fetched_live(self) -> dict[str, list[str]]:
        return {url: [text] for url, text in self.fetched.items()}

    def sign(self, request: WebhookRequest, way: Way, now: float = NOW) -> WebhookRequest:
        """The request as this provider would send it. Raises UnknownScheme."""
        for check in sorted(way, key=_turn):
            if isinstance(check, SnsSignature):
                request = self._sign_sns(request, check)
            elif isinstance(check, BodyDigest):
                request = _with_digest(request, check)
            elif isinstance(check, StaticToken):
                request = with_headers(request, {check.header: check.prefix + self.secrets[check.secret]})
            elif isinstance(check, Basic):
                pair = f"{self.secrets[check.user]}:{self.secrets[check.password]}"
                encoded = base64.b64encode(pair.encode()).decode()
                request = with_headers(request, {"authorization": f"Basic {encoded}"})
            elif isinstance(check, _SIGNATURES):
                request = self._sign(request, check, now)
            else:
                raise UnknownScheme(type(check).__name__)
        return request

    def _share(self, check: Verification, given: Mapping[str, str], salt: str) -> None:
        """Makes what both sides need for one check."""
        if isinstance(check, Ed25519):
            key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(salt.encode()).digest())
            self._ed25519[check.secret] = key
            public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            self.secrets[check.secret] = public.hex()
        elif isinstance(check, Ecdsa):
            number = int.from_bytes(hashlib.sha256(salt.encode()).digest()) % 2**255 + 1
            private = ec.derive_private_key(number, ec.SECP256R1())
            self._ecdsa[check.secret] = private
            der = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            self.secrets[check.secret] = base64.b64encode(der).decode()
        elif isinstance(check, Hmac) and check.secret not in given:
            self.secrets[check.secret] = _secret_for(check, salt)
        elif isinstance(check, SnsSignature):
            if check.topic_secret not in given:
                self.secrets[check.topic_secret] = f"{_TOPIC}{made_up_secret(check.topic_secret, salt)}"
            self._rsa, certificate = _signing_key(salt)
            self.fetched[_certificate_url(self.secrets[check.topic_secret])] = certificate

    def _sign(self, request: WebhookRequest, check: Hmac | Ed25519 | Ecdsa, now: float) -> WebhookRequest:
        headers: dict[str, list[str]] = {}
        separators: dict[str, str] = {check.header.lower(): check.separator or ""}

        def put(header: str, prefix: str, separator: str | None, value: str) -> None:
            element = prefix + value
            if element not in headers.setdefault(header.lower(), []):
                headers[header.lower()].append(element)
            separators[header.lower()] = separator or separators.get(header.lower(), "")

        stamp = check.timestamp
        if stamp:
            put(stamp.header, stamp.prefix, stamp.separator, str(int(now * stamp.unit)))
        for part in check.signed:
            if isinstance(part, HeaderValue):
                if stamp and (part.name.lower(), part.prefix) == (stamp.header.lower(), stamp.prefix):
                    continue
                given = "" if part.prefix or part.separator else request.headers.get(part.name, "")
                put(part.name, part.prefix, part.separator, given or "made-up-1")
        request = with_headers(request, {name: separators[name].join(e) for name, e in headers.items()})
        message = b"".join(part.of(request) for part in check.signed)
        signature = self._signature(check, message)
        written = signature.hex() if check.encoding == "hex" else base64.b64encode(signature).decode()
        put(check.header, check.prefix, check.separator, written)
        name = check.header.lower()
        return with_headers(request, {name: separators[name].join(headers[name])})

    def _signature(self, check: Hmac | Ed25519 | Ecdsa, message: bytes) -> bytes:
        if isinstance(check, Hmac):
            return hmac.digest(check.key(self.secrets[check.secret]), message, check.algorithm)
        if isinstance(check, Ed25519):
            return self._ed25519[check.secret].sign(message)
        return self._ecdsa[check.secret].sign(message, ec.ECDSA(SHA256()))

    def _sign_sns(self, request: WebhookRequest, check: SnsSignature) -> WebhookRequest:
        assert self._rsa is not None
        message = _sns_message(request.body)
        topic = self.secrets[check.topic_secret]
        message |= {
            "TopicArn": topic,
            "SigningCertURL": _certificate_url(topic),
            "SignatureVersion": "2",
        }
        names = [name for name in _SIGNED_BY_SNS[message["Type"]] if name in message]
        text = "".join(f"{name}\n{message[name]}\n" for name in names)
        signature = self._rsa.sign(text.encode(), PKCS1v15(), SHA256())
        message["Signature"] = base64.b64encode(signature).decode()
        return replace(request, body=json.dumps(message).encode())


def made_up_secret(name: str, salt: str) -> str:
    """A value that can be recognised wherever it turns up."""
    return "planted" + hashlib.sha256(f"{name} {salt}".encode()).hexdigest()[:32]


def ways(verification: Verification) -> list[Way]:
    """Every combination of single checks that makes a request genuine."""
    if isinstance(verification, AnyOf):
        return [way for check in verification.checks for way in ways(check)]
    if isinstance(verification, AllOf):
        combined = product(*(ways(check) for check in verification.checks))
        return [tuple(check for way in chosen for check in way) for chosen in combined]
    return [(verification,)]


def single_checks(verification: Verification | None) -> list[Verification]:
    """The checks that a verification is made of."""
    if verification is None:
        return []
    return [check for way in ways(verification) for check in way]


def covers(way: Way, kind: type[Body] | type[Url] | type[Method]) -> bool:
    """Whether a change of the body, URL or method must be noticed."""
    parts = [part for check in way if isinstance(check, _SIGNATURES) for part in check.signed]
    if kind is Body:
        signed = any(isinstance(part, Body | SortedForm) for part in parts)
        return signed or any(isinstance(check, SnsSignature | BodyDigest) for check in way)
    return any(isinstance(part, kind) for part in parts)


def tolerance(way: Way) -> float | None:
    """Seconds after which a request is too old; None if its time is not checked."""
    stamps = [check.timestamp for check in way if isinstance(check, _SIGNATURES) and check.timestamp]
    return min((stamp.tolerance for stamp in stamps), default=None)


def headers_of(way: Way) -> list[str]:
    """The headers that make a request genuine."""
    names: list[str] = []
    for check in way:
        if isinstance(check, StaticToken):
            names.append(check.header)
        elif isinstance(check, Basic):
            names.append("Authorization")
        elif isinstance(check, _SIGNATURES):
            names.append(check.header)
            names += [part.name for part in check.signed if isinstance(part, HeaderValue)]
    return list(dict.fromkeys(names))


def takes_secrets(way: Way) -> bool:
    """Whether there is a secret that can be wrong."""
    return any(check.secret_names for check in way)


def described(way: Way) -> str:
    return " and ".join(type(check).__name__ for check in way)


def changed_body(request: WebhookRequest, way: Way) -> WebhookRequest:
    """The request with other content, such as somebody on the way would want to say."""
    body = request.body
    if any(isinstance(check, SnsSignature) for check in way):
        message = _sns_message(body)
        message["Message"] += " "
        return replace(request, body=json.dumps(message).encode())
    parts = [part for check in way if isinstance(check, _SIGNATURES) for part in check.signed]
    if any(isinstance(part, SortedForm) for part in parts):
        return replace(request, body=body + b"&planted=1" if body else b"planted=1")
    middle = len(body) // 2
    changed = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :] if body else b" "
    return replace(request, body=changed)


def _turn(check: Verification) -> int:
    """What changes the body comes before what changes the URL, and both before what covers them."""
    if isinstance(check, SnsSignature):
        return 0
    return 1 if isinstance(check, BodyDigest) else 2


def _secret_for(check: Hmac, salt: str) -> str:
    """A secret of the form that the check's key function reads."""
    text = made_up_secret(check.secret, salt)
    if isinstance(check, StandardWebhooks):
        return "whsec_" + base64.b64encode(text[:24].encode()).decode()
    raw = text[:30].encode()
    for candidate in (text, base64.b64encode(raw).decode(), raw.hex()):
        try:
            if check.key(candidate):
                return candidate
        except (KeyUnavailable, ValueError):
            continue
    return text


def _with_digest(request: WebhookRequest, check: BodyDigest) -> WebhookRequest:
    parts = urlsplit(request.url)
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] != check.parameter]
    query.append((check.parameter, hashlib.sha256(request.body).hexdigest()))
    return replace(request, url=parts._replace(query=urlencode(query)).geturl())


def _sns_message(body: bytes) -> dict[str, Any]:
    """The body as an SNS message; any other body becomes the content of one."""
    try:
        message = json.loads(body)
    except ValueError:
        message = None
    if isinstance(message, dict) and message.get("Type") in _SIGNED_BY_SNS:
        return message
    return {
        "Type": "Notification",
        "MessageId": "00000000-0000-4000-8000-000000000001",
        "TopicArn": f"{_TOPIC}made-up",
        "Message": body.decode("utf-8", "replace"),
        "Timestamp": "2030-03-17T17:46:40.000Z",
    }


def _certificate_url(topic: str) -> str:
    return f"https://sns.{topic.split(':')[3]}.amazonaws.com/SimpleNotificationService-made-up.pem"


@lru_cache(maxsize=8)
def _signing_key(salt: str) -> tuple[rsa.RSAPrivateKey, str]:
    """A key with its certificate; they are slow to make."""
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    start = datetime.fromtimestamp(NOW, UTC) - timedelta(days=1)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(start).not_valid_after(start + timedelta(days=365))
    return key, made.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()
