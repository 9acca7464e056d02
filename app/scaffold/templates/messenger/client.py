"""A thin client of Acme's API: say where it is documented."""

from typing import TypeVar

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

    async def send(self, chat_id: str, text: str, *, reply_to: str | None = None) -> schemas.SentMessage:
        message = {"chat_id": chat_id, "text": text}
        if reply_to is not None:
            message["reply_to"] = reply_to
        return _read(schemas.SentMessage, await self._http.post("/messages", json=message))


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
