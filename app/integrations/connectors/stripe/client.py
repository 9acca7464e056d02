"""A thin client of Stripe's API v1 (https://docs.stripe.com/api).

A call is a form with nested names, `metadata[order]=7`; the answer is the object, or
`{"error": {"type": ..., "code": ..., "param": ..., "message": ...}}`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ValidationError

from app.integrations.errors import AuthenticationFailed, ProviderError, RateLimited, Rejected, Unavailable
from app.integrations.http import ConnectorHttp, current_attempt, error_for_status

from .schemas import StripeSettings

M = TypeVar("M", bound=BaseModel)


class Problem(BaseModel):
    """What Stripe says about an error."""

    type: str | None = None
    code: str | None = None
    decline_code: str | None = None
    param: str | None = None
    message: str | None = None


class ErrorAnswer(BaseModel):
    """The outer form of an error answer."""

    error: Problem


class WebhookEndpoint(BaseModel):
    """Where Stripe sends webhooks."""

    url: str


class StripeClient:
    """The calls that the connector makes. Every one raises the contract's ProviderError leaves."""

    def __init__(self, http: ConnectorHttp, api_key: str, settings: StripeSettings) -> None:
        headers = {"Authorization": f"Bearer {api_key}"}
        if settings.api_version:
            headers["Stripe-Version"] = settings.api_version
        if settings.stripe_account:
            headers["Stripe-Account"] = settings.stripe_account
        self._http = http.bind(f"{settings.base_url}/v1/", headers=headers, explain=explain, redact=[api_key])

    async def retrieve_balance(self) -> None:
        await self._http.get("balance")

    async def update_webhook_endpoint(self, endpoint: str, url: str) -> None:
        http = self._http.bind(redact=[url])
        await http.post(f"webhook_endpoints/{quote(endpoint)}", data=form({"url": url, "disabled": False}))

    async def webhook_endpoint_url(self, endpoint: str) -> str:
        answer = await self._http.get(f"webhook_endpoints/{quote(endpoint)}")
        return _result(answer, WebhookEndpoint).url

    async def disable_webhook_endpoint(self, endpoint: str) -> None:
        await self._http.post(f"webhook_endpoints/{quote(endpoint)}", data=form({"disabled": True}))

    async def get_from(self, resource: str, id: str, result: type[M]) -> M:
        return _result(await self._http.get(f"{resource}/{quote(id, safe='')}"), result)

    async def post_to(self, resource: str, id: str, params: Mapping[str, Any], result: type[M]) -> M:
        return await self.post(f"{resource}/{quote(id, safe='')}", params, result)

    async def post(self, path: str, params: Mapping[str, Any], result: type[M]) -> M:
        attempt = current_attempt.get()
        headers = {"Idempotency-Key": attempt.key} if attempt and attempt.key else {}
        return _result(await self._http.post(path, data=form(params), headers=headers), result)


def form(params: Mapping[str, Any], within: str = "") -> dict[str, str]:
    """Nested parameters as Stripe reads them: `address[city]`, `line_items[0][price]`."""
    flat: dict[str, str] = {}
    for name, value in params.items():
        path = f"{within}[{name}]" if within else name
        if isinstance(value, Mapping):
            flat |= form(value, path)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            flat |= form({str(index): part for index, part in enumerate(value)}, path)
        elif isinstance(value, bool):
            flat[path] = "true" if value else "false"
        else:
            flat[path] = str(value)
    return flat


def explain(response: httpx2.Response) -> ProviderError | None:
    """The typed error of an error answer; None if it is not Stripe's, so that its status decides."""
    try:
        problem = ErrorAnswer.model_validate_json(response.content).error
    except ValidationError:
        return None
    status = response.status_code
    again = response.headers.get("stripe-should-retry")
    facts = [problem.decline_code or problem.code or problem.type or f"error {status}"]
    facts += [f"parameter {problem.param}"] if problem.param else []
    said = f"Stripe: {problem.message or 'no message'} ({', '.join(facts)})"
    if status == 401:
        return AuthenticationFailed(f"{said} Copy the API key again from the dashboard.", status=status)
    if status == 403:
        return AuthenticationFailed(f"{said} The API key lacks a permission.", status=status)
    if status >= 500:
        return error_for_status(status, said)
    if status == 409 and again != "false":
        # Another request with the same key, or on the same object, is under way: what will come of it?
        return Unavailable(said, status=status)
    if again == "true" or (status == 429 and again != "false"):
        return RateLimited(said, status=status)
    return Rejected(said, status=status)


def _result(response: httpx2.Response, result: type[M]) -> M:
    try:
        return result.model_validate_json(response.content)
    except ValidationError:
        message = "What answered does not speak Stripe's API: check base_url."
        raise Unavailable(message, status=response.status_code) from None
