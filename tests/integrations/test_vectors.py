"""Published requests against what the connectors declare: genuine as they are, refused when one byte differs.

`fixtures/signatures.json` and `fixtures/published_requests.json` say where each is from.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest

from app.integrations.errors import KeyUnavailable, Refused
from app.integrations.registry import Registry
from app.integrations.requests import Headers, WebhookRequest
from app.integrations.verification import Basic, Method, StaticToken, Url, Verification

FIXTURES = Path(__file__).parents[1] / "fixtures"
REGISTRY = Registry.discover(entry_point_group=None)
URL = "https://hooks.example.com/x"
SMALL = 64
"""Bytes of a body up to which every position gets every other value."""

UNPUBLISHED = {
    "email": "nobody may send to it",
    "ses": "its messages name certificates that are gone; tests/integrations/connectors/ses makes its own",
    "stripe": "its SDKs make the signatures of their tests, by the time of the test",
    "telegram": "it shows a token that everybody chooses",
}
"""Connectors with a verification for which no request is published, and why."""


@dataclass(frozen=True)
class Vector:
    """A published request, and what makes it genuine."""

    name: str
    connector: str
    request: WebhookRequest
    secrets: dict[str, str]
    at: float
    settings: dict[str, Any]

    @property
    def check(self) -> Verification:
        found = REGISTRY.integrations[self.connector].verification_for(self.settings)
        assert found is not None
        return found

    @property
    def live(self) -> dict[str, list[str]]:
        return {name: [value] for name, value in self.secrets.items()}

    def verify(self, request: WebhookRequest, live: dict[str, list[str]] | None = None) -> None:
        self.check.verify(request, live or self.live, self.at)

    def refuses(self, request: WebhookRequest, live: dict[str, list[str]] | None = None) -> bool:
        try:
            self.verify(request, live)
        except Refused:
            return True
        return False


def vector(
    name: str,
    connector: str,
    body: bytes,
    headers: dict[str, str],
    secrets: dict[str, str],
    *,
    url: str = URL,
    method: str = "POST",
    at: float = 0.0,
    settings: dict[str, Any] | None = None,
) -> Vector:
    spec = REGISTRY.integrations[connector].connector.body
    request = WebhookRequest(method, url, Headers(headers.items()), body, spec)
    return Vector(name, connector, request, secrets, at, settings or {})


def shared() -> Iterator[Vector]:
    """The requests of signatures.json, each as its connector gets it."""
    made = json.loads((FIXTURES / "signatures.json").read_text())["vectors"]
    known = {one["name"]: one for one in made}
    one = known.pop("github")
    yield vector(
        "github",
        "github",
        one["body"].encode(),
        {one["header"]: one["value"]},
        {"webhook_secret": one["secret"]},
    )
    one = known.pop("hubspot v3")
    yield vector(
        "hubspot v3",
        "hubspot",
        one["body"].encode(),
        {one["header"]: one["value"], one["timestamp_header"]: one["timestamp"]},
        {"client_secret": one["secret"]},
        url=one["url"],
        method=one["method"],
        at=int(one["timestamp"]) / 1000,
    )
    one = known.pop("twilio form")
    yield vector(
        "twilio form",
        "twilio",
        urlencode(one["params"]).encode(),
        {one["header"]: one["value"]},
        {"auth_token": one["secret"]},
        url=one["url"],
    )
    assert not known, f"Nothing here knows what to do with {sorted(known)}."


def published() -> Iterator[Vector]:
    for one in json.loads((FIXTURES / "published_requests.json").read_text())["vectors"]:
        body = bytes.fromhex(one["body_hex"]) if "body_hex" in one else one["body"].encode()
        yield vector(
            one["name"],
            one["connector"],
            body,
            one["headers"],
            one["secrets"],
            url=one["url"],
            method=one["method"],
            at=one.get("at", 0.0),
            settings=one.get("settings"),
        )


VECTORS = [*shared(), *published()]
every_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda one: one.name)


def test_every_verification_has_a_vector_or_a_reason_for_none() -> None:
    named = {one.connector for one in VECTORS}
    assert named & UNPUBLISHED.keys() == set()
    known = REGISTRY.integrations.values()
    verified = {integration.key for integration in known if integration.connector.verification is not None}
    assert verified - named - UNPUBLISHED.keys() == set()


@every_vector
def test_it_is_genuine(vector: Vector) -> None:
    vector.verify(vector.request)
    for name, value in vector.secrets.items():
        # During a rotation, whatever the other value is.
        vector.verify(vector.request, vector.live | {name: ["another", value]})
        vector.verify(vector.request, vector.live | {name: [value, "another"]})


@every_vector
def test_another_byte_of_the_body_refuses(vector: Vector) -> None:
    if isinstance(vector.check, StaticToken | Basic):
        return  # what is shown says nothing about the body
    body = vector.request.body
    masks = range(1, 256) if len(body) <= SMALL else (1, 2, 0x10, 0x20, 0x80)
    for position in range(len(body)):
        for mask in masks:
            changed = body[:position] + bytes([body[position] ^ mask]) + body[position + 1 :]
            if is_the_same_form(vector, changed):
                continue
            assert vector.refuses(replace(vector.request, body=changed)), (position, mask)
    for changed in (b"", body[:-1], body[1:], body + b"\n", b" " + body, body + body):
        if changed != body and not is_the_same_form(vector, changed):
            assert vector.refuses(replace(vector.request, body=changed)), changed


@every_vector
def test_another_character_of_a_signed_header_refuses(vector: Vector) -> None:
    for name, value in vector.request.headers.pairs:
        for changed in (None, "", value[:-1], value + "x", "\xe9" * len(value)):
            assert vector.refuses(with_header(vector.request, name, changed)), (name, changed)
        for position in range(len(value)):
            for other in (chr(ord(value[position]) ^ 1), "A", "0", "\xff"):
                changed = value[:position] + other + value[position + 1 :]
                if not is_the_same_signature(value, changed):
                    assert vector.refuses(with_header(vector.request, name, changed)), (name, changed)


@every_vector
def test_another_character_of_the_url_or_another_method_refuses_if_they_are_signed(vector: Vector) -> None:
    parts = signed_parts(vector.check)
    request = vector.request
    if any(isinstance(part, Url) for part in parts):
        start = request.url.index("/", len("https://")) + 1
        for position in range(start, len(request.url)):
            changed = (
                request.url[:position] + chr(ord(request.url[position]) ^ 1) + request.url[position + 1 :]
            )
            assert vector.refuses(replace(request, url=changed)), changed
        assert vector.refuses(replace(request, url=request.url.replace(".com", ".org")))
        assert vector.refuses(
            replace(request, url=request.url + ("&" if "?" in request.url else "?") + "x=1")
        )
    if any(isinstance(part, Method) for part in parts):
        assert vector.refuses(replace(request, method="PUT"))


@every_vector
def test_another_character_of_the_secret_refuses(vector: Vector) -> None:
    for name, value in vector.secrets.items():
        for position in range(len(value)):
            changed = value[:position] + chr(ord(value[position]) ^ 1) + value[position + 1 :]
            try:
                assert vector.refuses(vector.request, vector.live | {name: [changed]}), position
            except KeyUnavailable:  # it is no key any more
                continue


@every_vector
def test_it_is_genuine_at_its_time_only(vector: Vector) -> None:
    if vector.at:
        for away in (-301, 301):
            assert replace(vector, at=vector.at + away).refuses(vector.request)


def with_header(request: WebhookRequest, name: str, value: str | None) -> WebhookRequest:
    pairs = [pair for pair in request.headers.pairs if pair[0] != name]
    return replace(request, headers=Headers(pairs if value is None else [*pairs, (name, value)]))


def signed_parts(check: Any) -> list[Any]:
    inner = [part for one in getattr(check, "checks", ()) for part in signed_parts(one)]
    return [*inner, *getattr(check, "signed", ())]


def is_the_same_form(vector: Vector, body: bytes) -> bool:
    """Whether a form says the same in other bytes, such as %2b for %2B: Twilio signs what it says."""
    if vector.connector != "twilio" or vector.request.body.startswith(b"{"):
        return False
    return fields(body) == fields(vector.request.body)


def fields(body: bytes) -> set[tuple[str, str]]:
    return set(parse_qsl(body.decode("latin-1"), keep_blank_values=True, encoding="latin-1"))


def is_the_same_signature(value: str, changed: str) -> bool:
    """Whether two values stand for the same bytes: hex in another case, the spare bits of base64."""
    if value.lower() == changed.lower():
        return True
    before, after = (text.rpartition(" ")[2].rpartition(",")[2] for text in (value, changed))
    try:
        return base64.b64decode(before, validate=True) == base64.b64decode(after, validate=True)
    except ValueError:
        return False


def test_a_key_of_an_unknown_kind_is_ours_to_mend() -> None:
    sendgrid = next(one for one in VECTORS if one.name == "sendgrid")
    der = bytearray(base64.b64decode(sendgrid.secrets["verification_key"]))
    der[12] ^= 1  # in the identifier of what kind of key it is
    with pytest.raises(KeyUnavailable) as caught:
        sendgrid.verify(sendgrid.request, {"verification_key": [base64.b64encode(der).decode()]})
    assert caught.value.code == "secret_malformed"


def test_a_signed_url_that_names_a_digest_does_not_vouch_for_an_empty_form() -> None:
    """An empty form adds nothing to what Twilio signs, so anybody on the way could take the body out."""
    twilio = next(one for one in VECTORS if one.name == "twilio json")
    for body in (b"", b"&", b"&&&"):
        assert twilio.refuses(replace(twilio.request, body=body))
