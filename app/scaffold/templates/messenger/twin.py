"""A local stand-in for Acme. It keeps everything in memory."""

import hashlib
import hmac
import json
from datetime import UTC, datetime
from itertools import count
from typing import Any

import httpx2
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from app.integrations.twin import Control, ControlError, NoInput, Twin


class Webhook(BaseModel):
    """Where webhooks go."""

    model_config = ConfigDict(extra="forbid")

    webhook_url: str = Field(pattern=r"^https?://", description="The connection's webhook_url")
    signing_secret: str = Field(min_length=1, description="The connection's signing_secret")


class Deliver(BaseModel):
    """Any webhook, as it stands."""

    model_config = ConfigDict(extra="forbid")

    body: dict[str, Any] | list[Any] = Field(description="The body, as JSON")


# <inbound inputs>
class Say(BaseModel):
    """A person writes a message."""

    model_config = ConfigDict(extra="forbid")

    text: str = Field(min_length=1, description="The text")
    chat_id: str = Field(default="c_1", min_length=1, description="The chat")
    name: str = Field(default="Ann", min_length=1, description="Who writes")


# </inbound>
class AcmeTwin(Twin):
    """Takes any key, and signs what it sends."""

    name = "acme"
    description = "Acme's API, as far as the connector uses it"
    controls = (
        Control("webhook", "Enter a webhook URL, as one would in the settings", Webhook, "set_webhook"),
        # <inbound controls>
        Control("say", "Write a message, as a person would", Say, "say"),
        # </inbound>
        Control("deliver", "Send a webhook with any body", Deliver, "deliver"),
        Control("reset", "Forget everything", NoInput, "reset"),
    )

    def __init__(self, settings: BaseModel | None = None) -> None:
        super().__init__(settings)
        self.target: Webhook | None = None
        self.messages: list[dict[str, Any]] = []
        self._numbers = count(1)

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/account", self._account),
            Route("/messages", self._post_message, methods=["POST"]),
        ]

    def state(self) -> dict[str, Any]:
        return {"webhook_url": self.target.webhook_url if self.target else None, "messages": self.messages}

    def greeting(self, url: str) -> str:
        return f"Give connections the setting base_url={url}; any api_key will do."

    async def stop(self) -> None:
        """Nothing runs in the background."""

    # The API.

    async def _account(self, request: Request) -> Response:
        return _refusal(request) or JSONResponse({"name": "twin"})

    async def _post_message(self, request: Request) -> Response:
        if refusal := _refusal(request):
            return refusal
        asked = await request.json()
        if asked.get("reply_to") not in (None, *(message["message_id"] for message in self.messages)):
            return JSONResponse({"error": "there is no such message to answer"}, status_code=404)
        message = self._message(asked["chat_id"], asked["text"], reply_to=asked.get("reply_to"))
        return JSONResponse(message, status_code=201)

    # Controls.

    async def set_webhook(self, order: Webhook) -> dict[str, Any]:
        self.target = order
        return {"webhook_url": order.webhook_url}

    # <inbound orders>
    async def say(self, order: Say) -> dict[str, Any]:
        message = self._message(order.chat_id, order.text)
        message |= {"sender": {"id": f"u_{order.name.lower()}", "name": order.name}, "sent_at": _now()}
        return await self._send({"id": self._id("evt"), "type": "message.received", "message": message})

    # </inbound>
    async def deliver(self, order: Deliver) -> dict[str, Any]:
        return await self._send(order.body)

    async def reset(self, _: NoInput) -> dict[str, Any]:
        self.target = None
        self.messages.clear()
        return {}

    def _message(self, chat_id: str, text: str, *, reply_to: str | None = None) -> dict[str, Any]:
        message: dict[str, Any] = {"message_id": self._id("m"), "chat_id": chat_id, "text": text}
        if reply_to is not None:
            message["reply_to"] = reply_to
        self.messages.append(message)
        return message

    def _id(self, kind: str) -> str:
        return f"{kind}_{next(self._numbers)}"

    async def _send(self, body: Any) -> dict[str, Any]:
        if self.target is None:
            raise ControlError(
                "No webhook URL is known. Enter one: do webhook --webhook-url … --signing-secret …"
            )
        content = json.dumps(body).encode()
        signature = hmac.new(self.target.signing_secret.encode(), content, hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": "application/json",
            "X-Acme-Signature": f"sha256={signature}",
        }
        try:
            async with httpx2.AsyncClient(trust_env=False) as http:
                answer = await http.post(self.target.webhook_url, content=content, headers=headers)
        except httpx2.TransportError as error:
            raise ControlError(f"Nothing took the webhook ({type(error).__name__}).") from None
        return {"sent": body, "answered": answer.status_code}


# <inbound functions>
def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# </inbound>
def _refusal(request: Request) -> Response | None:
    """The answer to a request without a key."""
    if request.headers.get("authorization", "").startswith("Bearer "):
        return None
    return JSONResponse({"error": "no API key was given"}, status_code=401)
