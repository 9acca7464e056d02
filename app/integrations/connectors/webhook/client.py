"""Sends requests to where a caller says, within what the connection allows."""

import base64
import json
import re
import uuid
from datetime import UTC, datetime
from typing import Any

import httpx2
from standardwebhooks import Webhook

from app.integrations.bodies import decode_json
from app.integrations.errors import InvalidBody, Rejected
from app.integrations.http import ConnectorHttp, current_attempt

from .schemas import Answer, SendRequest, WebhookSettings

MAX_ANSWER = 256_000
"""Bytes of an answer that are read."""


class WebhookClient:
    """One connection's way out. Every call raises the contract's ProviderError leaves."""

    def __init__(
        self,
        http: ConnectorHttp,
        settings: WebhookSettings,
        sending_secret: str | None,
        authorization: str | None,
    ) -> None:
        self._settings = settings
        self._sending_secret = sending_secret
        self._authorization = authorization
        self._http = http.guarded(allow_private=settings.allow_private, max_bytes=MAX_ANSWER).bind(
            # Not compressed: see guard.py.
            headers={"user-agent": "trunkline", "accept-encoding": "identity"},
            redact=[secret for secret in (sending_secret, authorization) if secret],
        )

    async def send(self, request: SendRequest) -> Answer:
        self._check_host(request.url)
        content, headers = _content(request), dict(request.headers)
        if request.json_ is not None:
            headers.setdefault("content-type", "application/json")
        if self._authorization is not None:
            headers.setdefault("authorization", self._authorization)
        if self._sending_secret is not None:
            headers |= _signature(self._sending_secret, content or "")
        response = await self._http.request(
            request.method,
            request.url,
            content=None if content is None else content.encode(),
            headers=headers,
            timeout=request.timeout,
        )
        return _answer(response)

    async def aclose(self) -> None:
        await self._http.aclose()

    def _check_host(self, url: str) -> None:
        """Raises Rejected. The URL is read as the client reads it, so both mean the same host."""
        allowed = self._settings.allowed_hosts
        try:
            host = httpx2.URL(url).raw_host.decode("ascii").lower()
        except (httpx2.InvalidURL, UnicodeError):
            raise Rejected("The URL cannot be read.") from None
        if allowed and not any(_matches(host, pattern) for pattern in allowed):
            raise Rejected("The URL's host is not among the connection's allowed_hosts.")
        if self._authorization is not None and not allowed:
            raise Rejected(
                "The secret authorization goes only to hosts that are named: set allowed_hosts as well."
            )


def _matches(host: str, pattern: str) -> bool:
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _content(request: SendRequest) -> str | None:
    if "json_" in request.model_fields_set:
        return json.dumps(request.json_, ensure_ascii=False, separators=(",", ":"))
    return request.body


def _signature(secret: str, content: str) -> dict[str, str]:
    """The headers of Standard Webhooks. The id lasts through the attempts of an action, so that a receiver
    knows a repetition; the time does not, so that a late one is not too old."""
    attempt = current_attempt.get()
    message_id = (attempt.key if attempt else "") or f"msg_{uuid.uuid4().hex}"
    now = datetime.now(UTC)
    # The library skips characters that are not base64, and signs with a key that nobody else has.
    encoded = secret.removeprefix("whsec_").rstrip("=")
    if not re.fullmatch(r"[A-Za-z0-9+/]+", encoded) or len(encoded) % 4 == 1:
        raise Rejected("The secret sending_secret is not of the form whsec_ and base64; set it anew.")
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, now, content),
    }


def _answer(response: httpx2.Response) -> Answer:
    content = response.content
    answer = Answer(
        status=response.status_code,
        content_type=response.headers.get("content-type"),
        truncated=len(content) >= MAX_ANSWER,
    )
    if not content:
        return answer
    answer.body, answer.body_base64 = _readable(content)
    return answer


def _readable(content: bytes) -> tuple[Any, str | None]:
    try:
        return decode_json(content), None
    except InvalidBody as error:
        if error.code == "not_utf8":
            return None, base64.b64encode(content).decode()
    return content.decode("utf-8"), None
