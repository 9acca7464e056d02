"""A thin client of Twilio's REST API, 2010-04-01 (https://www.twilio.com/docs/messaging/api).

A call is a form; the answer is the object, or
`{"code": 21211, "message": ..., "more_info": ..., "status": 400}`.
"""

import base64
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ValidationError

from app.integrations.errors import AuthenticationFailed, ProviderError, Unavailable
from app.integrations.http import ConnectorHttp, error_for_status

from .schemas import Message, TwilioSettings

M = TypeVar("M", bound=BaseModel)


class Problem(BaseModel):
    """What Twilio says about an error."""

    code: int | None = None
    message: str


class Account(BaseModel):
    """The account that the credentials open."""

    status: str


class PhoneNumber(BaseModel):
    """One of the account's numbers."""

    sms_url: str | None = None


class TwilioClient:
    """The calls that the connector makes. Every one raises the contract's ProviderError leaves."""

    def __init__(
        self, http: ConnectorHttp, settings: TwilioSettings, auth_token: str, api_key_secret: str | None
    ) -> None:
        self._has_key = settings.api_key_sid is not None and api_key_secret is not None
        user = settings.api_key_sid if self._has_key else settings.account_sid
        password = api_key_secret if self._has_key else auth_token
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._account = f"{settings.base_url}/2010-04-01/Accounts/{settings.account_sid}"
        self._http = http.bind(
            f"{self._account}/",
            headers={"Authorization": f"Basic {basic}"},
            explain=explain,
            redact=[auth_token, basic, *([api_key_secret] if api_key_secret else [])],
        )

    async def check(self) -> str | None:
        """The account's status; None if the credential is good but may not see it."""
        if self._has_key:
            # A key may not see the account itself, unless it is a main key.
            await self._http.get("Messages.json", params={"PageSize": 1})
            return None
        return _result(await self._http.get(f"{self._account}.json"), Account).status

    async def create_message(self, form: Mapping[str, Any]) -> Message:
        return _result(await self._http.post("Messages.json", data=form), Message)

    async def message(self, sid: str) -> Message:
        return _result(await self._http.get(_message(sid)), Message)

    async def update_message(self, sid: str, form: Mapping[str, Any]) -> Message:
        return _result(await self._http.post(_message(sid), data=form), Message)

    async def delete_message(self, sid: str) -> None:
        await self._http.delete(_message(sid))

    async def sms_url(self, number: str) -> str:
        return _result(await self._http.get(_number(number)), PhoneNumber).sms_url or ""

    async def set_sms_url(self, number: str, url: str) -> None:
        http = self._http.bind(redact=[url])
        await http.post(_number(number), data={"SmsUrl": url, "SmsMethod": "POST"})


def explain(response: httpx2.Response) -> ProviderError | None:
    """The typed error of an error answer; None if it is not Twilio's, so that its status decides."""
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        return None
    said = f"Twilio: {problem.message}" + (f" (error {problem.code})" if problem.code else "")
    error = error_for_status(response.status_code, said)
    if isinstance(error, AuthenticationFailed):
        error.args = (f"{said} Compare account_sid and auth_token, or the API key, with the console.",)
    return error


def _message(sid: str) -> str:
    return f"Messages/{quote(sid, safe='')}.json"


def _number(sid: str) -> str:
    return f"IncomingPhoneNumbers/{quote(sid, safe='')}.json"


def _result(response: httpx2.Response, result: type[M]) -> M:
    try:
        return result.model_validate_json(response.content)
    except ValidationError:
        message = "What answered does not speak Twilio's API: check base_url."
        raise Unavailable(message, status=response.status_code) from None
