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
class Save(BaseModel):
    """A person saves a contact."""

    model_config = ConfigDict(extra="forbid")

    email: str = Field(min_length=3, description="The address, by which a contact is recognised")
    name: str | None = Field(default=None, description="The full name")
    phone: str | None = Field(default=None, description="The phone number")


# </inbound>
class AcmeTwin(Twin):
    """Takes any key, and signs what it sends."""

    name = "acme"
    description = "Acme's API, as far as the connector uses it"
    controls = (
        Control("webhook", "Enter a webhook URL, as one would in the settings", Webhook, "set_webhook"),
        # <inbound controls>
        Control("save", "Save a contact, new or not, as a person would", Save, "save"),
        # </inbound>
        Control("deliver", "Send a webhook with any body", Deliver, "deliver"),
        Control("reset", "Forget everything", NoInput, "reset"),
    )

    def __init__(self, settings: BaseModel | None = None) -> None:
        super().__init__(settings)
        self.target: Webhook | None = None
        self.contacts: list[dict[str, Any]] = []
        self._numbers = count(1)

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/account", self._account),
            Route("/contacts", self._create, methods=["POST"]),
            Route("/contacts", self._find, methods=["GET"]),
            Route("/contacts/by-email/{email}", self._upsert, methods=["PUT"]),
            Route("/contacts/{id}", self._update, methods=["PATCH"]),
        ]

    def state(self) -> dict[str, Any]:
        return {"webhook_url": self.target.webhook_url if self.target else None, "contacts": self.contacts}

    def greeting(self, url: str) -> str:
        return f"Give connections the setting base_url={url}; any api_key will do."

    async def stop(self) -> None:
        """Nothing runs in the background."""

    # The API.

    async def _account(self, request: Request) -> Response:
        return _refusal(request) or JSONResponse({"name": "twin"})

    async def _create(self, request: Request) -> Response:
        if refusal := _refusal(request):
            return refusal
        fields = await request.json()
        if self._by_email(fields["email"]):
            return JSONResponse({"error": "the address is taken"}, status_code=409)
        return JSONResponse(self._saved(fields), status_code=201)

    async def _upsert(self, request: Request) -> Response:
        if refusal := _refusal(request):
            return refusal
        email = request.path_params["email"]
        return JSONResponse(self._saved({**await request.json(), "email": email}))

    async def _update(self, request: Request) -> Response:
        if refusal := _refusal(request):
            return refusal
        contact = next((one for one in self.contacts if one["id"] == request.path_params["id"]), None)
        if contact is None:
            return JSONResponse({"error": "there is no such contact"}, status_code=404)
        contact |= await request.json()
        return JSONResponse(contact)

    async def _find(self, request: Request) -> Response:
        if refusal := _refusal(request):
            return refusal
        found = self._by_email(request.query_params.get("email", ""))
        return JSONResponse({"contacts": [found] if found else []})

    # Controls.

    async def set_webhook(self, order: Webhook) -> dict[str, Any]:
        self.target = order
        return {"webhook_url": order.webhook_url}

    # <inbound orders>
    async def save(self, order: Save) -> dict[str, Any]:
        known = self._by_email(order.email) is not None
        fields = order.model_dump(exclude_none=True)
        change = {
            "id": self._id("chg"),
            "kind": "contact.updated" if known else "contact.created",
            "occurred_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "changed": sorted(fields.keys() - {"email"}) if known else [],
            "contact": self._saved(fields),
        }
        return await self._send([change])

    # </inbound>
    async def deliver(self, order: Deliver) -> dict[str, Any]:
        return await self._send(order.body)

    async def reset(self, _: NoInput) -> dict[str, Any]:
        self.target = None
        self.contacts.clear()
        return {}

    def _saved(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The contact with this address and these fields, new if it has to be."""
        contact = self._by_email(fields["email"])
        if contact is None:
            contact = {"id": self._id("ct")}
            self.contacts.append(contact)
        contact |= fields
        return contact

    def _by_email(self, email: str) -> dict[str, Any] | None:
        return next((contact for contact in self.contacts if contact["email"] == email), None)

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
