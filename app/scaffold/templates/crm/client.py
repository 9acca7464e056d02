"""A thin client of Acme's API: say where it is documented."""

from typing import Any, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ValidationError

from app.integrations.errors import ProviderError, Unavailable
from app.integrations.http import ConnectorHttp, error_for_status

from . import schemas

M = TypeVar("M", bound=BaseModel)


class AcmeClient:
    """The calls that the connector uses. Every one raises the contract's ProviderError leaves."""

    def __init__(self, http: ConnectorHttp, api_key: str, base_url: str) -> None:
        self._http = http.bind(
            base_url,
            headers={"Authorization": f"Bearer {api_key}"},
            explain=explain,
            redact=[api_key],
        )

    async def account(self) -> None:
        await self._http.get("/account")

    async def create(self, fields: dict[str, Any]) -> schemas.Contact:
        return _read(schemas.Contact, await self._http.post("/contacts", json=fields))

    async def update(self, contact_id: str, fields: dict[str, Any]) -> schemas.Contact:
        return _read(schemas.Contact, await self._http.patch(f"/contacts/{contact_id}", json=fields))

    async def upsert(self, email: str, fields: dict[str, Any]) -> schemas.Contact:
        # PUT to the address itself: however often it arrives, there is one contact.
        path = f"/contacts/by-email/{quote(email, safe='')}"
        return _read(schemas.Contact, await self._http.put(path, json=fields))

    async def find(self, email: str) -> schemas.FoundContacts:
        return _read(schemas.FoundContacts, await self._http.get("/contacts", params={"email": email}))


class _Error(BaseModel):
    error: str


def explain(response: httpx2.Response) -> ProviderError | None:
    """The typed error of an error answer, in the provider's words; None if its status says all."""
    try:
        said = _Error.model_validate_json(response.content)
    except ValidationError:
        return None
    return error_for_status(response.status_code, f"Acme: {said.error}")


def _read(model: type[M], response: httpx2.Response) -> M:
    try:
        return model.model_validate_json(response.content)
    except ValidationError:
        raise Unavailable(
            "What answered is not the API, or has changed: check base_url.",
            status=response.status_code,
        ) from None
