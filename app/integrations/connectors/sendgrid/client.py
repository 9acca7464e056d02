"""A thin client of SendGrid's Web API v3 (https://www.twilio.com/docs/sendgrid/api-reference).

Calls and answers are JSON; an error is `{"errors": [{"message": ..., "field": ..., "help": ...}]}`.
"""

import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ConfigDict, ValidationError

from app.integrations.errors import AuthenticationFailed, ProviderError, RateLimited, Rejected, Unavailable
from app.integrations.http import ConnectorHttp, error_for_status

MOST_PROBLEMS = 3
"""Of one answer that are told."""


class Problem(BaseModel):
    """One thing that is wrong."""

    message: str = ""
    field: str | None = None

    def __str__(self) -> str:
        return f"{self.field}: {self.message}" if self.has_field else self.message

    @property
    def has_field(self) -> bool:
        return self.field not in (None, "", "null")


class ErrorAnswer(BaseModel):
    """The outer form of an error answer."""

    errors: list[Problem]


class EventWebhook(BaseModel):
    """The settings of an event webhook: all that an update would otherwise reset."""

    model_config = ConfigDict(validate_assignment=True)

    url: str
    enabled: bool
    friendly_name: str | None = None
    processed: bool = False
    delivered: bool = False
    deferred: bool = False
    bounce: bool = False
    dropped: bool = False
    open: bool = False
    click: bool = False
    spam_report: bool = False
    unsubscribe: bool = False
    group_unsubscribe: bool = False
    group_resubscribe: bool = False


class SendGridClient:
    """The calls that the connector makes. Every one raises the contract's ProviderError leaves."""

    def __init__(self, http: ConnectorHttp, api_key: str, base_url: str) -> None:
        headers = {"Authorization": f"Bearer {api_key}"}
        self._http = http.bind(f"{base_url}/v3/", headers=headers, explain=explain, redact=[api_key])

    async def scopes(self) -> None:
        await self._http.get("scopes")

    async def send(self, mail: Mapping[str, Any]) -> str | None:
        """Sends a mail; its id, which a mail in sandbox mode does not get."""
        return (await self._http.post("mail/send", json=mail)).headers.get("x-message-id")

    async def event_webhook(self, id: str) -> EventWebhook:
        response = await self._http.get(_settings(id))
        try:
            return EventWebhook.model_validate_json(response.content)
        except ValidationError:
            message = "What answered does not speak SendGrid's API: check base_url."
            raise Unavailable(message, status=response.status_code) from None

    async def update_event_webhook(self, id: str, webhook: EventWebhook) -> None:
        http = self._http.bind(redact=[webhook.url])
        await http.patch(_settings(id), json=webhook.model_dump(exclude_none=True))

    async def sign_event_webhook(self, id: str) -> None:
        await self._http.patch(_settings(id, "signed/"), json={"enabled": True})


def explain(response: httpx2.Response) -> ProviderError | None:
    """The typed error of an error answer; None if it is not SendGrid's, so that its status decides."""
    try:
        problems = ErrorAnswer.model_validate_json(response.content).errors
    except ValidationError:
        return None
    status = response.status_code
    said = "SendGrid: " + ("; ".join(map(str, problems[:MOST_PROBLEMS])) or f"error {status}")
    if status == 401 and any("credits" in problem.message for problem in problems):
        # "Maximum credits exceeded": the key is good, the plan's mails are used up.
        return Rejected(said, status=status)
    if status == 403 and any(problem.has_field for problem in problems):
        # A sender that is not verified, say: nothing is wrong with the key.
        return Rejected(said, status=status)
    if status == 429:
        return RateLimited(said, status=status, retry_after=_until_reset(response))
    error = error_for_status(status, said)
    if isinstance(error, AuthenticationFailed):
        error.args = (f"{said} Look at the API key and its permissions.",)
    return error


def _until_reset(response: httpx2.Response) -> float | None:
    """Seconds until calls are counted anew, which SendGrid says as a time."""
    reset = response.headers.get("x-ratelimit-reset", "")
    return max(int(reset) - time.time(), 1.0) if reset.isascii() and reset.isdigit() else None


def _settings(id: str, what: str = "") -> str:
    return f"user/webhooks/event/settings/{what}{quote(id, safe='')}"
