"""The connectors' HTTP client: what it raises, what it notes in the attempt, and what it never says."""

import asyncio
import base64
import contextlib
import gzip
import logging
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.integrations.errors import (
    AuthenticationFailed,
    NotSent,
    ProviderError,
    RateLimited,
    Rejected,
    Unavailable,
)
from app.integrations.http import (
    MAX_MESSAGE,
    MAX_RETRY_AFTER,
    AttemptTrace,
    ConnectorHttp,
    current_attempt,
    retry_after_seconds,
)
from tests.support.wire import Exchange, refused_url, wire_server

SECRET = "123456:ab/cd+ef gh"
"""Made of characters that URLs write differently."""


@contextlib.contextmanager
def attempting() -> Iterator[AttemptTrace]:
    trace = AttemptTrace()
    token = current_attempt.set(trace)
    try:
        yield trace
    finally:
        current_attempt.reset(token)


async def failure_of(http: ConnectorHttp, method: str = "POST", url: str = "/x", **options: Any) -> Any:
    """The typed error of a request, and what it did on the wire."""
    with attempting() as trace:
        try:
            await http.request(method, url, **options)
        except ProviderError as error:
            return error, trace
        finally:
            await http.aclose()
    pytest.fail("the request succeeded")


def answering(status: int, body: Any = None, **headers: str) -> httpx2.MockTransport:
    lines = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.MockTransport(lambda _: httpx2.Response(status, json=body, headers=lines))


# Statuses.


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (300, Rejected),
        (301, Rejected),
        (302, Unavailable),
        (303, Unavailable),
        (307, Rejected),
        (400, Rejected),
        (401, AuthenticationFailed),
        (403, AuthenticationFailed),
        (404, Rejected),
        (408, Unavailable),
        (409, Rejected),
        (410, Rejected),
        (422, Rejected),
        (429, RateLimited),
        (500, Unavailable),
        (502, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
        (599, Unavailable),
    ],
)
async def test_a_status_means_one_kind_of_error(status: int, kind: type[ProviderError]) -> None:
    error, trace = await failure_of(ConnectorHttp("http://provider", transport=answering(status)))
    assert type(error) is kind
    assert error.status == trace.status == status
    assert trace.begun is (kind is Unavailable), "what the provider refuses has had no effect"
    assert str(status) in str(error)


@pytest.mark.parametrize("status", [200, 201, 202, 204])
async def test_a_good_status_is_an_answer(status: int) -> None:
    http = ConnectorHttp("http://provider", transport=answering(status))
    with attempting() as trace:
        assert (await http.post("/x")).status_code == status
    assert (trace.begun, trace.status) == (True, status)


@pytest.mark.parametrize(("method", "begun"), [("GET", False), ("HEAD", False), ("OPTIONS", False)])
async def test_a_request_without_effect_does_not_begin_the_attempt(method: str, begun: bool) -> None:
    error, trace = await failure_of(ConnectorHttp("http://provider", transport=answering(500)), method)
    assert (type(error), trace.begun, trace.status) == (Unavailable, begun, 500)


async def test_redirects_are_not_followed() -> None:
    async def redirect(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.answer(302, location="/elsewhere")

    async with wire_server(redirect) as wire:
        error, trace = await failure_of(ConnectorHttp(wire.url), "GET")
        assert (type(error), error.status, trace.status) == (Rejected, 302, 302)
        assert len(wire.requests) == 1


# Retry-After.


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("99999999999999999999", MAX_RETRY_AFTER),
        ("86401", MAX_RETRY_AFTER),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        (None, None),
        ("Mon, 32 Jan 2024 00:00:00 GMT", None),
        ("Mon, 01 Jan 99999 00:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_nothing(header: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(header) == seconds


def test_retry_after_may_be_a_date() -> None:
    now = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    at = format_datetime(now + timedelta(seconds=90), usegmt=True)
    assert retry_after_seconds(at, now) == 90
    assert retry_after_seconds("Mon, 06 May 2024 07:08:10", now) == 1
    assert retry_after_seconds(format_datetime(now - timedelta(days=1)), now) == 0
    assert retry_after_seconds(format_datetime(now + timedelta(days=999)), now) == MAX_RETRY_AFTER


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_no_retry_after_header_is_too_odd_to_read(header: str) -> None:
    seconds = retry_after_seconds(header)
    assert seconds is None or 0 <= seconds <= MAX_RETRY_AFTER


@pytest.mark.parametrize("status", [429, 503])
async def test_the_provider_is_obeyed_when_it_says_how_long_to_wait(status: int) -> None:
    error, _ = await failure_of(ConnectorHttp("http://p", transport=answering(status, retry_after="17")))
    assert error.retry_after == 17
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    error, _ = await failure_of(ConnectorHttp("http://p", transport=answering(status, retry_after=date)))
    assert 55 <= error.retry_after <= 60


# The wire.


async def test_a_refused_connection_sent_nothing() -> None:
    error, trace = await failure_of(ConnectorHttp(refused_url()))
    assert type(error) is NotSent
    assert (trace.begun, trace.status) == (False, None)


async def test_a_reset_before_anything_was_read_may_have_happened() -> None:
    async def reset(exchange: Exchange) -> None:
        exchange.reset()

    async with wire_server(reset) as wire:
        error, trace = await failure_of(ConnectorHttp(wire.url), json={"text": "x"})
    assert type(error) is Unavailable
    assert (trace.begun, trace.status) == (True, None)


async def test_a_reset_after_the_request_was_read_may_have_happened() -> None:
    async def reset(exchange: Exchange) -> None:
        await exchange.request()
        exchange.reset()

    async with wire_server(reset) as wire:
        error, trace = await failure_of(ConnectorHttp(wire.url), json={"text": "x"})
        assert len(wire.requests) == 1, "it must not be sent again by itself"
    assert type(error) is Unavailable
    assert (trace.begun, trace.status) == (True, None)


async def test_a_closed_connection_without_an_answer_may_have_happened() -> None:
    async def close(exchange: Exchange) -> None:
        await exchange.request()

    async with wire_server(close) as wire:
        error, trace = await failure_of(ConnectorHttp(wire.url))
        assert len(wire.requests) == 1
    assert (type(error), trace.begun) == (Unavailable, True)


async def test_a_reset_while_the_body_is_being_sent_may_have_happened() -> None:
    async def reset(exchange: Exchange) -> None:
        await exchange.reader.readuntil(b"\r\n\r\n")
        exchange.reset()

    async with wire_server(reset) as wire:
        error, trace = await failure_of(ConnectorHttp(wire.url), content=b"x" * 30_000_000)
    assert (type(error), trace.begun) == (Unavailable, True)


async def test_no_answer_in_time_may_have_happened() -> None:
    async def hang(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.hang()

    async with wire_server(hang) as wire:
        error, trace = await failure_of(ConnectorHttp(wire.url, timeout=0.3))
    assert type(error) is Unavailable
    assert "in time" in str(error)
    assert (trace.begun, trace.status) == (True, None)


async def test_half_an_answer_may_have_happened() -> None:
    async def half(exchange: Exchange) -> None:
        await exchange.request()
        exchange.writer.write(b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"id": ')

    async with wire_server(half) as wire:
        error, trace = await failure_of(ConnectorHttp(wire.url))
    assert (type(error), trace.begun) == (Unavailable, True)


async def test_an_answer_that_is_not_http_may_have_happened() -> None:
    async def garbage(exchange: Exchange) -> None:
        await exchange.request()
        exchange.writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")

    async with wire_server(garbage) as wire:
        error, trace = await failure_of(ConnectorHttp(wire.url))
    assert (type(error), trace.begun) == (Unavailable, True)


async def test_a_call_that_is_cancelled_while_it_waits_has_begun() -> None:
    async def hang(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.hang()

    async with wire_server(hang) as wire:
        http = ConnectorHttp(wire.url)
        with attempting() as trace:
            calling = asyncio.create_task(http.post("/x"))
        while not wire.requests:
            await asyncio.sleep(0.01)
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)
        assert trace.begun
        await http.aclose()


async def test_no_pool_slot_sent_nothing() -> None:
    async def hang(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.hang()

    async with wire_server(hang) as wire:
        http = ConnectorHttp(wire.url, timeout=0.5)
        http._client = httpx2.AsyncClient(limits=httpx2.Limits(max_connections=1))
        first = asyncio.create_task(http.post("/first", timeout=30))
        while not wire.requests:
            await asyncio.sleep(0.01)
        with attempting() as trace, pytest.raises(NotSent):
            await http.post("/second", timeout=0.1)
        assert not trace.begun
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await http.aclose()


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("ftp://provider/x", {}),
        ("http://[::1", {}),
        ("http://127.0.0.1:port/", {}),
        ("/a\nb", {}),
        ("/x", {"Bad Name": "x"}),
        ("/x", {"X-Text": "two\nlines"}),
        ("/x", {"X-Text": "héllo"}),
    ],
)
async def test_a_request_that_cannot_be_written_was_not_sent(url: str, headers: dict[str, str]) -> None:
    async def hang(exchange: Exchange) -> None:
        await exchange.hang()

    async with wire_server(hang) as wire:
        error, trace = await failure_of(ConnectorHttp(wire.url), url=url, headers=headers)
        assert type(error) is NotSent
        assert not trace.begun
        assert wire.requests == []


async def test_content_that_is_not_json_was_not_sent() -> None:
    error, trace = await failure_of(ConnectorHttp(refused_url()), json={"a": {1, 2}})
    assert (type(error), trace.begun) == (NotSent, False)


async def test_an_earlier_request_of_the_attempt_is_not_forgotten() -> None:
    """The second exchange was not sent, but the attempt as a whole has begun."""

    async def once(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.answer(200, connection="close")

    async with wire_server(once) as wire:
        http = ConnectorHttp(wire.url)
        with attempting() as trace:
            await http.post("/first")
            with pytest.raises(NotSent):
                await http.post(refused_url() + "/second")
            with pytest.raises(NotSent):
                await http.post("/third", headers={"X": "two\nlines"})
        assert trace.begun
        await http.aclose()


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"HTTP/1.1 400 No\r\ncontent-length: 100\r\n\r\n{", Rejected),
        (b"HTTP/1.1 429 Later\r\nretry-after: 7\r\ncontent-length: 100\r\n\r\n{", RateLimited),
        (b"HTTP/1.1 401 No\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc", AuthenticationFailed),
        (b"HTTP/1.1 400 No\r\ncontent-encoding: gzip, gzip\r\ncontent-length: 3\r\n\r\nabc", Rejected),
        (b"HTTP/1.1 503 No\r\ncontent-length: 100\r\n\r\n{", Unavailable),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc", Unavailable),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", Unavailable),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}", Unavailable),
    ],
)
async def test_a_refusal_is_one_even_if_its_words_cannot_be_read(
    head: bytes, kind: type[ProviderError]
) -> None:
    async def half(exchange: Exchange) -> None:
        await exchange.request()
        exchange.writer.write(head)

    async with wire_server(half) as wire:
        error, trace = await failure_of(ConnectorHttp(wire.url))
    assert type(error) is kind
    assert trace.begun is (kind is Unavailable)
    assert error.retry_after == (7 if kind is RateLimited else None)


@pytest.mark.parametrize("packed", [False, True])
async def test_an_answer_without_an_end_fills_no_memory(
    packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.integrations.http.MAX_ANSWER", 1_000_000)
    written = 0

    async def pour(exchange: Exchange) -> None:
        nonlocal written
        await exchange.request()
        if packed:
            await exchange.answer(200, gzip.compress(bytes(10_000_000)), content_encoding="gzip")
            return
        exchange.writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            exchange.writer.write(bytes(65_536))
            await exchange.writer.drain()
            written += 65_536

    async with wire_server(pour) as wire:
        error, trace = await failure_of(ConnectorHttp(wire.url))
    assert (type(error), trace.begun) == (Unavailable, True)
    assert "longer" in str(error)
    assert written < 50_000_000


async def test_a_packed_answer_is_unpacked() -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.answer(200, gzip.compress(b'{"a": 1}'), content_encoding="gzip")

    async with wire_server(answer) as wire:
        http = ConnectorHttp(wire.url)
        response = await http.post("/x")
        assert (response.json(), response.content, response.url.path) == ({"a": 1}, b'{"a": 1}', "/x")
        await http.aclose()


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999/", "http://a..b/", "http://nowhere.invalid/"])
async def test_an_address_that_leads_nowhere_sent_nothing(url: str) -> None:
    error, trace = await failure_of(ConnectorHttp(url))
    assert type(error) is NotSent
    assert not trace.begun


async def test_an_attempt_that_has_ended_sends_nothing_more() -> None:
    async def answer(exchange: Exchange) -> None:
        while True:
            await exchange.request()
            await exchange.answer(200)

    async with wire_server(answer) as wire:
        http = ConnectorHttp(wire.url)
        with attempting() as trace:
            await http.post("/before")
            trace.end()
            with pytest.raises(NotSent):
                await http.post("/after")
            with pytest.raises(NotSent):
                trace.begin()
            await http.get("/asks")
        assert [request.split(b" ", 2)[1] for request in wire.requests] == [b"/before", b"/asks"]
        await http.aclose()


# What a client shapes.


async def test_a_bound_client_sends_its_own_defaults_over_the_same_pool() -> None:
    async def answer(exchange: Exchange) -> None:
        while True:
            await exchange.request()
            await exchange.answer(200)

    async with wire_server(answer) as wire:
        http = ConnectorHttp()
        bound = http.bind(wire.url + "/api", headers={"Authorization": "Bearer t"})
        await bound.post("/notes", json={"a": 1}, params={"q": "x y"})
        await bound.put("/notes", data={"k": "v"}, headers={"Authorization": "other"})
        await bound.patch(wire.url + "/absolute", content=b"raw")
        await bound.delete("/gone")
        await bound.get("/again")
        first, second, third, fourth, fifth = wire.requests
        assert first.startswith(b"POST /api/notes?q=x")
        assert b"authorization: bearer t\r\n" in first.lower()
        assert first.endswith(b'{"a":1}')
        assert b"authorization: other\r\n" in second.lower()
        assert second.endswith(b"k=v")
        assert third.startswith(b"PATCH /absolute ")
        assert fourth.startswith(b"DELETE /api/gone ")
        assert fifth.startswith(b"GET /api/again ")
        assert wire.accepted == 1
        await http.aclose()


async def test_a_client_without_an_attempt_works_too() -> None:
    current_attempt.set(None)
    http = ConnectorHttp("http://provider", transport=answering(200, {"ok": True}))
    assert (await http.get("/x")).json() == {"ok": True}


def telegram_like(response: httpx2.Response) -> ProviderError | None:
    words = response.json()
    if words["code"] == 1:
        return RateLimited(words["text"], retry_after=words["wait"])
    return Rejected(words["text"]) if words["code"] == 2 else None


async def test_a_providers_own_words_make_better_errors() -> None:
    transport = answering(400, {"code": 1, "text": "slow down", "wait": 12})
    error, _ = await failure_of(ConnectorHttp("http://p", explain=telegram_like, transport=transport))
    assert (type(error), str(error), error.retry_after, error.status) == (RateLimited, "slow down", 12, 400)

    transport = answering(503, {"code": 2, "text": "not here"}, retry_after="9")
    error, _ = await failure_of(ConnectorHttp("http://p", explain=telegram_like, transport=transport))
    assert (type(error), error.retry_after, error.status) == (Rejected, 9, 503)

    transport = answering(401, {"code": 3})
    error, _ = await failure_of(ConnectorHttp("http://p", explain=telegram_like, transport=transport))
    assert type(error) is AuthenticationFailed


@pytest.mark.parametrize("wait", [float("nan"), float("inf"), -5.0, 1e9])
async def test_an_absurd_wait_of_the_provider_is_bounded(wait: float) -> None:
    explain = lambda _: RateLimited("later", retry_after=wait)  # noqa: E731
    error, _ = await failure_of(ConnectorHttp("http://p", explain=explain, transport=answering(429)))
    assert 0 <= error.retry_after <= MAX_RETRY_AFTER


async def test_an_error_page_that_the_explanation_cannot_read_is_judged_by_its_status() -> None:
    """A proxy answers with HTML where the provider answers with JSON."""
    for status, kind in ((502, Unavailable), (404, Rejected), (401, AuthenticationFailed)):
        transport = httpx2.MockTransport(lambda _, s=status: httpx2.Response(s, text="<html>"))
        error, _ = await failure_of(ConnectorHttp("http://p", explain=telegram_like, transport=transport))
        assert (type(error), error.status) == (kind, status)


async def test_long_words_of_a_provider_are_cut() -> None:
    transport = answering(400, {"code": 2, "text": "x" * 10_000})
    error, _ = await failure_of(ConnectorHttp("http://p", explain=telegram_like, transport=transport))
    assert len(str(error)) <= MAX_MESSAGE + 1


# Secrets.


def said_by(error: BaseException) -> str:
    """Everything that a log or an answer could show of an error."""
    return "\n".join([str(error), repr(error), *traceback.format_exception(error)])


SPELLINGS = [
    SECRET,
    quote(SECRET),
    quote(SECRET, safe=""),
    quote(SECRET, safe="").lower(),
    quote(SECRET, safe=":"),
    quote(SECRET, safe="/+"),
    SECRET.replace(" ", "%20"),
    SECRET.replace(" ", "+").replace("/", "%2F"),
    SECRET.replace("/", r"\/"),
]


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_a_secret_that_the_provider_repeats_is_not_shown(spelling: str) -> None:
    transport = answering(400, {"code": 2, "text": f"no such path /bot{spelling}/sendMessage"})
    http = ConnectorHttp("http://p", explain=telegram_like, transport=transport, redact=[SECRET])
    error, _ = await failure_of(http)
    said = said_by(error)
    assert "***" in said
    assert "cd" not in str(error)
    assert spelling not in said


@pytest.mark.parametrize("before", ["", "u", "us", "user:"])
@pytest.mark.parametrize("after", ["", "!", "??"])
async def test_a_secret_in_base64_is_not_shown(before: str, after: str) -> None:
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        written = encode(f"{before}{SECRET}{after}".encode()).decode()
        said = ConnectorHttp(redact=[SECRET]).redacted(f"the header was: Basic {written} and wrong")
        assert said.startswith("the header was: Basic ")
        assert said.endswith(" and wrong")
        assert "***" in said
        assert len(said) < 60, said


def test_an_error_is_told_in_what_databases_can_store() -> None:
    http = ConnectorHttp()
    assert http.redacted("a\0b \ud83d c") == "a\ufffdb ? c"
    told = http.told(RateLimited("a\0b", status=True, retry_after=float("inf")))
    assert (type(told), told.retry_after) == (RateLimited, MAX_RETRY_AFTER)


async def test_a_secret_is_redacted_before_the_message_is_cut() -> None:
    transport = answering(400, {"code": 2, "text": "x" * (MAX_MESSAGE - 8) + SECRET})
    http = ConnectorHttp("http://p", explain=telegram_like, transport=transport, redact=[SECRET])
    assert SECRET[:6] not in str((await failure_of(http))[0])


async def test_a_secret_inside_another_does_not_uncover_it() -> None:
    http = ConnectorHttp(redact=["short", "shortandlonger"])
    assert http.redacted("it was shortandlonger") == "it was ***"
    assert http.bind(redact=["shortandlongest"]).redacted("shortandlongest shortandlonger") == "*** ***"


@pytest.mark.parametrize(
    "secret", ["line\nbreak-secret", "tab\tsecret", "caf\xe9-secret", "quo'te\"secret\\"]
)
async def test_a_secret_that_a_header_cannot_hold_is_not_shown(secret: str) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.answer(500)

    async with wire_server(answer) as wire:
        http = ConnectorHttp(wire.url, headers={"Authorization": f"Bearer {secret}"}, redact=[secret])
        error, _ = await failure_of(http)
    said = said_by(error)
    for part in (secret, repr(secret)[1:-1], ascii(secret)[1:-1], repr(secret.encode())[2:-1]):
        assert part not in said


async def test_a_url_with_a_secret_is_not_shown_by_faults_of_the_wire() -> None:
    async def reset(exchange: Exchange) -> None:
        await exchange.request()
        exchange.reset()

    url = f"/bot{quote(SECRET, safe='')}/sendMessage"
    async with wire_server(reset) as wire:
        for base in (wire.url, refused_url()):
            error, _ = await failure_of(ConnectorHttp(base, redact=[SECRET]), url=url)
            assert quote(SECRET, safe="") not in said_by(error)
            assert SECRET not in said_by(error)


async def test_the_libraries_do_not_log_urls_and_headers(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.request()
        await exchange.answer(200)

    caplog.set_level(logging.DEBUG)
    async with wire_server(answer) as wire:
        http = ConnectorHttp(wire.url, headers={"Authorization": "Bearer planted-secret"})
        await http.post("/botplanted-secret/x")
        await http.aclose()
    assert "planted-secret" not in caplog.text


def test_the_client_shows_nothing_of_itself() -> None:
    http = ConnectorHttp(
        "http://p/planted-secret", headers={"A": "planted-secret"}, redact=["planted-secret"]
    )
    for text in (repr(http), str(http), f"{http}", repr(http.bind(headers={"B": "planted-secret"}))):
        assert "planted-secret" not in text
