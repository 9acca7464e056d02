"""A thin client of the Web API (https://docs.slack.dev/apis/web-api/).

A call is a POST to `<server>/api/<method>`. Slack answers 200 also to what it refuses, with
`{"ok": false, "error": "<code>"}`; only rate limits and faults have a status of their own.
"""

import re
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
from pydantic import BaseModel, ValidationError

from app.integrations.errors import AuthenticationFailed, ProviderError, RateLimited, Rejected, Unavailable
from app.integrations.http import ConnectorHttp, retry_after_seconds

M = TypeVar("M", bound=BaseModel)

_BAD_TOKEN = frozenset(
    {
        "invalid_auth",
        "not_authed",
        "account_inactive",
        "token_revoked",
        "token_expired",
        "not_allowed_token_type",
    }
)
_TOO_MUCH = frozenset({"ratelimited", "rate_limited"})
# "It's possible some aspect of the operation succeeded before the error was raised."
_FAULT = frozenset({"internal_error", "fatal_error", "service_unavailable", "request_timeout"})


class Metadata(BaseModel):
    """More words about what is wrong."""

    messages: list[str] = []


class Envelope(BaseModel):
    """The outer form of every answer."""

    ok: bool
    error: str = "no error code"
    needed: str | None = None
    response_metadata: Metadata = Metadata()


class UploadUrl(BaseModel):
    """Where a file's bytes go."""

    upload_url: str
    file_id: str


class Shared(BaseModel):
    """The files of a finished upload."""

    files: list[dict[str, Any]] = []


class Opened(BaseModel):
    """A view that was opened."""

    view: dict[str, Any]

    @property
    def view_id(self) -> str:
        return str(self.view.get("id", ""))


class SlackClient:
    """The methods that the connector uses. Every one raises the contract's ProviderError leaves."""

    def __init__(self, http: ConnectorHttp, bot_token: str, base_url: str) -> None:
        self._base = urlsplit(base_url)
        # Upload and response URLs are permission enough: the token stays out of those requests.
        self._bare = http.bind(explain=explain_hook, redact=[bot_token])
        self._http = http.bind(
            f"{base_url}/api/",
            headers={"Authorization": f"Bearer {bot_token}"},
            explain=explain,
            redact=[bot_token],
        )

    async def call(
        self,
        method: str,
        result: type[M],
        params: Mapping[str, Any] | None = None,
        *,
        form: bool = False,
        effect: bool = True,
    ) -> M:
        """Calls a method with JSON, or with a form for those that do not take JSON everywhere."""
        if form:
            response = await self._http.post(method, data=dict(params or {}), effect=effect)
        else:
            charset = {"Content-Type": "application/json; charset=utf-8"}
            response = await self._http.post(method, json=dict(params or {}), headers=charset, effect=effect)
        error = _error(response)
        if error is not None:
            error.args = (self._http.redacted(str(error)),)
            raise error
        try:
            return result.model_validate_json(response.content)
        except ValidationError:
            raise Unavailable(f"Slack answered {method} with a result of an unknown form.") from None

    async def upload(self, url: str, content: bytes) -> None:
        """Puts a file where Slack waits for it. Nobody sees it until the upload is completed."""
        if not self._is_slacks(url):
            raise Unavailable("Slack named an upload_url that is not its own: check base_url.")
        http = self._bare.bind(redact=[url])
        headers = {"Content-Type": "application/octet-stream"}
        await http.post(url, content=content, headers=headers, effect=False)

    async def respond(self, url: str, message: Mapping[str, Any]) -> None:
        await self._bare.bind(redact=[url, urlsplit(url).path]).post(url, json=dict(message))

    def _is_slacks(self, url: str) -> bool:
        try:
            parts = urlsplit(url)
        except ValueError:
            return False
        host, own = parts.hostname or "", self._base.hostname or ""
        return parts.scheme == self._base.scheme and (host == own or host.endswith(f".{own}"))


def explain(response: httpx2.Response) -> ProviderError | None:
    """The typed error of an error answer; None if it is not Slack's, so that its status decides."""
    envelope = _envelope(response)
    if envelope and response.status_code >= 500:
        return Unavailable(f"Slack: {envelope.error}")
    return _error(response) if envelope else None


def explain_hook(response: httpx2.Response) -> ProviderError | None:
    """What hooks.slack.com says: a code as plain text, or an envelope. None of it is about the token."""
    envelope = _envelope(response)
    code = envelope.error if envelope else response.text.strip()
    if response.status_code == 429 or response.status_code >= 500 or not re.fullmatch(r"[a-z_]{1,60}", code):
        return None
    return Rejected(f"Slack: {code}. The URL is used up, older than it may be, or does not allow this.")


def _error(response: httpx2.Response) -> ProviderError | None:
    envelope = _envelope(response)
    if envelope is None:
        return Unavailable("The answer is not Slack's: check base_url.", status=response.status_code)
    if envelope.ok:
        return None
    code = envelope.error
    said = f"Slack: {'; '.join([code, *envelope.response_metadata.messages])}"
    if code in _BAD_TOKEN or response.status_code == 401:
        return AuthenticationFailed(
            f"{said}. Copy the Bot User OAuth Token again, from OAuth & Permissions in the app's settings.",
            status=response.status_code,
        )
    if code in _TOO_MUCH:
        pause = retry_after_seconds(response.headers.get("retry-after"))
        return RateLimited(said, status=response.status_code, retry_after=pause)
    if code in _FAULT:
        return Unavailable(said, status=response.status_code)
    if code == "missing_scope" and envelope.needed:
        said += f". Add the scope {envelope.needed} under OAuth & Permissions and install the app again."
    return Rejected(said, status=response.status_code)


def _envelope(response: httpx2.Response) -> Envelope | None:
    try:
        return Envelope.model_validate_json(response.content)
    except ValidationError:
        return None
