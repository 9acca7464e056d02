"""A thin client of the CRM API (https://developers.hubspot.com/docs/api-reference/latest/overview).

Errors are `{"status": "error", "message": ..., "category": ..., "correlationId": ...}`; all fields may be
missing. A 429 also has `policyName`.
"""

from typing import Any, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ValidationError

from app.integrations.errors import ProviderError, Rejected, Unavailable
from app.integrations.http import ConnectorHttp, error_for_status

from .schemas import Found, HubspotSettings, ObjectType, Record, UpsertedRecord

M = TypeVar("M", bound=BaseModel)

Association = tuple[int, str]
"""The type of an association, and the record on its other side."""

_PAUSES = {"TEN_SECONDLY_ROLLING": 10.0, "SECONDLY": 1.0, "DAILY": 3600.0}
"""Seconds to wait by the limit that was met, where the answer does not say."""


class _Error(BaseModel):
    message: str = ""
    category: str = ""
    policy: str = ""


class HubspotClient:
    """The calls that the connector uses. Every one raises the contract's ProviderError leaves."""

    def __init__(self, http: ConnectorHttp, access_token: str, settings: HubspotSettings) -> None:
        self._version = settings.api_version
        self._http = http.bind(
            settings.base_url,
            headers={"Authorization": f"Bearer {access_token}"},
            explain=explain,
            redact=[access_token],
        )

    async def account(self) -> None:
        await self._http.get(f"/account-info/{self._version}/details")

    async def create(
        self, kind: ObjectType, properties: dict[str, Any], associations: list[Association]
    ) -> Record:
        body: dict[str, Any] = {"properties": properties}
        if associations:
            body["associations"] = [
                {
                    "to": {"id": other},
                    "types": [{"associationCategory": "HUBSPOT_DEFINED", "associationTypeId": type_id}],
                }
                for type_id, other in associations
            ]
        return _read(Record, await self._http.post(self._path(kind), json=body))

    async def update(
        self, kind: ObjectType, record: str, properties: dict[str, Any], id_property: str | None
    ) -> Record:
        path = f"{self._path(kind)}/{quote(record, safe='')}"
        params = {"idProperty": id_property} if id_property else None
        return _read(Record, await self._http.patch(path, json={"properties": properties}, params=params))

    async def upsert(
        self, kind: ObjectType, record: str, properties: dict[str, Any], id_property: str
    ) -> UpsertedRecord:
        one = {"id": record, "idProperty": id_property, "properties": properties}
        response = await self._http.post(f"{self._path(kind)}/batch/upsert", json={"inputs": [one]})
        batch = _read(_Batch, response)
        if not batch.results:
            # 207: what could not be done is in the answer of a success.
            said = "; ".join(error.message for error in batch.errors) or "no record in the answer"
            raise Rejected(self._http.redacted(f"HubSpot: {said}"), status=response.status_code)
        return batch.results[0]

    async def search(self, kind: ObjectType, body: dict[str, Any]) -> Found:
        return _read(Found, await self._http.post(f"{self._path(kind)}/search", json=body, effect=False))

    def _path(self, kind: ObjectType) -> str:
        return f"/crm/objects/{self._version}/{kind}"


class _Batch(BaseModel):
    results: list[UpsertedRecord] = []
    errors: list[_Error] = []


def explain(response: httpx2.Response) -> ProviderError:
    """The typed error of an error answer, with HubSpot's words."""
    said = response.json()
    error = _Error(
        message=str(said.get("message") or ""),
        category=str(said.get("category") or said.get("errorType") or ""),
        policy=str(said.get("policyName") or ""),
    )
    words = ": ".join(part for part in ("HubSpot", error.category, error.message) if part)
    if response.status_code == 401:
        words += " (the access token is wrong, expired or revoked)"
    typed = error_for_status(response.status_code, words)
    if response.status_code == 429 and "retry-after" not in response.headers:
        typed.retry_after = _PAUSES.get(error.policy)
    return typed


def _read(model: type[M], response: httpx2.Response) -> M:
    try:
        return model.model_validate_json(response.content)
    except ValidationError:
        raise Unavailable(
            "What answered is not HubSpot's API, or has changed: check base_url and api_version.",
            status=response.status_code,
        ) from None
