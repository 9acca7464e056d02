"""The webhook endpoint: a raw ASGI application in front of the API.

Bytes in, judged, stored with an fsync shared by all who wait, answered. No framework, no session, no log
line: this path is what the platform's speed is measured by. The path holds a credential, so nothing here
ever writes it anywhere.
"""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from app.errors import StorageUnavailable
from app.infra import metrics
from app.infra.clock import now_ms
from app.infra.db import Append, Database, table_of
from app.infra.failpoints import failpoint
from app.infra.ids import new_id
from app.integrations.base import BaseIntegration
from app.integrations.errors import KeyNeeded, KeyUnavailable, Refused
from app.integrations.registry import Integration
from app.integrations.requests import Headers, Reply, WebhookRequest
from app.modules.integrations.directory import Directory, Endpoint
from app.modules.integrations.refusals import Refusal, Refusals, outline

from .keys import FetchedKeys
from .models import ANSWERING, RECEIVED, WEBHOOK, Webhook
from .observed import note_received
from .service import stored_headers

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]

PREFIX = "/webhooks/"
RETRY_AFTER = 5
PATIENCE = 8
"""Times the largest body that are read to answer 413 in good order."""

_COLUMNS = (
    "id", "tenant", "connection_id", "integration", "source", "method", "query", "headers", "body",
    "received_at", "state", "tries", "owner",
)  # fmt: skip


_EMPTY = (b"content-length", b"0")
_NO_BODY = {"type": "http.response.body", "body": b""}


class Processing(Protocol):
    """What happens to a webhook once it is stored."""

    def stored(self, connection_id: str) -> None:
        """A webhook of this connection waits to be processed."""

    async def answer(self, webhook_id: str, timeout: float) -> Reply | None:
        """Processes a stored webhook while its sender waits; the reply that its connector wants to give."""


@dataclass
class Load:
    """How busy the endpoint is: complete requests that wait for their answer."""

    in_flight: int = 0
    answered_at: float = 0.0


class _Disconnected(Exception):
    """The sender went away before its request was complete."""


class WebhookIngress:
    """Serves `POST /webhooks/{integration key}/{token}` and hands every other path on."""

    def __init__(
        self,
        following: Asgi,
        database: Database,
        directory: Directory,
        refusals: Refusals,
        processing: Processing,
        keys: FetchedKeys,
        *,
        load: Load,
        owner: Callable[[], str],
        max_body: int,
        base_url: Callable[[], str],
    ) -> None:
        """`owner` names the node that answers; `load` is kept up to date."""
        self._following = following
        self._append: Append = database.appender(table_of(Webhook), _COLUMNS)
        self._directory = directory
        self._refusals = refusals
        self._processing = processing
        self._keys = keys
        self._max_body = max_body
        self._base_url = base_url
        self._owner = owner
        self.load = load

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self._following(scope, receive, send)
            return
        try:
            with suppress(_Disconnected):
                await self._serve(scope, receive, send)
        except Exception:
            metrics.WEBHOOK_RESPONSES.inc(500)  # which the server answers then
            raise

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        key, _, token = scope["path"][len(PREFIX) :].partition("/")
        body = await self._read_body(scope, receive)
        if body is None:
            await _answer(send, 413, close=True)
            return
        if not _is_whole(scope, body):
            await _answer(send, 400, close=True)
            return
        if not token or "/" in token:
            await _answer(send, 404)
            return
        try:
            endpoint = self._directory.cached(key, token) or await self._directory.find(key, token)
            if endpoint is None:
                await _answer(send, 404)
            elif endpoint.integration is None:
                # The sender is not at fault and will come again when the connector is back.
                await _answer(send, 503, retry=True)
            elif not endpoint.integration.takes_webhooks:
                await _answer(send, 404)
            elif scope["method"] not in endpoint.integration.webhook_methods:
                allowed = ", ".join(endpoint.integration.webhook_methods).encode()
                await _answer(send, 405, headers=[(b"allow", allowed)])
            else:
                self.load.in_flight += 1
                began = time.monotonic()
                try:
                    stored = await self._accept(scope, send, body, token, endpoint, endpoint.integration)
                finally:
                    self.load.in_flight -= 1
                    self.load.answered_at = time.monotonic()
                if stored is not None:
                    seconds = self.load.answered_at - began
                    note_received(stored, endpoint.key, endpoint.connection_id, seconds)
        except StorageUnavailable:
            await _answer(send, 503, retry=True)

    async def _accept(
        self, scope: Scope, send: Send, body: bytes, token: str, endpoint: Endpoint, integration: Integration
    ) -> str | None:
        """Answers a complete request; the webhook's id if it was stored."""
        connector = integration.connector
        query = scope["query_string"].decode("latin-1")
        headers = Headers([(n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"]])
        url = f"{self._base_url()}{PREFIX}{endpoint.key}/{token}{'?' + query if query else ''}"
        request = WebhookRequest(scope["method"], url, headers, body, connector.body)
        try:
            reply = await self._judge(request, endpoint, connector)
        except (Refused, KeyUnavailable) as error:
            self._refusals.add(
                endpoint.connection_id,
                Refusal(now_ms(), error.code, str(error), outline(headers), len(body)),
            )
            metrics.WEBHOOKS_REFUSED(endpoint.key, metrics.code_label(error.code)).inc()
            ours = isinstance(error, KeyUnavailable)
            await _answer(send, 503 if ours else 401, retry=ours)
            return None
        if reply is not None:
            await _give(send, reply)
            return None
        webhook_id = new_id("whk")
        check = endpoint.verification
        hidden = check.credential_headers if check else frozenset[str]()
        await self._append(
            (
                webhook_id,
                endpoint.tenant,
                endpoint.connection_id,
                endpoint.key,
                WEBHOOK,
                request.method,
                query,
                stored_headers(headers, hidden),
                body,
                now_ms(),
                RECEIVED if connector.reply_within is None else ANSWERING,
                0,
                None if connector.reply_within is None else self._owner(),
            )
        )
        if connector.reply_within is None:
            self._processing.stored(endpoint.connection_id)
        else:
            reply = await self._processing.answer(webhook_id, connector.reply_within)
        failpoint("webhook.before_acknowledgement")
        identified = (b"trunkline-webhook-id", webhook_id.encode())
        if reply is None:
            await send({"type": "http.response.start", "status": 200, "headers": [_EMPTY, identified]})
            await send(_NO_BODY)
            metrics.WEBHOOK_RESPONSES.inc(200)
        else:
            await _give(send, reply, identified)
        failpoint("webhook.after_acknowledgement")
        return webhook_id

    async def _judge(
        self, request: WebhookRequest, endpoint: Endpoint, connector: type[BaseIntegration]
    ) -> Reply | None:
        """Verifies the request; a Reply if it is a handshake, which is answered and not stored.

        Raises Refused and KeyUnavailable.
        """
        handshake, verification = connector.handshake, endpoint.verification
        if request.method == "POST" and verification is not None:
            now = now_ms() / 1000
            try:
                verification.verify(request, endpoint.secrets, now)
            except KeyNeeded as needed:
                key = await self._keys.get(needed.url)
                verification.verify(request, {**endpoint.secrets, needed.url: [key]}, now)
        if handshake is None or handshake.method != request.method:
            return None
        reply = handshake.answer(request, endpoint.secrets)
        if reply is None and request.method != "POST":
            raise Refused("not_a_handshake", f"The {request.method} is not the declared handshake.")
        return reply

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body, or None if it is longer than allowed.

        A longer one is read to its end all the same, within bounds, and thrown away: a sender that is cut
        off in the middle would see a broken connection and not the answer.
        """
        patience = self._max_body * PATIENCE
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value[:20]) > patience:
                return None
        message = await receive()
        if message["type"] != "http.request":
            raise _Disconnected
        if not message.get("more_body"):
            body: bytes = message.get("body", b"")
            return body if len(body) <= self._max_body else None
        chunks = [message.get("body", b"")]
        size = len(chunks[0])
        while message.get("more_body"):
            message = await receive()
            if message["type"] != "http.request":
                raise _Disconnected
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > patience:
                return None
            if size > self._max_body:
                chunks.clear()
        return b"".join(chunks) if size <= self._max_body else None


async def _give(send: Send, reply: Reply, *headers: tuple[bytes, bytes]) -> None:
    content_type = (b"content-type", reply.content_type.encode("latin-1"))
    await _answer(send, reply.status, reply.body, headers=[*headers, content_type])


def _is_whole(scope: Scope, body: bytes) -> bool:
    """Whether the body is what the sender declared. A server that is asked to upgrade the protocol may stop
    reading: what it then hands on must not be taken for the webhook."""
    declared = None
    upgrade = False
    for name, value in scope["headers"]:
        if name == b"content-length":
            declared = value
        elif name == b"upgrade":
            upgrade = True
    if declared is None:
        return not upgrade
    return declared.isdigit() and int(declared[:20]) == len(body)


async def _answer(
    send: Send,
    status: int,
    body: bytes = b"",
    *,
    headers: list[tuple[bytes, bytes]] | None = None,
    retry: bool = False,
    close: bool = False,
) -> None:
    lines = [(b"content-length", str(len(body)).encode()), *(headers or [])]
    if retry:
        lines.append((b"retry-after", str(RETRY_AFTER).encode()))
    if close:
        lines.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})
    metrics.WEBHOOK_RESPONSES.inc(status)
