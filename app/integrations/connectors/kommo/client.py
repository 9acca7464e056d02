"""A thin client of the API v4 (https://developers.kommo.com/reference).

Lists answer 204 if they are empty. Errors are problem details (RFC 9457): `title`, `detail`, and
`validation-errors` with a `path` and `detail` for each field.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, Field, ValidationError

from app.integrations.errors import ProviderError, RateLimited, Unavailable
from app.integrations.http import ConnectorHttp, error_for_status
from app.integrations.urls import webhook_token

from .schemas import Created, Found, KommoSettings

M = TypeVar("M", bound=BaseModel)

BLOCKED_PAUSE = 300.0
"""Seconds to leave Kommo alone when it blocks the account or our address."""


class _Hook(BaseModel):
    destination: str = ""


class _Embedded(BaseModel):
    leads: list[dict[str, Any]] = []
    contacts: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    webhooks: list[_Hook] = []


class _Answer(BaseModel):
    embedded: _Embedded = Field(default=_Embedded(), alias="_embedded")


class KommoClient:
    """The calls that the connector uses. Every one raises the contract's ProviderError leaves."""

    def __init__(self, http: ConnectorHttp, access_token: str, settings: KommoSettings) -> None:
        self._http = http.bind(
            f"{settings.api_url}/api/v4",
            headers={"Authorization": f"Bearer {access_token}"},
            explain=explain,
            redact=[access_token],
        )

    async def account(self) -> None:
        _read(Created, await self._http.get("/account"))

    async def create_lead(self, lead: dict[str, Any]) -> Created:
        response = await self._http.post("/leads", json=[lead])
        return _made(response, _read(_Answer, response).embedded.leads)

    async def update_lead(self, lead: int, fields: dict[str, Any]) -> Created:
        return _read(Created, await self._http.patch(f"/leads/{lead}", json=fields))

    async def create_contact(self, contact: dict[str, Any]) -> Created:
        response = await self._http.post("/contacts", json=[contact])
        return _made(response, _read(_Answer, response).embedded.contacts)

    async def add_note(self, kind: str, entity: int, note: dict[str, Any]) -> Created:
        response = await self._http.post(f"/{kind}/{entity}/notes", json=[note])
        return _made(response, _read(_Answer, response).embedded.notes)

    async def find_contacts(self, params: dict[str, Any]) -> Found:
        embedded = _read(_Answer, await self._http.get("/contacts", params=params)).embedded
        return Found(contacts=embedded.contacts)

    async def add_webhook(self, url: str, events: Sequence[str]) -> None:
        http = self._http.bind(redact=[url, webhook_token(url)])
        await http.post("/webhooks", json={"destination": url, "settings": list(events)})

    async def webhooks(self, urls: Sequence[str]) -> list[str]:
        """The webhooks that lead to one of these URLs, by the address that Kommo knows."""
        tokens = {webhook_token(url) for url in urls}
        embedded = _read(_Answer, await self._http.get("/webhooks")).embedded
        return [hook.destination for hook in embedded.webhooks if webhook_token(hook.destination) in tokens]

    async def delete_webhook(self, url: str) -> None:
        http = self._http.bind(redact=[url, webhook_token(url)])
        await http.request("DELETE", "/webhooks", json={"destination": url})


class _Problem(BaseModel):
    title: str = ""
    detail: str = ""
    groups: list[dict[str, Any]] = Field(default=[], alias="validation-errors")

    @property
    def words(self) -> str:
        errors = [error for group in self.groups for error in group.get("errors", [])]
        named = [f"{error.get('path')}: {error.get('detail')}" for error in errors]
        return "; ".join([part for part in (self.title, self.detail, *named) if part])


def explain(response: httpx2.Response) -> ProviderError | None:
    """The typed error of an error answer, with Kommo's words; None if it is not Kommo's."""
    status = response.status_code
    try:
        problem = _Problem.model_validate_json(response.content)
    except ValidationError:
        if status == 403 and "html" in response.headers.get("content-type", ""):
            # Not the API's own answer: what stands before it blocks those who ask too often.
            message = "Kommo blocks this account or our address, as it does after too many requests."
            return RateLimited(message, status=status, retry_after=BLOCKED_PAUSE)
        return None
    words = f"Kommo: {problem.words or f'error {status}'}"
    if status == 401:
        words += " (the token is wrong, expired, or of another account than subdomain)"
    return error_for_status(status, words)


def _made(response: httpx2.Response, made: Sequence[dict[str, Any]]) -> Created:
    try:
        (one,) = made
        return Created.model_validate(one)
    except ValueError:
        raise _unknown(response) from None


def _read(model: type[M], response: httpx2.Response) -> M:
    if response.status_code == 204:
        return model.model_validate({})
    try:
        return model.model_validate_json(response.content)
    except ValidationError:
        raise _unknown(response) from None


def _unknown(response: httpx2.Response) -> Unavailable:
    return Unavailable(
        "What answered is not Kommo's API, or has changed: check subdomain, domain and base_url.",
        status=response.status_code,
    )
