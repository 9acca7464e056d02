"""Declared checks that a request is genuine.

A check is a pure value: the raw request, the live secrets and the time go in; it returns or raises
`Refused`. Nothing of a stranger's body is interpreted before the check, except where the signature itself
stands inside it. During a rotation a secret has two live values; each check tries them all.

    StaticToken, Basic          the sender shows a shared secret
    Hmac, Ed25519, Ecdsa        the sender signs parts of the request: parts.py says which there are
    StandardWebhooks            as standardwebhooks.com specifies it
    SnsSignature                Amazon SNS: signed fields, certificate by URL
    BodyDigest                  the URL names the body's hash
    AnyOf, AllOf                several checks as one
    BySettings                  the check that the connection's settings choose
"""

from .checks import AllOf, AnyOf, BySettings, LiveSecrets, Verification
from .parts import Body, HeaderValue, Method, Part, SortedForm, Text, Timestamp, Url
from .signatures import Ecdsa, Ed25519, Hmac, StandardWebhooks, base64_key
from .sns import SnsSignature
from .tokens import Basic, BodyDigest, StaticToken
from .words import in_words

__all__ = [
    "AllOf",
    "AnyOf",
    "Basic",
    "Body",
    "BodyDigest",
    "BySettings",
    "Ecdsa",
    "Ed25519",
    "HeaderValue",
    "Hmac",
    "LiveSecrets",
    "Method",
    "Part",
    "SnsSignature",
    "SortedForm",
    "StandardWebhooks",
    "StaticToken",
    "Text",
    "Timestamp",
    "Url",
    "Verification",
    "base64_key",
    "in_words",
]
