"""A thin client of the HTTP API, version 10 (https://docs.discord.com/developers/reference).

Errors are `{"code": 50035, "message": "...", "errors": {...}}`; a rate limit says how long in `retry_after`.
Interaction tokens stand in the path, so no URL may reach an error, a repr or a log.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ValidationError

from app.integrations.errors import AuthenticationFailed, ProviderError, RateLimited, Rejected, Unavailable
from app.integrations.files import FileUpload
from app.integrations.http import ConnectorHttp, current_attempt, error_for_status

from .schemas import SentMessage

M = TypeVar("M", bound=BaseModel)

USER_AGENT = "DiscordBot (https://trunkline.example, 1.0.0)"
"""Discord asks for this form, and may block what has another."""

UNKNOWN_MESSAGE = 10008
_NO_INTERACTION = frozenset({10015, 50027})  # Unknown Webhook, Invalid Webhook Token
_BAD_TOKEN = frozenset({40001, 50014})  # Unauthorized, Invalid authentication token


class ErrorBody(BaseModel):
    """What Discord says about a refusal."""

    code: int = 0
    message: str
    errors: dict[str, Any] = {}
    retry_after: float | None = None


class Me(BaseModel):
    """The bot, or the app."""

    id: str


class DiscordClient:
    """The methods that the connector uses. Every one raises the contract's ProviderError leaves."""

    def __init__(self, http: ConnectorHttp, bot_token: str, base_url: str) -> None:
        http = http.bind(
            f"{base_url}/", headers={"User-Agent": USER_AGENT}, explain=explain, redact=[bot_token]
        )
        # Interaction tokens are permission enough: the bot's token stays out of those requests.
        self._interactions = http
        self._http = http.bind(headers={"Authorization": f"Bot {bot_token}"})

    async def get_me(self) -> None:
        _result(Me, await self._http.get("users/@me"))

    async def set_interactions_endpoint(self, url: str | None) -> None:
        """Discord sends a PING to the URL before it answers."""
        http = self._http.bind(redact=[url] if url else [])
        _result(Me, await http.patch("applications/@me", json={"interactions_endpoint_url": url}))

    async def create_message(
        self, channel_id: str, message: Mapping[str, Any], files: list[FileUpload]
    ) -> SentMessage:
        """A repetition within a few minutes gives back the message of the first try."""
        return await self._send(
            self._http, "POST", f"channels/{channel_id}/messages", {**message, **_nonce()}, files
        )

    async def edit_message(
        self, channel_id: str, message_id: str, message: Mapping[str, Any], files: list[FileUpload]
    ) -> SentMessage:
        path = f"channels/{channel_id}/messages/{message_id}"
        return await self._send(self._http, "PATCH", path, message, files)

    async def delete_message(self, channel_id: str, message_id: str) -> bool:
        """Whether there was one."""
        return await _deleted(self._http, f"channels/{channel_id}/messages/{message_id}")

    async def create_reaction(self, channel_id: str, message_id: str, emoji: str) -> None:
        named = quote(emoji, safe="")
        _nothing(await self._http.put(f"channels/{channel_id}/messages/{message_id}/reactions/{named}/@me"))

    async def edit_original(
        self, application_id: str, token: str, message: Mapping[str, Any], files: list[FileUpload]
    ) -> SentMessage:
        http, path = self._interaction(application_id, token)
        return await self._send(http, "PATCH", f"{path}/messages/@original", message, files)

    async def create_followup(
        self, application_id: str, token: str, message: Mapping[str, Any], files: list[FileUpload]
    ) -> SentMessage:
        http, path = self._interaction(application_id, token)
        return await self._send(http, "POST", path, message, files)

    async def delete_original(self, application_id: str, token: str) -> bool:
        http, path = self._interaction(application_id, token)
        return await _deleted(http, f"{path}/messages/@original")

    def _interaction(self, application_id: str, token: str) -> tuple[ConnectorHttp, str]:
        quoted = quote(token, safe="")
        return self._interactions.bind(redact=[token, quoted]), f"webhooks/{application_id}/{quoted}"

    async def _send(
        self,
        http: ConnectorHttp,
        method: str,
        path: str,
        message: Mapping[str, Any],
        files: list[FileUpload],
    ) -> SentMessage:
        if not files:
            response = await http.request(method, path, json=dict(message))
        else:
            attachments = [{"id": n, "filename": file.filename} for n, file in enumerate(files)]
            form = {"payload_json": json.dumps({**message, "attachments": attachments})}
            parts = {f"files[{n}]": _part(file) for n, file in enumerate(files)}
            response = await http.request(method, path, data=form, files=parts)
        return _result(SentMessage, response)


def explain(response: httpx2.Response) -> ProviderError | None:
    """The typed error of an error answer; None if it is not Discord's, so that its status decides."""
    status = response.status_code
    try:
        body = ErrorBody.model_validate_json(response.content)
    except ValidationError:
        if status != 403:
            return None
        # Cloudflare stands before the API: its refusals are of our address and say nothing of the token.
        return Rejected("Something before Discord's API answered 403: it may block this address for a while.")
    said = f"Discord: {body.message} ({body.code})"
    if status == 429:
        return RateLimited(said, retry_after=body.retry_after)
    if body.code in _NO_INTERACTION:
        return Rejected(f"{said}. The interaction_token is not valid, or older than 15 minutes.")
    if status == 401 or body.code in _BAD_TOKEN:
        return AuthenticationFailed(f"{said}. Copy the token again from the app's Bot page.")
    if status == 403:
        return Rejected(f"{said}. The bot lacks a permission there.")  # the token itself is good
    if body.errors:
        said += f": {', '.join(_problems(body.errors))}"
    return error_for_status(status, said)


def _problems(errors: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Where the trouble is and what kind it is, without Discord's sentences, which quote values."""
    for name, inner in errors.items():
        if name == "_errors" and isinstance(inner, list):
            codes = [str(one.get("code")) for one in inner if isinstance(one, dict)]
            yield f"{path or 'message'} {' '.join(codes)}"
        elif isinstance(inner, dict):
            yield from _problems(inner, f"{path}.{name}" if path else name)


async def _deleted(http: ConnectorHttp, path: str) -> bool:
    try:
        _nothing(await http.delete(path))
    except Rejected as error:
        if not str(error).endswith(f"({UNKNOWN_MESSAGE})"):
            raise
        return False
    return True


def _result(model: type[M], response: httpx2.Response) -> M:
    try:
        return model.model_validate_json(response.content)
    except ValidationError:
        raise Unavailable("Discord answered with a result of an unknown form: check base_url.") from None


def _nothing(response: httpx2.Response) -> None:
    if response.status_code != 204:
        raise Unavailable("The answer is not Discord's, which would be empty: check base_url.")


def _nonce() -> dict[str, Any]:
    attempt = current_attempt.get()
    if attempt is None or not attempt.key:
        return {}
    return {"nonce": hashlib.sha256(attempt.key.encode()).hexdigest()[:25], "enforce_nonce": True}


def _part(file: FileUpload) -> tuple[Any, ...]:
    # Without a type, the client tells it from the name.
    return (file.filename, file.content, *([file.content_type] if file.content_type else []))
