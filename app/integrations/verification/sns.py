"""Amazon SNS: the signature covers named fields of the JSON body, and the body names the certificate.

Source: docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html
"""

import base64
import binascii
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, TypeGuard

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, HashAlgorithm

from app.integrations.bodies import decode_json
from app.integrations.errors import InvalidBody, KeyNeeded, KeyUnavailable, Refused
from app.integrations.requests import WebhookRequest

from .checks import LiveSecrets, live_values

# Of the form of a region, because `sns.s3-us-west-2.amazonaws.com` is whoever's bucket is called "sns".
_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]+")
_ARN = re.compile(r"arn:aws[a-z-]*:sns:([^:]*):[^:]*:[^:]+")
# Nothing but a file: what the API answers to a query may hold what the query said.
_CERTIFICATE = r"/[A-Za-z0-9_-]+\.pem"
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


def is_sns_url(url: object, topic: str, path: str = "/[!-~]*") -> TypeGuard[str]:
    """Whether a URL leads to Amazon SNS in the region of `topic`, over HTTPS and nowhere else. `path` is the
    pattern that what follows the host has to match."""
    arn = _ARN.fullmatch(topic)
    if not isinstance(url, str) or arn is None or not _REGION.fullmatch(arn[1]):
        return False
    # Matched as a text: parsers disagree about what stands between the scheme and the path.
    return re.fullmatch(rf"https://sns\.{arn[1]}\.amazonaws\.com(\.cn)?{path}", url) is not None


@dataclass(frozen=True)
class SnsSignature:
    """An Amazon SNS message of one topic, signed with the key of a certificate that Amazon's host gives.

    Anybody with an account can have Amazon sign messages of a topic of their own, so the topic is pinned:
    `topic_secret` names the declared secret that holds its ARN, and nothing of another topic is looked at.
    """

    topic_secret: str

    credential_headers: ClassVar[frozenset[str]] = frozenset()

    @property
    def secret_names(self) -> frozenset[str]:
        return frozenset({self.topic_secret})

    def verify(self, request: WebhookRequest, secrets: LiveSecrets, now: float) -> None:
        message = _message(request.body)
        topic = message.get("TopicArn", "")
        if topic not in [arn.strip() for arn in live_values(secrets, self.topic_secret)]:
            raise Refused("topic_differs", "TopicArn is not the connection's topic.")
        certificate_url = message.get("SigningCertURL")
        if not is_sns_url(certificate_url, topic, _CERTIFICATE):
            raise Refused(
                "certificate_elsewhere", "SigningCertURL does not lead to Amazon SNS in the topic's region."
            )
        digest = _HASHES.get(message.get("SignatureVersion", ""))
        if digest is None:
            raise Refused("signature_malformed", "SignatureVersion is neither 1 nor 2.")
        try:
            signature = base64.b64decode(message.get("Signature", ""), validate=True)
        except (ValueError, binascii.Error):
            raise Refused("signature_malformed", "Signature is not base64.") from None
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
    kind = value.get("Type") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in _SIGNED:
        raise Refused(
            "signature_malformed", "The body is not an SNS message; raw message delivery has to be off."
        )
    fields = (*_SIGNED[kind], "SigningCertURL", "SignatureVersion", "Signature")
    if not all(isinstance(value.get(name, ""), str) for name in fields):
        raise Refused("signature_malformed", "A signed field is not a string.")
    return dict(value)


def _signed_text(message: dict[str, str]) -> bytes:
    pairs = ((name, message.get(name)) for name in _SIGNED[message["Type"]])
    return "".join(f"{name}\n{value}\n" for name, value in pairs if value is not None).encode()


@lru_cache(maxsize=64)
def _public_key(pem: str) -> RSAPublicKey:
    # Imported when needed, as few platforms need it: every start would take longer by it.
    from cryptography.x509 import InvalidVersion, load_pem_x509_certificate

    try:
        key = load_pem_x509_certificate(pem.encode()).public_key()
    except (ValueError, InvalidVersion, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, RSAPublicKey):
        raise KeyUnavailable("certificate_unusable", "What SigningCertURL gave is not an RSA certificate.")
    return key
