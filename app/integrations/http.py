"""The connectors' way to the provider's HTTP API.

`ConnectorHttp` turns faults and statuses into the contract's typed errors, keeps secrets out of them,
and notes in the running attempt how far an exchange got, which is what decides whether an action may be
repeated. An exception type alone does not tell: a reset while a body is being uploaded is a ReadError
although the provider may have acted on it, so the transport's trace events are used.
"""

import base64
import json as jsonlib
import logging
import re
import ssl
import string
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, Self
from urllib.parse import quote

import httpcore2
import httpx2

from .errors import AuthenticationFailed, NotSent, ProviderError, RateLimited, Rejected, Unavailable
from .exchange import current_observer, exchange_span, note_answer
from .guard import GuardedTransport

# At INFO it logs every URL, and some providers carry the credential in it.
logging.getLogger("httpx2").setLevel(logging.WARNING)
logging.getLogger("httpcore2").setLevel(logging.WARNING)

MAX_MESSAGE = 500
"""Characters of a provider's own words that are kept in an error."""

MAX_RETRY_AFTER = 24 * 3600.0
"""Seconds: a provider that asks for more is not believed."""

MAX_ANSWER = 32 * 1024 * 1024
"""Bytes of an answer, unpacked: one that goes on for ever, or that a few bytes unpack to, fills no memory."""

_MAX_LOOKED_AT = 100_000
"""Characters in which secrets are looked for: what is kept is in the first few of them."""

_NEVER_LEFT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.UnsupportedProtocol,
    httpx2.LocalProtocolError,
    httpx2.ProxyError,
)

_DONE_ELSEWHERE = (302, 303)
"""A form that has been taken is often answered so, with where to see what became of it (RFC 9110, 15.4)."""

_PLAIN = frozenset(string.ascii_letters + string.digits + "-._~")
"""Characters that no URL, JSON text or repr() writes differently."""

_SHORTEST_SECRET = 4
_SHORTEST_BASE64 = 6
"""Redacting shorter ones would blank ordinary text."""

_LEAVES: tuple[type[ProviderError], ...] = (
    NotSent,
    AuthenticationFailed,
    RateLimited,
    Rejected,
    Unavailable,
)


@dataclass
class AttemptTrace:
    """What one attempt of an action did on the wire so far.

    effects      how many exchanges may have had an effect: one counts from when its request starts to be
                 written until the provider refuses it
    last_counts  whether the latest exchange is one of them, and has not ended in doubt
    status       the status of the last answer
    key          the same in every attempt of one action and in no other action: what providers with
                 idempotency keys are given
    owned        whether the attempt is still this process's to carry out
    overtaken    something was not sent because it was not
    """

    effects: int = 0
    last_counts: bool = False
    status: int | None = None
    key: str = ""
    owned: Callable[[], bool] = lambda: True
    overtaken: bool = False
    _ended: bool = False

    @property
    def begun(self) -> bool:
        """Whether anything with an effect may have happened."""
        return self.effects > 0

    def begin(self) -> None:
        """An exchange starts that may have an effect: call it before the first byte that may cause one.
        For clients of other protocols; ConnectorHttp does it by itself. Raises NotSent if the attempt has
        ended, or may be somebody else's by now."""
        if self._ended:
            raise NotSent(
                "This was asked for by an attempt that had ended, so it was not sent: what a handler starts, "
                "it has to wait for, within its time."
            )
        if not self.owned():
            self.overtaken = True
            raise NotSent(
                "This process was not heard of for so long that another one may have taken over, so it was "
                "not sent."
            )
        self.effects += 1
        self.last_counts = True

    def refused(self) -> None:
        """The exchange that was begun last has had no effect after all: the provider has said so."""
        if self.last_counts:
            self.effects -= 1
            self.last_counts = False

    def end(self) -> None:
        """What became of the attempt is going to be recorded: from here on nothing that may have an effect is
        sent in its name, whatever the handler has left running."""
        self._ended = True


current_attempt: ContextVar[AttemptTrace | None] = ContextVar("current_attempt", default=None)

Explain = Callable[[httpx2.Response], ProviderError | None]
"""Reads a provider's own error body; None leaves the judgement to the status."""


@lru_cache(maxsize=1)
def _ssl_context() -> ssl.SSLContext:
    # Loading the trust store costs tens of milliseconds and megabytes; every client shares one.
    return httpx2.create_ssl_context()


class ConnectorHttp:
    """An asynchronous HTTP client for one connection.

    base_url   prepended to relative URLs
    headers    sent with every request
    timeout    seconds for connecting, and for each read and write
    explain    reads the provider's error bodies, for better messages and a hidden retry_after
    redact     secret values that must not show up in errors
    transport  stands in for the network in tests
    """

    def __init__(
        self,
        base_url: str = "",
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        explain: Explain | None = None,
        redact: Iterable[str] = (),
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._base_url = base_url
        self._headers = dict(headers or {})
        self._timeout = timeout
        self._explain = explain
        self._redact = frozenset(redact)
        self._observe = current_observer.get()
        self._stand_in = transport is not None
        self._client = httpx2.AsyncClient(
            transport=transport, verify=_ssl_context() if transport is None else True, follow_redirects=False
        )

    def bind(
        self,
        base_url: str | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        explain: Explain | None = None,
        redact: Iterable[str] = (),
    ) -> Self:
        """The same connection pool with other defaults: how a client shapes the `http` it was given."""
        bound = object.__new__(type(self))
        bound._base_url = self._base_url if base_url is None else base_url
        bound._headers = self._headers | dict(headers or {})
        bound._timeout = self._timeout if timeout is None else timeout
        bound._explain = explain or self._explain
        bound._redact = self._redact | frozenset(redact)
        bound._observe = self._observe
        bound._stand_in = self._stand_in
        bound._client = self._client
        return bound

    def guarded(self, *, allow_private: bool, max_bytes: int) -> Self:
        """The same defaults with a pool of its own, for URLs that callers choose: see guard.py. Whoever
        asks for it closes it. A stand-in for the network stays in place."""
        guarded = self.bind()
        if not self._stand_in:
            transport = GuardedTransport(_ssl_context(), allow_private=allow_private, max_bytes=max_bytes)
            guarded._client = httpx2.AsyncClient(transport=transport, follow_redirects=False)
        return guarded

    async def get(self, url: str, **options: Any) -> httpx2.Response:
        return await self.request("GET", url, **options)

    async def post(self, url: str, **options: Any) -> httpx2.Response:
        return await self.request("POST", url, **options)

    async def put(self, url: str, **options: Any) -> httpx2.Response:
        return await self.request("PUT", url, **options)

    async def patch(self, url: str, **options: Any) -> httpx2.Response:
        return await self.request("PATCH", url, **options)

    async def delete(self, url: str, **options: Any) -> httpx2.Response:
        return await self.request("DELETE", url, **options)

    async def request(
        self,
        method: str,
        url: str,
        *,
        json: Any = None,
        data: Mapping[str, Any] | None = None,
        files: Any = None,
        content: bytes | str | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        effect: bool | None = None,
    ) -> httpx2.Response:
        """Sends one request and returns the answer if its status is below 300.

        `effect=False` says that it changes nothing that matters although it is not a GET: a search, or a step
        that only prepares. Then it does not keep the action from being repeated.

        Raises NotSent, AuthenticationFailed (401, 403), RateLimited (429), Unavailable (5xx, timeout,
        broken connection; 302 and 303 to a request with an effect, which may follow it) or Rejected (every
        other status from 300 on: redirects are not followed, because they would carry the credential
        elsewhere).
        """
        if effect is None:
            effect = method.upper() not in ("GET", "HEAD", "OPTIONS")
        try:
            return await self._exchange(
                _ExchangeTrace(effect=effect),
                method,
                url,
                json=json,
                data=data,
                files=files,
                content=content,
                params=params,
                headers=headers,
                timeout=timeout,
            )
        except ProviderError as error:
            error.harmless = not effect
            raise

    async def _exchange(
        self,
        trace: "_ExchangeTrace",
        method: str,
        url: str,
        *,
        json: Any,
        data: Mapping[str, Any] | None,
        files: Any,
        content: bytes | str | None,
        params: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        timeout: float | None,
    ) -> httpx2.Response:
        try:
            request = self._client.build_request(
                method,
                self._base_url + url if not url.startswith(("http://", "https://")) else url,
                json=json,
                data=data,
                files=files,
                content=content,
                params=params,
                headers=self._headers | dict(headers or {}),
                timeout=self._timeout if timeout is None else timeout,
                extensions={"trace": trace},
            )
        except (httpx2.InvalidURL, ValueError, TypeError) as error:
            # Only the kind of error: what it says may quote the URL or a header.
            raise NotSent(
                f"The request could not be made ({type(error).__name__}): look at its URL, headers and body.",
                hopeless=True,
            ) from None
        began = time.monotonic()
        status: int | None = None
        try:
            with exchange_span(request) as span:
                response = await self._send(request, trace)
                status = response.status_code
                note_answer(span, status)
        except httpx2.HTTPError as error:
            raise self._fault(error, trace) from None
        except ProviderError:
            raise
        except Exception as error:
            # A port beyond 65535, say, comes out of the libraries as whatever it ran into.
            if self._stand_in:
                raise
            raise self._oddity(error, trace) from None
        finally:
            if self._observe is not None:
                self._observe(time.monotonic() - began, status)
        if response.status_code >= 300:
            rejection = self._rejection(response)
            if response.status_code in _DONE_ELSEWHERE and trace.effect:
                rejection = Unavailable(str(rejection), status=response.status_code)
            if isinstance(rejection, Rejected | AuthenticationFailed | RateLimited):
                trace.refused()
            else:
                trace.unsettled()
            raise rejection
        return response

    async def _send(self, request: httpx2.Request, trace: "_ExchangeTrace") -> httpx2.Response:
        """The answer, with as much of its content as an answer may have. What refuses needs no content."""
        answer = await self._client.send(request, stream=True)
        trace.answered(answer.status_code)
        content = bytearray()
        try:
            if "," in answer.headers.get("content-encoding", ""):
                raise httpx2.DecodingError("it is packed more than once")
            async for chunk in answer.aiter_bytes():
                content += chunk
                if len(content) > MAX_ANSWER:
                    raise httpx2.DecodingError(f"it is longer than {MAX_ANSWER} bytes")
        except httpx2.HTTPError:
            if answer.status_code < 300:
                raise
            content.clear()
        finally:
            await answer.aclose()
        unpacked = [
            (name, value)
            for name, value in answer.headers.raw
            if name.lower() not in (b"content-encoding", b"content-length", b"transfer-encoding")
        ]
        return httpx2.Response(
            answer.status_code,
            headers=unpacked,
            content=bytes(content),
            request=request,
            extensions=answer.extensions,
        )

    async def aclose(self) -> None:
        await self._client.aclose()

    def redacted(self, text: str) -> str:
        """`text` without this connection's secrets, cut to a length that errors may have, and without what
        databases cannot store."""
        secrets = sorted((s for s in self._redact if len(s) >= _SHORTEST_SECRET), key=len, reverse=True)
        text = text[:_MAX_LOOKED_AT]
        if secrets:
            spellings = [*map(_however_written, secrets), *(p for s in secrets for p in _in_base64(s))]
            text = re.sub("|".join(spellings), "***", text, flags=re.IGNORECASE)
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
        return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "…"

    def told(self, error: ProviderError) -> ProviderError:
        """A connector's error as it may be stored and shown, whatever the connector has put into it: its
        words redacted and of bounded length, its numbers numbers."""
        kind = next((leaf for leaf in _LEAVES if isinstance(error, leaf)), ProviderError)
        try:
            words = self.redacted(str(error))
        except Exception:  # noqa: BLE001 - a class of the connector's own
            words = f"The connector raised {type(error).__name__[:100]}, which has no words."
        status = getattr(error, "status", None)
        told = kind(
            words,
            status=status if isinstance(status, int) and 0 < status < 1000 else None,
            retry_after=_bounded(getattr(error, "retry_after", None)),
        )
        told.harmless = error.harmless is True
        if isinstance(told, NotSent):
            told.hopeless = getattr(error, "hopeless", False) is True
        return told

    def __repr__(self) -> str:
        return "ConnectorHttp()"  # its URL and headers may hold credentials

    def _fault(self, error: httpx2.HTTPError, trace: "_ExchangeTrace") -> ProviderError:
        what = type(error).__name__
        if isinstance(error, httpx2.LocalProtocolError):
            what += ", look at its URL and headers"  # its own words quote them
        elif str(error):
            what = self.redacted(f"{what}: {error}")
        if isinstance(error, _NEVER_LEFT) and not trace.begun:
            hopeless = isinstance(error, httpx2.LocalProtocolError | httpx2.UnsupportedProtocol)
            return NotSent(f"The provider was not reached ({what}).", hopeless=hopeless)
        trace.assume_begun()
        trace.unsettled()
        if isinstance(error, httpx2.TimeoutException):
            return Unavailable(f"The provider did not answer in time ({what}).")
        return Unavailable(f"The exchange with the provider broke ({what}).")

    def _oddity(self, error: Exception, trace: "_ExchangeTrace") -> ProviderError:
        what = type(error).__name__
        if not trace.begun:
            return NotSent(f"The provider was not reached ({what}): look at its URL.")
        trace.unsettled()
        return Unavailable(f"The exchange with the provider broke ({what}).")

    def _rejection(self, response: httpx2.Response) -> ProviderError:
        retry_after = retry_after_seconds(response.headers.get("retry-after"))
        explained = self._explained(response)
        if explained is None:
            message = f"The provider answered {response.status_code}."
            return error_for_status(response.status_code, message, retry_after)
        explained.args = (self.redacted(str(explained)),)
        if explained.status is None:
            explained.status = response.status_code
        if explained.retry_after is None:
            explained.retry_after = retry_after
        else:
            explained.retry_after = _bounded(explained.retry_after)
        return explained

    def _explained(self, response: httpx2.Response) -> ProviderError | None:
        if self._explain is None:
            return None
        try:
            return self._explain(response)
        except Exception:  # noqa: BLE001 - made for the provider's errors, given a proxy's HTML page
            return None


def error_for_status(status: int, message: str, retry_after: float | None = None) -> ProviderError:
    """The typed error that an HTTP status means."""
    if status in (401, 403):
        return AuthenticationFailed(message, status=status)
    if status == 429:
        return RateLimited(message, status=status, retry_after=retry_after)
    if status >= 500 or status == 408:
        return Unavailable(message, status=status, retry_after=retry_after)
    return Rejected(message, status=status, retry_after=retry_after)


def retry_after_seconds(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds of a Retry-After header (RFC 9110, 10.2.3: seconds or a date); None if it is neither."""
    if not value:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return min(float(value[:10]), MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)


def _bounded(seconds: object) -> float | None:
    """A pause that a connector names, as one that can be kept."""
    return float(min(max(0, seconds), MAX_RETRY_AFTER)) if isinstance(seconds, int | float) else None


class _ExchangeTrace:
    """Follows one exchange through the transport's trace events."""

    def __init__(self, *, effect: bool) -> None:
        self.begun = False
        self.effect = effect
        attempt = current_attempt.get()
        if attempt:
            attempt.last_counts = False

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        if event.endswith(".send_request_headers.started"):
            # Before the first byte, not after it: the attempt may end while they are being written.
            self.assume_begun()
        elif event.endswith(".send_request_headers.failed") and isinstance(
            info["exception"], httpcore2.LocalProtocolError
        ):
            # A header that HTTP does not allow is found when they are about to be written: nothing left.
            self.refused()
            self.begun = False

    def assume_begun(self) -> None:
        attempt = current_attempt.get()
        if attempt and self.effect and not self.begun:
            attempt.begin()
        self.begun = True

    def unsettled(self) -> None:
        """The provider has not said what it made of this: a refusal that follows is of something else."""
        attempt = current_attempt.get()
        if attempt and self.effect:
            attempt.last_counts = False

    def refused(self) -> None:
        attempt = current_attempt.get()
        if attempt and self.effect:
            attempt.refused()

    def answered(self, status: int) -> None:
        self.assume_begun()  # a stand-in transport has no trace events
        attempt = current_attempt.get()
        if attempt:
            attempt.status = status


def _however_written(secret: str) -> str:
    """A pattern for the secret as it stands, and as a URL, JSON text or repr() may write it."""
    return "".join(re.escape(char) if char in _PLAIN else _any_spelling(char) for char in secret)


def _in_base64(secret: str) -> list[str]:
    """Patterns for the secret as base64 writes it in the middle of something longer, such as the user and
    password of Basic: one for each place that it may have in a group of three bytes. Characters that it
    shares with its neighbours may go too."""
    found = []
    content = secret.encode(errors="replace")
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + content).decode()
        own = whole[-(-before * 8 // 6) : (before + len(content)) * 8 // 6]
        if len(own) >= _SHORTEST_BASE64:
            either = "".join({"+": "[+-]", "/": "[/_]"}.get(char, char) for char in own)
            found.append(f"[A-Za-z0-9+/_-]?{either}[A-Za-z0-9+/_-]?={{0,2}}")
    return found


def _any_spelling(char: str) -> str:
    spellings = {
        char,
        quote(char, safe="", errors="replace"),
        jsonlib.dumps(char)[1:-1],
        ascii(char)[1:-1],
        repr(char.encode(errors="replace"))[2:-1],
        *{" ": ["+"], "/": [r"\/"], "'": [r"\'"]}.get(char, ()),
    }
    return f"(?:{'|'.join(re.escape(s) for s in sorted(spellings, key=len, reverse=True))})"
