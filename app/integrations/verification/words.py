"""A check in words, for the catalogue: what a sender has to show."""

import inspect

from .checks import AllOf, AnyOf, BySettings, Verification
from .parts import Body, HeaderValue, Method, Part, SortedForm, Text, Url
from .signatures import Ecdsa, Ed25519, Hmac
from .sns import SnsSignature
from .tokens import Basic, BodyDigest, StaticToken

_PORTS = {"as_sent": "", "added": " with its port", "removed": " without its port"}


def in_words(check: Verification | None) -> str:
    """What proves that a request is genuine, as part of a sentence."""
    match check:
        case None:
            return "none; the unguessable URL is all that proves a sender"
        case StaticToken():
            return f"the secret {check.secret} itself, in the header {check.header}"
        case Basic():
            return f"HTTP Basic with the secrets {check.user} and {check.password}"
        case Hmac():
            return f"HMAC-{check.algorithm.upper()} with the secret {check.secret}, {_signature(check)}"
        case Ed25519():
            return f"Ed25519 with the public key {check.secret}, {_signature(check)}"
        case Ecdsa():
            return f"ECDSA with the public key {check.secret}, {_signature(check)}"
        case SnsSignature():
            return f"Amazon SNS's signature of a message of the topic {check.topic_secret}"
        case BodyDigest():
            return f"the body's SHA-256 in the URL's parameter {check.parameter}"
        case AnyOf():
            return "; or ".join(map(in_words, check.checks))
        case AllOf():
            return " and ".join(map(in_words, check.checks))
        case BySettings():
            return f"what the connection's settings choose, with the secret {', '.join(check.secrets)}"
        case _:
            described = (inspect.getdoc(type(check)) or type(check).__name__).splitlines()[0]
            return described.rstrip(".")


def _signature(check: Hmac | Ed25519 | Ecdsa) -> str:
    place = f"as {check.encoding} in the header {check.header}"
    covered = " + ".join(map(_part, check.signed))
    age = f", at most {check.timestamp.tolerance:g} s old" if check.timestamp else ""
    return f"{place}, over {covered}{age}"


def _part(part: Part) -> str:
    match part:
        case Body():
            return "the body"
        case Text():
            return f"'{part.text}'"
        case HeaderValue():
            return f"{part.prefix}… of the header {part.name}" if part.prefix else f"the header {part.name}"
        case Method():
            return "the method"
        case Url():
            return f"the URL{_PORTS[part.port]}{', decoded' if part.decoded else ''}"
        case SortedForm():
            return "the form's sorted fields"
        case _:
            return type(part).__name__
