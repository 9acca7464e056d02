"""A thin client of the Bot API (https://core.telegram.org/bots/api, version 10.1).

A call is a POST to `<server>/bot<token>/<method>`; the answer is `{"ok": true, "result": ...}` or
`{"ok": false, "error_code": ..., "description": ..., "parameters": {...}}`. The token stands in the path,
so no URL may reach an error, a repr or a log.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, TypeAdapter, ValidationError

from app.integrations.errors import AuthenticationFailed, ProviderError, RateLimited, Rejected, Unavailable
from app.integrations.files import FileUpload
from app.integrations.http import ConnectorHttp, error_for_status

from .schemas import FileInfo, SentMessage

T = TypeVar("T")

_SENT = TypeAdapter(SentMessage)
_EDITED: TypeAdapter[SentMessage | bool] = TypeAdapter(SentMessage | bool)
_YES = TypeAdapter(bool)
_FILE = TypeAdapter(FileInfo)
_OBJECT = TypeAdapter(dict[str, Any])
_UPDATES = TypeAdapter(list[dict[str, Any]])


class Parameters(BaseModel):
    """ResponseParameters: what helps to handle an error automatically."""

    retry_after: float | None = None
    migrate_to_chat_id: int | None = None


class Envelope(BaseModel):
    """The outer form of every answer."""

    ok: bool
    result: Any = None
    error_code: int | None = None
    description: str = ""
    parameters: Parameters = Parameters()


class TelegramClient:
    """The methods that the connector uses. Every one raises the contract's ProviderError leaves."""

    def __init__(self, http: ConnectorHttp, bot_token: str, base_url: str) -> None:
        token = quote(bot_token, safe=":")
        self._files = f"{base_url}/file/bot{token}/"
        self._http = http.bind(f"{base_url}/bot{token}/", explain=explain, redact=[bot_token, token])

    async def get_me(self) -> dict[str, Any]:
        return await self._call("getMe", _OBJECT)

    async def get_updates(
        self, *, offset: int | None, timeout: int, allowed_updates: Iterable[str]
    ) -> list[dict[str, Any]]:
        """The updates from `offset` on, which confirms all before it. Waits up to `timeout` seconds."""
        params: dict[str, Any] = {"timeout": timeout, "allowed_updates": list(allowed_updates)}
        if offset is not None:
            params["offset"] = offset
        return await self._call("getUpdates", _UPDATES, params, timeout=timeout + 10.0)

    async def set_webhook(self, url: str, *, secret_token: str, allowed_updates: Iterable[str]) -> None:
        params = {
            "url": url,
            "secret_token": secret_token,
            "allowed_updates": list(allowed_updates),
            "drop_pending_updates": False,
        }
        await self._call("setWebhook", _YES, params, redact=[secret_token, url])

    async def delete_webhook(self) -> None:
        await self._call("deleteWebhook", _YES, {"drop_pending_updates": False})

    async def send(
        self, method: str, params: Mapping[str, Any], upload: tuple[str, FileUpload] | None = None
    ) -> SentMessage:
        """Calls one of the send methods; `upload` is the name of the file's field and the file."""
        return await self._call(method, _SENT, params, upload=upload)

    async def edit_message_text(self, params: Mapping[str, Any]) -> SentMessage | bool:
        return await self._call("editMessageText", _EDITED, params)

    async def do(self, method: str, params: Mapping[str, Any]) -> bool:
        """Calls a method that answers True."""
        return await self._call(method, _YES, params)

    async def get_file(self, file_id: str) -> FileInfo:
        return await self._call("getFile", _FILE, {"file_id": file_id})

    async def download(self, file_path: str) -> bytes:
        return (await self._http.get(self._files + quote(file_path))).content

    async def _call(
        self,
        method: str,
        result: TypeAdapter[T],
        params: Mapping[str, Any] | None = None,
        *,
        upload: tuple[str, FileUpload] | None = None,
        timeout: float | None = None,
        redact: Iterable[str] = (),
    ) -> T:
        http = self._http.bind(redact=redact) if redact else self._http
        if upload is None:
            response = await http.post(method, json=dict(params or {}), timeout=timeout)
        else:
            field, file = upload
            # Without a type, the client tells it from the name.
            part = (file.filename, file.content, *([file.content_type] if file.content_type else []))
            form = {name: _form_value(value) for name, value in (params or {}).items()}
            response = await http.post(method, data=form, files={field: part}, timeout=timeout)
        envelope = _envelope(response)
        if envelope is None or not envelope.ok:
            raise _error(envelope, response.status_code, http)
        try:
            return result.validate_python(envelope.result)
        except ValidationError:
            raise Unavailable(
                f"Telegram answered {method} with a result of an unknown form.", status=response.status_code
            ) from None


def explain(response: httpx2.Response) -> ProviderError | None:
    """The typed error of an error answer; None if it is not Telegram's, so that its status decides."""
    envelope = _envelope(response)
    return _typed(envelope, response.status_code) if envelope else None


def _error(envelope: Envelope | None, status: int, http: ConnectorHttp) -> ProviderError:
    # An answer below 400 that is not a success: ConnectorHttp does not look into those.
    if envelope is None:
        message = "What answered does not speak the Bot API: check base_url."
        return Unavailable(f"The answer of status {status} is not Telegram's. {message}", status=status)
    error = _typed(envelope, status)
    error.args = (http.redacted(str(error)),)
    return error


def _typed(envelope: Envelope, status: int) -> ProviderError:
    code = envelope.error_code or status
    said = envelope.description or f"error {code}"
    if code == 401 or (code == 404 and said == "Not Found"):
        # Telegram answers 401 to a revoked token and a bare 404 to one that is not formed like a token.
        return AuthenticationFailed(
            f"Telegram does not know the bot token ({said}). Copy it again from @BotFather.", status=code
        )
    if code == 429:
        return RateLimited(f"Telegram: {said}", status=code, retry_after=envelope.parameters.retry_after)
    if code >= 500 or code < 400:
        return error_for_status(max(code, 500), f"Telegram: {said}")
    if moved := envelope.parameters.migrate_to_chat_id:
        said = f"{said} (the group is now the supergroup {moved}: use that chat_id)"
    # 403 too: the bot was blocked or is no member, which says nothing about the token.
    return Rejected(f"Telegram: {said}", status=code)


def _envelope(response: httpx2.Response) -> Envelope | None:
    try:
        return Envelope.model_validate_json(response.content)
    except ValidationError:
        return None


def _form_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
