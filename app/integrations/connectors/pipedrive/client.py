"""A thin client of the API (https://pipedrive.readme.io/docs/core-api-concepts-about-pipedrive-api).

An answer is `{"success": true, "data": ...}` or `{"success": false, "error": ..., "error_info": ...}`, some
errors with a `code`.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, TypeAdapter, ValidationError

from app.integrations.errors import ProviderError, Rejected, Unavailable
from app.integrations.http import MAX_RETRY_AFTER, ConnectorHttp, error_for_status
from app.integrations.urls import webhook_token

from .schemas import Found, PipedriveSettings, Record

T = TypeVar("T")


class _Hook(BaseModel):
    id: int
    subscription_url: str


_RECORD = TypeAdapter(Record)
_FOUND = TypeAdapter(Found)
_HOOKS: TypeAdapter[list[_Hook] | None] = TypeAdapter(list[_Hook] | None)
_ANY: TypeAdapter[Any] = TypeAdapter(Any)

_V1, _V2 = "/api/v1", "/api/v2"
"""Notes, users and webhooks have no v2."""


class PipedriveClient:
    """The calls that the connector uses. Every one raises the contract's ProviderError leaves."""

    def __init__(self, http: ConnectorHttp, api_token: str, settings: PipedriveSettings) -> None:
        self._http = http.bind(
            settings.base_url, headers={"x-api-token": api_token}, explain=explain, redact=[api_token]
        )

    async def me(self) -> None:
        _read(_ANY, await self._http.get(f"{_V1}/users/me"))

    async def create_person(self, fields: dict[str, Any]) -> Record:
        return _read(_RECORD, await self._http.post(f"{_V2}/persons", json=fields))

    async def update_person(self, person: int, fields: dict[str, Any]) -> Record:
        return _read(_RECORD, await self._http.patch(f"{_V2}/persons/{person}", json=fields))

    async def search_persons(self, params: dict[str, Any]) -> Found:
        return _read(_FOUND, await self._http.get(f"{_V2}/persons/search", params=params))

    async def create_deal(self, fields: dict[str, Any]) -> Record:
        return _read(_RECORD, await self._http.post(f"{_V2}/deals", json=fields))

    async def add_note(self, fields: dict[str, Any]) -> Record:
        return _read(_RECORD, await self._http.post(f"{_V1}/notes", json=fields))

    async def add_webhook(self, url: str, *, user: str, password: str, action: str, kind: str) -> None:
        body = {
            "subscription_url": url,
            "event_action": action,
            "event_object": kind,
            "version": "2.0",
            "http_auth_user": user,
            "http_auth_password": password,
            "name": "Trunkline",
        }
        http = self._http.bind(redact=[url, webhook_token(url), user, password])
        _read(_ANY, await http.post(f"{_V1}/webhooks", json=body))

    async def webhooks(self, urls: Sequence[str]) -> list[tuple[int, str]]:
        """The webhooks that lead to one of these URLs, with the last segment of theirs."""
        tokens = {webhook_token(url) for url in urls}
        hooks = _read(_HOOKS, await self._http.get(f"{_V1}/webhooks")) or []
        found = [(hook.id, webhook_token(hook.subscription_url)) for hook in hooks]
        return [(hook, token) for hook, token in found if token in tokens]

    async def delete_webhook(self, hook: int) -> None:
        try:
            await self._http.delete(f"{_V1}/webhooks/{hook}")
        except Rejected as error:
            if error.status != 404:  # it is gone
                raise


def explain(response: httpx2.Response) -> ProviderError:
    """The typed error of an error answer, with Pipedrive's words."""
    said = response.json()
    status, code = response.status_code, said.get("code")
    words = ": ".join(
        str(part) for part in ("Pipedrive", said.get("error") or f"error {status}", code) if part
    )
    if status == 403 and code:
        # A limit of the plan, such as feature_capping_deals_limit: the token is good.
        return Rejected(words, status=status)
    typed = error_for_status(status, words)
    if status == 429:
        reset = response.headers.get("x-ratelimit-reset", "")
        typed.retry_after = min(float(reset), MAX_RETRY_AFTER) if reset.isdecimal() else None
    return typed


def _read(adapter: TypeAdapter[T], response: httpx2.Response) -> T:
    try:
        answer = response.json()
        if not answer["success"]:
            raise Rejected(
                f"Pipedrive refused it: {str(answer.get('error'))[:200]}", status=response.status_code
            )
        return adapter.validate_python(answer["data"])
    except (ValueError, TypeError, KeyError, ValidationError):
        raise Unavailable(
            "What answered is not Pipedrive's API, or has changed: check base_url.",
            status=response.status_code,
        ) from None
