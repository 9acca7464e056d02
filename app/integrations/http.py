"""The connectors' way to the provider's HTTP API.

`ConnectorHttp` turns faults and statuses into the contract's typed errors, keeps secrets out of them,
and notes in the running attempt how far an exchange got, which is what decides whether an action may be
repeated. An exception type alone does not tell: a reset while a body is being uploaded is a ReadError
although the provider may have acted on it, so the transport's trace events are used.
"""

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
"""Redacting shorter ones would blank ordinary text."""


@dataclass
class AttemptTrace:
    """What one attempt of an action did on the wire so far.

    effects      how many exchanges may have had an effect: one counts from when its request starts to be
                 written until the provider refuses it
    last_counts  whether the latest exchange is one of them
    status       the status of the last answer
    key          the same in every attempt of one action and in no other action: what providers with
                 idempotency keys are given
    """

    effects: int = 0
    last_counts: bool = False
    status: int | None = None
    key: str = ""

    @property
    def begun(self) -> bool:
        """Whether anything with an effect may have happened."""
        return self.effects > 0

    def begin(self) -> None:
        """An exchange starts that may have an effect: call it before the first byte that may cause one.
        For clients of other protocols; ConnectorHttp does it by itself."""
        self.effects += 1
        self.last_counts = True

    def refused(self) -> None:
        """The exchange that was begun last has had no effect after all: the provider has said so."""
        if self.last_counts:
            self.effects -= 1
            self.last_counts = False


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
                response = await self._client.send(request)
                status = response.status_code
                note_answer(span, status)
        except httpx2.HTTPError as error:
            raise self._fault(error, trace) from None
        finally:
            if self._observe is not None:
                self._observe(time.monotonic() - began, status)
        trace.answered(response.status_code)
        if response.status_code >= 300:
            rejection = self._rejection(response)
            if response.status_code in _DONE_ELSEWHERE and trace.effect:
                rejection = Unavailable(str(rejection), status=response.status_code)
            if isinstance(rejection, Rejected | AuthenticationFailed | RateLimited):
                trace.refused()
            raise rejection
        return response

    async def aclose(self) -> None:
        await self._client.aclose()

    def redacted(self, text: str) -> str:
        """`text` without this connection's secrets, cut to a length that errors may have."""
        secrets = sorted((s for s in self._redact if len(s) >= _SHORTEST_SECRET), key=len, reverse=True)
        if secrets:
            text = re.sub("|".join(map(_however_written, secrets)), "***", text, flags=re.IGNORECASE)
        return text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "…"

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
        if isinstance(error, httpx2.TimeoutException):
            return Unavailable(f"The provider did not answer in time ({what}).")
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
            explained.retry_after = min(max(0.0, explained.retry_after), MAX_RETRY_AFTER)
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


class _ExchangeTrace:
    """Follows one exchange through the transport's trace events."""

    def __init__(self, *, effect: bool) -> None:
        self.begun = False
        self.effect = effect
        attempt = current_attempt.get()
        if attempt:
            attempt.last_counts = False

    async def __call__(self, event: str, info: dict[str, Any]) -> None:
        # A header that HTTP does not allow is found when they are about to be written: nothing left.
        if event.endswith(".send_request_headers.complete") or (
            event.endswith(".send_request_headers.failed")
            and not isinstance(info["exception"], httpcore2.LocalProtocolError)
        ):
            self.assume_begun()

    def assume_begun(self) -> None:
        attempt = current_attempt.get()
        if attempt and self.effect and not self.begun:
            attempt.begin()
        self.begun = True

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
