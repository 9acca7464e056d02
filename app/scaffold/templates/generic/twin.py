"""A local stand-in for Acme. It keeps everything in memory."""

import hashlib
import hmac
import json
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
class Create(BaseModel):
    """A new item."""

    model_config = ConfigDict(extra="forbid")

    title: str = Field(min_length=1, description="What it is called")


# </inbound>
class AcmeTwin(Twin):
    """Takes any key, and signs what it sends."""

    name = "acme"
    description = "Acme's API, as far as the connector uses it"
    controls = (
        Control("webhook", "Enter a webhook URL, as one would in the settings", Webhook, "set_webhook"),
        # <inbound controls>
        Control("create", "Create an item, as a person would", Create, "create"),
        # </inbound>
        Control("deliver", "Send a webhook with any body", Deliver, "deliver"),
        Control("reset", "Forget everything", NoInput, "reset"),
    )

    def __init__(self, settings: BaseModel | None = None) -> None:
        super().__init__(settings)
        self.target: Webhook | None = None
        self.items: list[dict[str, Any]] = []
        self._numbers = count(1)

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/account", self._account),
            Route("/items", self._create_item, methods=["POST"]),
        ]

    def state(self) -> dict[str, Any]:
        return {"webhook_url": self.target.webhook_url if self.target else None, "items": self.items}

    def greeting(self, url: str) -> str:
        return f"Give connections the setting base_url={url}; any api_key will do."

    async def stop(self) -> None:
        """Nothing runs in the background."""

    # The API.

    async def _account(self, request: Request) -> Response:
        return _refusal(request) or JSONResponse({"name": "twin"})

    async def _create_item(self, request: Request) -> Response:
        if refusal := _refusal(request):
            return refusal
        asked = await request.json()
        return JSONResponse(self._item(asked["title"]), status_code=201)

    # Controls.

    async def set_webhook(self, order: Webhook) -> dict[str, Any]:
        self.target = order
        return {"webhook_url": order.webhook_url}

    # <inbound orders>
    async def create(self, order: Create) -> dict[str, Any]:
        item = self._item(order.title)
        return await self._send({"id": self._id("evt"), "type": "item.created", "item": item})

    # </inbound>
    async def deliver(self, order: Deliver) -> dict[str, Any]:
        return await self._send(order.body)

    async def reset(self, _: NoInput) -> dict[str, Any]:
        self.target = None
        self.items.clear()
        return {}

    def _item(self, title: str) -> dict[str, Any]:
        item = {"id": self._id("itm"), "title": title}
        self.items.append(item)
        return item

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


def _refusal(request: Request) -> Response | None:
    """The answer to a request without a key."""
    if request.headers.get("authorization", "").startswith("Bearer "):
        return None
    return JSONResponse({"error": "no API key was given"}, status_code=401)
