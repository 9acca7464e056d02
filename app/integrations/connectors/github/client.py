"""A thin client of the REST API (https://docs.github.com/rest).

Errors are `{"message": ..., "errors": [{"resource", "field", "code", "message"}], "documentation_url"}`.
Limits show as 403 or 429 with `x-ratelimit-remaining: 0` and the time of the reset, or with `retry-after`.
"""

import time
from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, TypeAdapter, ValidationError

from app.integrations.errors import ProviderError, RateLimited, Rejected, Unavailable
from app.integrations.http import ConnectorHttp, error_for_status
from app.integrations.urls import webhook_token

from .schemas import CommentResult, DispatchResult, GithubSettings, IssueResult, Label, ReleaseResult

T = TypeVar("T")

SECONDARY_PAUSE = 60.0
"""Seconds to wait where GitHub does not say: what its guide asks for."""

_REFUSED = ("archived", "locked")
"""Words of a 403 that is about the thing and not about the token."""


class _Config(BaseModel):
    url: str = ""


class _Hook(BaseModel):
    id: int
    config: _Config = _Config()


_ISSUE = TypeAdapter(IssueResult)
_COMMENT = TypeAdapter(CommentResult)
_LABELS = TypeAdapter(list[Label])
_RELEASE = TypeAdapter(ReleaseResult)
_DISPATCH = TypeAdapter(DispatchResult)
_HOOKS = TypeAdapter(list[_Hook])


class GithubClient:
    """The calls that the connector uses. Every one raises the contract's ProviderError leaves."""

    def __init__(self, http: ConnectorHttp, access_token: str, settings: GithubSettings) -> None:
        self._http = http.bind(
            settings.base_url,
            headers={
                "Authorization": f"Bearer {access_token}",
                "Accept": "application/vnd.github+json",
                "X-GitHub-Api-Version": "2022-11-28",
                "User-Agent": "trunkline",
            },
            explain=explain,
            redact=[access_token],
        )

    async def rate_limit(self) -> None:
        """Asks for what every good token may ask, which costs nothing of the limit."""
        await self._http.get("/rate_limit")

    async def repository(self, name: str) -> None:
        await self._http.get(f"/repos/{name}")

    async def create_issue(self, repository: str, fields: dict[str, Any]) -> IssueResult:
        return _read(_ISSUE, await self._http.post(f"/repos/{repository}/issues", json=fields))

    async def update_issue(self, repository: str, number: int, fields: dict[str, Any]) -> IssueResult:
        return _read(_ISSUE, await self._http.patch(f"/repos/{repository}/issues/{number}", json=fields))

    async def comment(self, repository: str, number: int, body: str) -> CommentResult:
        path = f"/repos/{repository}/issues/{number}/comments"
        return _read(_COMMENT, await self._http.post(path, json={"body": body}))

    async def add_labels(self, repository: str, number: int, labels: list[str]) -> list[str]:
        path = f"/repos/{repository}/issues/{number}/labels"
        answer = _read(_LABELS, await self._http.post(path, json={"labels": labels}))
        return [label.name for label in answer]

    async def create_release(self, repository: str, fields: dict[str, Any]) -> ReleaseResult:
        return _read(_RELEASE, await self._http.post(f"/repos/{repository}/releases", json=fields))

    async def dispatch(self, repository: str, workflow: int | str, fields: dict[str, Any]) -> DispatchResult:
        path = f"/repos/{repository}/actions/workflows/{quote(str(workflow), safe='')}/dispatches"
        response = await self._http.post(path, json=fields)
        return DispatchResult() if not response.content else _read(_DISPATCH, response)

    async def hooks(self, repository: str, urls: Sequence[str]) -> list[int]:
        """The repository's webhooks that lead to one of these URLs."""
        tokens = {webhook_token(url) for url in urls}
        response = await self._http.get(f"/repos/{repository}/hooks", params={"per_page": 100})
        return [hook.id for hook in _read(_HOOKS, response) if webhook_token(hook.config.url) in tokens]

    async def put_hook(
        self, repository: str, hook: int | None, url: str, secret: str, events: list[str]
    ) -> None:
        """Changes a webhook, or makes a new one."""
        config = {"url": url, "content_type": "json", "secret": secret, "insecure_ssl": "0"}
        fields = {"config": config, "events": events, "active": True}
        http = self._http.bind(redact=[url, webhook_token(url), secret])
        if hook is None:
            await http.post(f"/repos/{repository}/hooks", json={"name": "web", **fields})
        else:
            await http.patch(f"/repos/{repository}/hooks/{hook}", json=fields)

    async def delete_hook(self, repository: str, hook: int) -> None:
        try:
            await self._http.delete(f"/repos/{repository}/hooks/{hook}")
        except Rejected as error:
            if error.status != 404:  # it is gone
                raise


def explain(response: httpx2.Response) -> ProviderError:
    """The typed error of an error answer, with GitHub's words."""
    said = response.json()
    status, headers = response.status_code, response.headers
    message = str(said.get("message") or f"error {status}")
    fields = [error for error in said.get("errors") or [] if isinstance(error, dict)]
    named = [
        " ".join(str(error[key]) for key in ("resource", "field", "code", "message") if error.get(key))
        for error in fields
    ]
    words = "; ".join(["GitHub: " + message, *named])
    if status == 429 or (status == 403 and _is_limit(headers, message)):
        return RateLimited(words, status=status, retry_after=_pause(headers))
    if status == 403 and any(word in message.lower() for word in _REFUSED):
        return Rejected(words, status=status)
    if status == 404:
        words += " (or the token may not see the repository)"
    return error_for_status(status, words)


def _is_limit(headers: httpx2.Headers, message: str) -> bool:
    return (
        headers.get("x-ratelimit-remaining") == "0"
        or "retry-after" in headers
        or "rate limit" in message.lower()
    )


def _pause(headers: httpx2.Headers) -> float | None:
    if "retry-after" in headers:
        return None  # ConnectorHttp reads it
    reset = headers.get("x-ratelimit-reset", "")
    if headers.get("x-ratelimit-remaining") == "0" and reset.isdecimal():
        return max(1.0, float(reset) - time.time())
    return SECONDARY_PAUSE


def _read(adapter: TypeAdapter[T], response: httpx2.Response) -> T:
    try:
        return adapter.validate_json(response.content)
    except ValidationError:
        raise Unavailable(
            "What answered is not GitHub's API, or has changed: check base_url.",
            status=response.status_code,
        ) from None
