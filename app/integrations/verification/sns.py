"""Amazon SNS: the signature covers named fields of the JSON body, and the body names the certificate.

Source: docs.aws.amazon.com/sns/latest/dg, "Verifying the signatures of Amazon SNS messages".
"""

import base64
import binascii
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, TypeGuard
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm
from cryptography.x509 import load_pem_x509_certificate

from app.integrations.bodies import decode_json
from app.integrations.errors import InvalidBody, KeyNeeded, KeyUnavailable, Refused
from app.integrations.requests import WebhookRequest

from .checks import LiveSecrets

_HOST = re.compile(r"sns\.[a-z0-9-]{3,}\.amazonaws\.com(\.cn)?")
_SIGNED = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": (
        "Message",
        "MessageId",
        "SubscribeURL",
        "Timestamp",
        "Token",
        "TopicArn",
        "Type",
    ),
}
_SIGNED["UnsubscribeConfirmation"] = _SIGNED["SubscriptionConfirmation"]
_HASHES: dict[str, type[HashAlgorithm]] = {"1": SHA1, "2": SHA256}


def is_sns_url(url: object) -> TypeGuard[str]:
    """Whether a URL leads to Amazon SNS, over HTTPS and nowhere else."""
    if not isinstance(url, str):
        return False
    parts = urlsplit(url)
    return parts.scheme == "https" and _HOST.fullmatch(parts.netloc) is not None


@dataclass(frozen=True)
class SnsSignature:
    """An Amazon SNS message. It takes no secret: the topic is the connection's own (`topic_secret` names the
    secret that holds its ARN), and the certificate comes from Amazon's host only."""

    topic_secret: str | None = None

    credential_headers: ClassVar[frozenset[str]] = frozenset()

    @property
    def secret_names(self) -> frozenset[str]:
        return frozenset({self.topic_secret} if self.topic_secret else ())

    def verify(self, request: WebhookRequest, secrets: LiveSecrets, now: float) -> None:
        message = _message(request.body)
        certificate_url = message.get("SigningCertURL")
        if not is_sns_url(certificate_url) or not urlsplit(certificate_url).path.endswith(".pem"):
            raise Refused("certificate_elsewhere", "SigningCertURL does not lead to Amazon SNS.")
        digest = _HASHES.get(message.get("SignatureVersion", ""))
        if digest is None:
            raise Refused("signature_malformed", "SignatureVersion is neither 1 nor 2.")
        try:
            signature = base64.b64decode(message.get("Signature", ""), validate=True)
        except (ValueError, binascii.Error):
            raise Refused("signature_malformed", "Signature is not base64.") from None
        if self.topic_secret and message.get("TopicArn") not in secrets.get(self.topic_secret, ()):
            raise Refused("topic_differs", "TopicArn is not the connection's topic.")
        certificates = secrets.get(certificate_url)
        if not certificates:
            raise KeyNeeded(certificate_url)
        try:
            _public_key(certificates[0]).verify(signature, _signed_text(message), PKCS1v15(), digest())
        except InvalidSignature:
            raise Refused("signature_differs", "Signature was not made from this message.") from None


def _message(body: bytes) -> dict[str, str]:
    try:
        value: Any = decode_json(body)
    except InvalidBody as error:
        raise Refused("signature_malformed", f"The body holds no signed message. {error}") from None
    if not isinstance(value, dict) or value.get("Type") not in _SIGNED:
        raise Refused("signature_malformed", "The body is not an SNS message.")
    fields = (*_SIGNED[value["Type"]], "SigningCertURL", "SignatureVersion", "Signature")
    if not all(isinstance(value.get(name, ""), str) for name in fields):
        raise Refused("signature_malformed", "A signed field is not a string.")
    return value


def _signed_text(message: dict[str, str]) -> bytes:
    pairs = ((name, message.get(name)) for name in _SIGNED[message["Type"]])
    return "".join(f"{name}\n{value}\n" for name, value in pairs if value is not None).encode()


@lru_cache(maxsize=64)
def _public_key(pem: str) -> RSAPublicKey:
    try:
        key = load_pem_x509_certificate(pem.encode()).public_key()
    except ValueError:
        key = None
    if not isinstance(key, RSAPublicKey):
        raise KeyUnavailable("certificate_unusable", "What SigningCertURL gave is not an RSA certificate.")
    return key
