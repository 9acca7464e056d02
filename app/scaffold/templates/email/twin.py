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
class Arrive(BaseModel):
    """A mail arrives."""

    model_config = ConfigDict(extra="forbid")

    message_id: str | None = Field(default=None, description="The mail; the last one if not set")


class Bounce(Arrive):
    """A mail comes back."""

    reason: str = Field(default="550 no such user", description="What the recipient's server said")
    permanent: bool = Field(default=True, description="Whether trying again is of no use")


# </inbound>
class AcmeTwin(Twin):
    """Takes any key, and signs what it sends."""

    name = "acme"
    description = "Acme's API, as far as the connector uses it"
    controls = (
        Control("webhook", "Enter a webhook URL, as one would in the settings", Webhook, "set_webhook"),
        # <inbound controls>
        Control("arrive", "Let a mail arrive", Arrive, "arrive"),
        Control("bounce", "Let a mail come back", Bounce, "bounce"),
        # </inbound>
        Control("deliver", "Send a webhook with any body", Deliver, "deliver"),
        Control("reset", "Forget everything", NoInput, "reset"),
    )

    def __init__(self, settings: BaseModel | None = None) -> None:
        super().__init__(settings)
        self.target: Webhook | None = None
        self.mails: list[dict[str, Any]] = []
        self._numbers = count(1)

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/account", self._account),
            Route("/mails", self._accept, methods=["POST"]),
        ]

    def state(self) -> dict[str, Any]:
        return {"webhook_url": self.target.webhook_url if self.target else None, "mails": self.mails}

    def greeting(self, url: str) -> str:
        return f"Give connections the setting base_url={url}; any api_key will do."

    async def stop(self) -> None:
        """Nothing runs in the background."""

    # The API.

    async def _account(self, request: Request) -> Response:
        return _refusal(request) or JSONResponse({"name": "twin"})

    async def _accept(self, request: Request) -> Response:
        if refusal := _refusal(request):
            return refusal
        mail = {"message_id": self._id("m"), **await request.json()}
        self.mails.append(mail)
        return JSONResponse({"message_id": mail["message_id"]}, status_code=202)

    # Controls.

    async def set_webhook(self, order: Webhook) -> dict[str, Any]:
        self.target = order
        return {"webhook_url": order.webhook_url}

    # <inbound orders>
    async def arrive(self, order: Arrive) -> dict[str, Any]:
        return await self._tell("delivered", order.message_id)

    async def bounce(self, order: Bounce) -> dict[str, Any]:
        why = {"reason": order.reason, "permanent": order.permanent}
        return await self._tell("bounced", order.message_id, **why)

    async def _tell(self, event: str, message_id: str | None, **more: Any) -> dict[str, Any]:
        found = [mail for mail in self.mails if message_id in (None, mail["message_id"])]
        if not found:
            raise ControlError("There is no such mail. Have the connector send one: send_email")
        mail = found[-1]
        notification = {
            "event_id": self._id("evt"),
            "event": event,
            "message_id": mail["message_id"],
            "recipient": mail["to"][0],
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        return await self._send(notification | more)

    # </inbound>
    async def deliver(self, order: Deliver) -> dict[str, Any]:
        return await self._send(order.body)

    async def reset(self, _: NoInput) -> dict[str, Any]:
        self.target = None
        self.mails.clear()
        return {}

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
