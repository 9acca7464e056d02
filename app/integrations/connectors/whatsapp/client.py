"""A thin client of the Graph API as WhatsApp uses it.

Errors are `{"error": {"code": 131056, "message": ..., "error_data": {"details": ...}}}`. Meta says to go by
the code: a rate limit may come with status 400, a missing permission with 500.
"""

from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
from pydantic import BaseModel, ConfigDict, ValidationError

from app.integrations.errors import AuthenticationFailed, ProviderError, RateLimited, Rejected, Unavailable
from app.integrations.files import FileUpload
from app.integrations.http import ConnectorHttp, error_for_status

from .schemas import Done, Media, SentMessage, UploadedMedia, WhatsAppSettings

M = TypeVar("M", bound=BaseModel)

# https://developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes
_BAD_TOKEN = frozenset({0, 190})
_NO_PERMISSION = frozenset({3, 10, 131005, *range(200, 300)})
_TOO_MUCH = frozenset({4, 17, 32, 613, 80007, 130429, 131056, 133016})


class ErrorData(BaseModel):
    """More words about what is wrong."""

    details: str | None = None


class GraphError(BaseModel):
    """What Graph says about a refusal."""

    code: int
    message: str = ""
    error_data: ErrorData | None = None


class ErrorBody(BaseModel):
    """The outer form of an error."""

    error: GraphError


class PhoneNumber(BaseModel):
    """A business phone number."""

    id: str


class SentTo(BaseModel):
    """Whom a message went to."""

    wa_id: str | None = None
    user_id: str | None = None


class SentId(BaseModel):
    """A message that was accepted."""

    id: str
    message_status: str | None = None


class Sent(BaseModel):
    """The answer to a message."""

    contacts: list[SentTo] = []
    messages: list[SentId]


class MediaInfo(Media):
    """A file with its address, which is good for 5 minutes and only with the token."""

    model_config = ConfigDict(extra="ignore")

    url: str


class WhatsAppClient:
    """The endpoints that the connector uses. Every one raises the contract's ProviderError leaves."""

    def __init__(self, http: ConnectorHttp, access_token: str, settings: WhatsAppSettings) -> None:
        base = urlsplit(settings.base_url)
        self._scheme = base.scheme
        self._hosts = (base.hostname or "", "facebook.com", "fbsbx.com")
        self._http = http.bind(
            f"{settings.base_url}/{settings.api_version}/",
            headers={"Authorization": f"Bearer {access_token}"},
            explain=explain,
            redact=[access_token],
        )

    async def get_phone_number(self, phone_number_id: str) -> None:
        _result(PhoneNumber, await self._http.get(phone_number_id, params={"fields": "id"}))

    async def send(self, phone_number_id: str, message: Mapping[str, Any]) -> SentMessage:
        body = {"messaging_product": "whatsapp", **message}
        response = await self._http.post(f"{phone_number_id}/messages", json=body)
        sent = _result(Sent, response)
        if not sent.messages:
            raise Unavailable("WhatsApp accepted the message without naming it.", status=response.status_code)
        to = sent.contacts[0] if sent.contacts else SentTo()
        first = sent.messages[0]
        return SentMessage(
            message_id=first.id, message_status=first.message_status, wa_id=to.wa_id, user_id=to.user_id
        )

    async def mark_as_read(self, phone_number_id: str, status: Mapping[str, Any]) -> Done:
        body = {"messaging_product": "whatsapp", "status": "read", **status}
        return _result(Done, await self._http.post(f"{phone_number_id}/messages", json=body))

    async def upload_media(self, phone_number_id: str, file: FileUpload, kind: str) -> UploadedMedia:
        form = {"messaging_product": "whatsapp", "type": kind}
        parts = {"file": (file.filename, file.content, kind)}
        response = await self._http.post(f"{phone_number_id}/media", data=form, files=parts)
        return _result(UploadedMedia, response)

    async def get_media(self, media_id: str, phone_number_id: str) -> MediaInfo:
        response = await self._http.get(media_id, params={"phone_number_id": phone_number_id})
        return _result(MediaInfo, response)

    async def download(self, url: str) -> bytes:
        if not self._is_metas(url):
            raise Rejected("The file's address is not Meta's; the access token was not sent there.")
        return (await self._http.bind(redact=[url, urlsplit(url).query]).get(url)).content

    def _is_metas(self, url: str) -> bool:
        try:
            parts = urlsplit(url)
        except ValueError:
            return False
        host = parts.hostname or ""
        known = any(host == name or host.endswith(f".{name}") for name in self._hosts)
        return known and parts.scheme == self._scheme

    async def override_callback(self, waba_id: str, override: Mapping[str, str] | None) -> None:
        """Subscribes the app to the account; without an override, webhooks go to the app's own URL."""
        http = self._http.bind(redact=list((override or {}).values()))
        body = dict(override) if override else None
        _result(Done, await http.post(f"{waba_id}/subscribed_apps", json=body))


def explain(response: httpx2.Response) -> ProviderError | None:
    """The typed error of an error answer; None if it is not Graph's, so that its status decides."""
    try:
        error = ErrorBody.model_validate_json(response.content).error
    except ValidationError:
        return None
    details = error.error_data.details if error.error_data else None
    said = f"WhatsApp: {details or error.message} ({error.code})"
    if error.code in _BAD_TOKEN:
        return AuthenticationFailed(f"{said}. Make a new access token of the system user.")
    if error.code in _NO_PERMISSION:
        return AuthenticationFailed(
            f"{said}. Give the access token's system user the phone number's account and the permissions "
            "whatsapp_business_messaging and whatsapp_business_management."
        )
    if error.code in _TOO_MUCH:
        return RateLimited(said)
    return error_for_status(response.status_code, said)


def _result(model: type[M], response: httpx2.Response) -> M:
    try:
        return model.model_validate_json(response.content)
    except ValidationError:
        raise Unavailable("WhatsApp answered with a result of an unknown form: check base_url.") from None
