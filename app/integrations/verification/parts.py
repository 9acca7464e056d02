"""The parts of a request that a signature can cover, in the order in which a check lists them."""

from dataclasses import dataclass
from typing import Literal, Protocol
from urllib.parse import parse_qs, parse_qsl, unquote, urlsplit

from app.integrations.errors import Refused
from app.integrations.requests import WebhookRequest

from .checks import header_value, on_the_wire


class Part(Protocol):
    """Something of the request, as bytes."""

    def of(self, request: WebhookRequest) -> bytes: ...


@dataclass(frozen=True)
class Body:
    """The raw body."""

    def of(self, request: WebhookRequest) -> bytes:
        return request.body


@dataclass(frozen=True)
class Text:
    """A fixed text."""

    text: str

    def of(self, request: WebhookRequest) -> bytes:
        return self.text.encode()


@dataclass(frozen=True)
class HeaderValue:
    """A header's value; with `prefix`, one of the values in a list such as `t=12,v1=ab` (see `listed`)."""

    name: str
    prefix: str = ""
    separator: str | None = None

    def of(self, request: WebhookRequest) -> bytes:
        return on_the_wire(listed(request, self.name, self.prefix, self.separator)[0])


@dataclass(frozen=True)
class Method:
    """The request method."""

    def of(self, request: WebhookRequest) -> bytes:
        return request.method.encode()


@dataclass(frozen=True)
class Url:
    """The full public URL.

    decoded  percent-decoded except for its `?` (HubSpot)
    port     "added": with a port, the scheme's own if there is none; "removed": without one (Twilio signs
             either); "as_sent": as it is
    """

    decoded: bool = False
    port: Literal["as_sent", "added", "removed"] = "as_sent"

    def of(self, request: WebhookRequest) -> bytes:
        url = request.url
        if self.port != "as_sent":
            parts = urlsplit(url)
            if self.port == "added" and parts.port is None:
                port = {"https": 443, "http": 80}[parts.scheme]
                url = parts._replace(netloc=f"{parts.netloc}:{port}").geturl()
            elif self.port == "removed" and parts.port is not None:
                url = parts._replace(netloc=parts.netloc.rpartition(":")[0]).geturl()
        if self.decoded:
            url = "?".join(unquote(part) for part in url.split("?"))
        return url.encode()


_NO_FORM = b"\0no form"
"""Stands for what nobody signs, so that the refusal is that of any other signature that differs."""


@dataclass(frozen=True)
class SortedForm:
    """The names and values of a form body, sorted, without anything between them; a pair that comes twice
    counts once (Twilio).

    unless  a parameter of the URL that says that the body is no form. An empty form adds nothing to what is
            signed, so without this a signature of the URL alone would hold for it
    """

    unless: str | None = None

    def of(self, request: WebhookRequest) -> bytes:
        if self.unless and self.unless in parse_qs(urlsplit(request.url).query, keep_blank_values=True):
            return _NO_FORM
        try:
            pairs = parse_qsl(request.body.decode(), keep_blank_values=True, max_num_fields=10_000)
        except ValueError:
            raise Refused("signature_differs", "The body is not the form that was signed.") from None
        return "".join(name + value for name, value in sorted(set(pairs))).encode()


@dataclass(frozen=True)
class Timestamp:
    """A signed time in a header that may not be further away from now than `tolerance` seconds.

    `unit` is how many of the header's units make a second: 1, or 1000 for milliseconds. `prefix` and
    `separator` find it in a list such as `t=12,v1=ab`.
    """

    header: str
    tolerance: float = 300.0
    unit: int = 1
    prefix: str = ""
    separator: str | None = None

    def check(self, request: WebhookRequest, now: float) -> None:
        given = listed(request, self.header, self.prefix, self.separator)[0]
        if not (given.isascii() and given.isdigit() and len(given) <= 16):
            raise Refused("timestamp_unreadable", f"The time in the header {self.header} is not in digits.")
        if abs(now - int(given) / self.unit) > self.tolerance:
            raise Refused(
                "timestamp_old",
                f"The time in {self.header} is more than {self.tolerance:g} s away from our clock.",
            )


def listed(request: WebhookRequest, header: str, prefix: str, separator: str | None) -> list[str]:
    """The values in a header that begin with `prefix`, without it: the whole header is one value, or with a
    separator a list of them. Raises Refused if there is none."""
    given = header_value(request, header)
    values = [value.strip() for value in given.split(separator)] if separator else [given]
    found = [value.removeprefix(prefix) for value in values if value.startswith(prefix)]
    if not found or not all(found):
        raise Refused("signature_malformed", f"The header {header} has no value that begins with '{prefix}'.")
    return found
