"""Declared checks that a request is genuine: published vectors, and everything that must be refused."""

import base64
import hashlib
import hmac
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.integrations.bodies import JsonObject
from app.integrations.errors import DeclarationError, KeyUnavailable, Refused
from app.integrations.requests import Headers, WebhookRequest
from app.integrations.verification import (
    AnyOf,
    Body,
    HeaderValue,
    Hmac,
    Method,
    StaticToken,
    Text,
    Timestamp,
    Url,
    Verification,
)

VECTORS = {
    vector["name"]: vector
    for vector in json.loads((Path(__file__).parents[1] / "fixtures" / "signatures.json").read_text())[
        "vectors"
    ]
}
"""Published by the providers or their own SDKs; each says where it comes from."""

GITHUB = Hmac(header="X-Hub-Signature-256", secret="webhook_secret", prefix="sha256=")
HUBSPOT = Hmac(
    header="X-HubSpot-Signature-v3",
    secret="client_secret",
    encoding="base64",
    signed=(Method(), Url(), Body(), HeaderValue("X-HubSpot-Request-Timestamp")),
    timestamp=Timestamp("X-HubSpot-Request-Timestamp", unit=1000),
)


def request(
    body: bytes = b"{}", url: str = "https://hooks.example/x", method: str = "POST", **headers: str
) -> WebhookRequest:
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return WebhookRequest(method, url, Headers(pairs), body, JsonObject())


def with_header(original: WebhookRequest, name: str, value: str | None) -> WebhookRequest:
    pairs = [(n, v) for n, v in original.headers.pairs if n != name.lower()]
    return replace(original, headers=Headers(pairs if value is None else [*pairs, (name, value)]))


def refusal(
    check: Verification, asked: WebhookRequest, secrets: dict[str, list[str]], now: float = 0.0
) -> str:
    with pytest.raises(Refused) as raised:
        check.verify(asked, secrets, now)
    return raised.value.code


# Published vectors.


def github_request() -> tuple[WebhookRequest, str]:
    vector = VECTORS["github"]
    pairs = [(vector["header"], vector["value"]), ("Content-Type", "application/json")]
    made = WebhookRequest(
        "POST", "https://hooks.example/x", Headers(pairs), vector["body"].encode(), JsonObject()
    )
    return made, vector["secret"]


def hubspot_request() -> tuple[WebhookRequest, str]:
    vector = VECTORS["hubspot v3"]
    pairs = [(vector["header"], vector["value"]), (vector["timestamp_header"], vector["timestamp"])]
    made = WebhookRequest(
        vector["method"], vector["url"], Headers(pairs), vector["body"].encode(), JsonObject()
    )
    return made, vector["secret"]


HUBSPOT_NOW = int(VECTORS["hubspot v3"]["timestamp"]) / 1000


def test_githubs_own_vector_is_genuine() -> None:
    asked, secret = github_request()
    GITHUB.verify(asked, {"webhook_secret": [secret]}, 0.0)


def test_hubspots_own_vector_is_genuine_at_its_time() -> None:
    asked, secret = hubspot_request()
    HUBSPOT.verify(asked, {"client_secret": [secret]}, HUBSPOT_NOW)
    assert refusal(HUBSPOT, asked, {"client_secret": [secret]}, HUBSPOT_NOW + 301) == "timestamp_old"


@pytest.mark.parametrize("part", ["method", "url", "timestamp"])
def test_every_signed_part_counts(part: str) -> None:
    asked, secret = hubspot_request()
    changed = {
        "method": replace(asked, method="PUT"),
        "url": replace(asked, url=asked.url + "?x"),
        "timestamp": with_header(asked, "X-HubSpot-Request-Timestamp", "15000001"),
    }[part]
    assert refusal(HUBSPOT, changed, {"client_secret": [secret]}, HUBSPOT_NOW) == "signature_differs"


# Any change refuses.

positions = st.integers(min_value=0, max_value=10_000)
bits = st.integers(min_value=1, max_value=255)


def flipped(data: bytes, position: int, bit: int) -> bytes:
    changed = bytearray(data)
    changed[position % len(changed)] ^= bit
    return bytes(changed)


@given(st.sampled_from(["github", "hubspot"]), positions, bits)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_changed_byte_of_the_body_refuses(which: str, position: int, bit: int) -> None:
    check, made, name = which_one(which)
    asked, secret = made()
    changed = replace(asked, body=flipped(asked.body, position, bit))
    assert refusal(check, changed, {name: [secret]}, HUBSPOT_NOW) == "signature_differs"


@given(st.sampled_from(["github", "hubspot"]), st.binary(min_size=1, max_size=5), st.booleans())
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_longer_or_shorter_body_refuses(which: str, more: bytes, at_end: bool) -> None:
    check, made, name = which_one(which)
    asked, secret = made()
    for body in (asked.body + more if at_end else more + asked.body, asked.body[: -len(more)], b""):
        assert refusal(check, replace(asked, body=body), {name: [secret]}, HUBSPOT_NOW) == "signature_differs"


@given(st.sampled_from(["github", "hubspot"]), positions, bits)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_changed_byte_of_the_signature_refuses(which: str, position: int, bit: int) -> None:
    check, made, name = which_one(which)
    asked, secret = made()
    given_value = asked.headers[check.header]
    changed = flipped(given_value.encode("latin-1"), position, bit).decode("latin-1")
    assume(signature_bytes(check, changed) != signature_bytes(check, given_value))
    code = refusal(check, with_header(asked, check.header, changed), {name: [secret]}, HUBSPOT_NOW)
    assert code in ("signature_differs", "signature_malformed")


@given(st.sampled_from(["github", "hubspot"]), positions, st.text(min_size=1, max_size=1))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_any_changed_character_of_the_secret_refuses(which: str, position: int, char: str) -> None:
    check, made, name = which_one(which)
    asked, secret = made()
    at = position % len(secret)
    changed = secret[:at] + char + secret[at + 1 :]
    assume(changed != secret)
    assert refusal(check, asked, {name: [changed]}, HUBSPOT_NOW) == "signature_differs"


def which_one(which: str) -> tuple[Hmac, Any, str]:
    if which == "github":
        return GITHUB, github_request, "webhook_secret"
    return HUBSPOT, hubspot_request, "client_secret"


def signature_bytes(check: Hmac, header: str) -> bytes | None:
    """What the header says, if anything: hex in another case and base64's spare bits say the same."""
    if not header.startswith(check.prefix):
        return None
    try:
        text = header.removeprefix(check.prefix)
        return bytes.fromhex(text) if check.encoding == "hex" else base64.b64decode(text, validate=True)
    except ValueError:
        return None


@given(st.text(max_size=100), st.text(max_size=100))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_no_header_is_too_odd_to_refuse(signature: str, timestamp: str) -> None:
    asked, secret = hubspot_request()
    odd = with_header(asked, "X-HubSpot-Signature-v3", signature)
    refusal(HUBSPOT, odd, {"client_secret": [secret]}, HUBSPOT_NOW)
    odd = with_header(asked, "X-HubSpot-Request-Timestamp", timestamp)
    refusal(HUBSPOT, odd, {"client_secret": [secret]}, HUBSPOT_NOW)
    token = StaticToken("X-Token", "shared")
    odd = with_header(asked, "X-Token", signature)
    assume(signature != "right")
    refusal(token, odd, {"shared": ["right"]})


# HMAC's forms.


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "sha512"])
@pytest.mark.parametrize("encoding", ["hex", "base64"])
@pytest.mark.parametrize("prefix", ["", "v1="])
def test_every_form_of_hmac_accepts_its_own(algorithm: Any, encoding: Any, prefix: str) -> None:
    check = Hmac(
        header="X-Sig",
        secret="s",
        algorithm=algorithm,
        encoding=encoding,
        prefix=prefix,
        signed=(Text("v0:"), HeaderValue("X-Id"), Text(":"), Body()),
    )
    digest = hmac.digest(b"key", b"v0:7:{}", algorithm)
    written = digest.hex() if encoding == "hex" else base64.b64encode(digest).decode()
    asked = request(X_Sig=prefix + written, X_Id="7")
    check.verify(asked, {"s": ["key"]}, 0.0)
    assert refusal(check, with_header(asked, "X-Id", "8"), {"s": ["key"]}) == "signature_differs"
    assert refusal(check, with_header(asked, "X-Id", None), {"s": ["key"]}) == "header_missing"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "header_missing"),
        ("", "header_missing"),
        ("sha256=", "signature_malformed"),
        ("sha1=" + "0" * 40, "signature_malformed"),
        ("0" * 64, "signature_malformed"),
        ("sha256=" + "0" * 63, "signature_malformed"),
        ("sha256=" + "0" * 62, "signature_malformed"),
        ("sha256=" + "0" * 66, "signature_malformed"),
        ("sha256=" + "0" * 40, "signature_malformed"),
        ("sha256= " + "0" * 64, "signature_malformed"),
        ("sha256=" + "é" * 64, "signature_malformed"),
        ("sha256=" + "٠" * 64, "signature_malformed"),
        ("sha256=" + "0" * 64, "signature_differs"),
        ("SHA256=" + "0" * 64, "signature_malformed"),
    ],
)
def test_a_signature_of_the_wrong_form_refuses(value: str | None, code: str) -> None:
    asked, secret = github_request()
    assert refusal(GITHUB, with_header(asked, GITHUB.header, value), {"webhook_secret": [secret]}) == code


def test_an_upper_case_signature_says_the_same() -> None:
    asked, secret = github_request()
    upper = "sha256=" + asked.headers[GITHUB.header].removeprefix("sha256=").upper()
    GITHUB.verify(with_header(asked, GITHUB.header, upper), {"webhook_secret": [secret]}, 0.0)


def test_the_key_may_be_written_in_another_way() -> None:
    check = Hmac(header="X-Sig", secret="s", key=base64.b64decode)
    key = b"\x00\xff raw"
    asked = request(X_Sig=hmac.new(key, b"{}", hashlib.sha256).hexdigest())
    check.verify(asked, {"s": [base64.b64encode(key).decode()]}, 0.0)


def test_a_secret_that_cannot_be_a_key_is_our_fault_and_not_the_senders() -> None:
    check = Hmac(header="X-Sig", secret="s", key=partial(base64.b64decode, validate=True))
    asked = request(X_Sig=hmac.new(b"key", b"{}", hashlib.sha256).hexdigest())
    good, bad = base64.b64encode(b"key").decode(), "planted-not-base64!"
    check.verify(asked, {"s": [bad, good]}, 0.0)
    for live in ([bad], [bad, base64.b64encode(b"other").decode()]):
        with pytest.raises(KeyUnavailable) as raised:
            check.verify(asked, {"s": live}, 0.0)
        assert raised.value.code == "secret_malformed"
        assert "planted" not in str(raised.value)


def test_two_live_secrets_are_both_accepted_and_a_third_is_not() -> None:
    asked, secret = github_request()
    GITHUB.verify(asked, {"webhook_secret": ["newer", secret]}, 0.0)
    GITHUB.verify(asked, {"webhook_secret": [secret, "older"]}, 0.0)
    assert refusal(GITHUB, asked, {"webhook_secret": ["newer", "newest"]}) == "signature_differs"


@pytest.mark.parametrize("check", [GITHUB, HUBSPOT, StaticToken("X-Hub-Signature-256", "webhook_secret")])
@pytest.mark.parametrize("secrets", [{}, {"webhook_secret": [], "client_secret": []}])
def test_a_missing_secret_is_our_fault_and_not_the_senders(
    check: Verification, secrets: dict[str, list[str]]
) -> None:
    asked, _ = hubspot_request() if check is HUBSPOT else github_request()
    with pytest.raises(KeyUnavailable) as raised:
        check.verify(asked, secrets, HUBSPOT_NOW)
    assert raised.value.code == "secret_missing"


# Time.


def timed(stamp: str, unit: int = 1) -> tuple[Hmac, WebhookRequest]:
    check = Hmac(
        header="X-Sig",
        secret="s",
        signed=(HeaderValue("X-Time"), Body()),
        timestamp=Timestamp("X-Time", tolerance=300, unit=unit),
    )
    signature = hmac.digest(b"key", stamp.encode("latin-1", "replace") + b"{}", "sha256").hex()
    return check, request(X_Sig=signature, X_Time=stamp)


@pytest.mark.parametrize(("stamp", "unit"), [("1000000", 1), ("1000000000", 1000)])
def test_a_time_may_be_as_far_away_as_the_tolerance_in_both_directions(stamp: str, unit: int) -> None:
    check, asked = timed(stamp, unit)
    for now in (1_000_000, 1_000_300, 999_700, 1_000_299.9):
        check.verify(asked, {"s": ["key"]}, now)
    for now in (1_000_300.1, 999_699.9, 0.0, 2e9):
        assert refusal(check, asked, {"s": ["key"]}, now) == "timestamp_old"


@pytest.mark.parametrize(
    "stamp",
    ["-1000000", "+1000000", "1e6", "1000000.0", " 1000000", "0x10", "١٠٠٠٠٠٠", "²", "9" * 17, "soon"],
)
def test_a_time_that_is_not_digits_refuses(stamp: str) -> None:
    check, asked = timed(stamp)
    assert refusal(check, asked, {"s": ["key"]}, 1_000_000) == "timestamp_unreadable"


def test_a_missing_time_refuses() -> None:
    check, asked = timed("1000000")
    for value in (None, ""):
        changed = with_header(asked, "X-Time", value)
        assert refusal(check, changed, {"s": ["key"]}, 1_000_000) == "header_missing"


def test_a_time_that_is_not_signed_is_refused_at_declaration() -> None:
    """Whoever replays an old request would simply write a new time."""
    for signed in ((Body(),), (HeaderValue("X-Other"), Body())):
        with pytest.raises(DeclarationError, match="X-Time"):
            Hmac(header="X-Sig", secret="s", signed=signed, timestamp=Timestamp("X-Time"))
    Hmac(
        header="X-Sig",
        secret="s",
        signed=(HeaderValue("x-time"), Body()),
        timestamp=Timestamp("X-Time"),
    )


def test_an_hmac_of_nothing_is_refused_at_declaration() -> None:
    with pytest.raises(DeclarationError, match="signed"):
        Hmac(header="X-Sig", secret="s", signed=())


# Static tokens.


@pytest.mark.parametrize("prefix", ["", "Bearer "])
def test_a_static_token_is_compared_as_it_is(prefix: str) -> None:
    check = StaticToken("X-Token", "shared", prefix)
    for secrets in (["right"], ["newer", "right"]):
        check.verify(request(X_Token=prefix + "right"), {"shared": secrets}, 0.0)
    for value in ("wrong", "right ", "righ", "rightt", "Right", "bearer right", "right\xe9", "é"):
        if value != prefix + "right":
            assert refusal(check, request(X_Token=value), {"shared": ["right"]}) == "token_differs"
    for missing in (request(), request(X_Token="")):
        assert refusal(check, missing, {"shared": ["right"]}) == "header_missing"


def test_a_token_beyond_ascii_is_compared_by_the_bytes_on_the_wire() -> None:
    check = StaticToken("X-Token", "shared")
    as_received = "gehéim".encode().decode("latin-1")
    check.verify(request(X_Token=as_received), {"shared": ["gehéim"]}, 0.0)
    assert refusal(check, request(X_Token="gehéim"), {"shared": ["gehéim"]}) == "token_differs"


def test_refusals_never_show_secrets_or_values() -> None:
    planted = "planted-value"
    for check in (StaticToken("X-A", "s"), Hmac("X-A", "s"), Hmac("X-A", "s", prefix="sha256=")):
        for value in (planted, "sha256=" + planted, "0" * 64):
            with pytest.raises(Refused) as raised:
                check.verify(request(X_A=value), {"s": [planted + "-secret"]}, 0.0)
            assert planted not in str(raised.value)
            assert "X-A" in str(raised.value)


# Composition.


def test_one_of_several_checks_is_enough_and_the_first_refusal_is_told() -> None:
    check = AnyOf(StaticToken("X-Token", "shared"), GITHUB)
    asked, secret = github_request()
    live = {"shared": ["right"], "webhook_secret": [secret]}
    check.verify(asked, live, 0.0)
    check.verify(request(X_Token="right"), live, 0.0)
    assert refusal(check, request(X_Token="wrong"), live) == "token_differs"
    assert refusal(check, request(), live) == "header_missing"
    assert check.secret_names == {"shared", "webhook_secret"}
    assert check.credential_headers == {"x-token"}


def test_a_missing_secret_does_not_hide_a_check_that_can_be_made() -> None:
    check = AnyOf(StaticToken("X-Hub-Signature-256", "shared"), GITHUB)
    asked, secret = github_request()
    check.verify(asked, {"webhook_secret": [secret]}, 0.0)
    with pytest.raises(KeyUnavailable):
        check.verify(asked, {"webhook_secret": ["other"]}, 0.0)


def test_only_a_header_that_is_the_secret_is_kept_from_storage() -> None:
    assert StaticToken("X-Token", "s").credential_headers == {"x-token"}
    assert GITHUB.credential_headers == frozenset()
    assert GITHUB.secret_names == {"webhook_secret"}
