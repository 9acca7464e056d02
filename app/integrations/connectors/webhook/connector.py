"""Webhooks of any kind: declarations, inbound messages, outgoing requests."""

import base64
import hashlib
from typing import Any
from urllib.parse import unquote

from app.integrations.base import BaseIntegration
from app.integrations.bodies import Form, JsonArray, decode_json
from app.integrations.errors import InvalidBody
from app.integrations.http import ConnectorHttp
from app.integrations.inbound import validated
from app.integrations.models import Event
from app.integrations.requests import Headers, WebhookRequest
from app.integrations.specs import ActionSpec, EventSpec, SecretSpec
from app.integrations.verification import BySettings, Hmac, StandardWebhooks, StaticToken, Verification

from . import schemas
from .client import WebhookClient
from .schemas import CloudEvent, MessagePayload, WebhookSettings

_SECRET = "signing_secret"  # noqa: S105 - a name

MAX_ID = 500


def _check(settings: WebhookSettings) -> Verification | None:
    match settings.scheme, settings.header:
        case "standard", _:
            return StandardWebhooks(secret=_SECRET)
        case "hmac", str(header):
            return Hmac(
                header=header,
                secret=_SECRET,
                algorithm=settings.algorithm,
                encoding=settings.encoding,
                prefix=settings.prefix,
            )
        case "token", str(header):
            return StaticToken(header=header, secret=_SECRET, prefix=settings.prefix)
    return None


class WebhookConnector(BaseIntegration):
    """Anything that sends or takes webhooks: JSON, forms and CloudEvents in, HTTP requests out."""

    name = "Webhook"
    key = "webhook"
    secrets = [
        SecretSpec(
            name=_SECRET,
            description="What requests are checked with: whsec_... of Standard Webhooks, the key of the "
            "HMAC, or the shared secret",
            required=False,
        ),
        SecretSpec(
            name="sending_secret",
            description="whsec_...: requests that are sent are signed with it, as Standard Webhooks has it",
            required=False,
        ),
        SecretSpec(
            name="authorization",
            description="Value of the header Authorization of requests that are sent; needs allowed_hosts",
            required=False,
        ),
    ]
    settings_model = WebhookSettings
    body = JsonArray()
    verification = BySettings(_check, secrets=(_SECRET,))
    events = [
        EventSpec(
            name="webhook.message.received",
            description="A message; its own type is in the payload",
            model=MessagePayload,
        ),
    ]
    actions = [
        ActionSpec(
            name="send_request",
            description="Send an HTTP request",
            model=schemas.SendRequest,
            handler="send_request",
            result=schemas.Answer,
        ),
    ]

    def __init__(
        self,
        settings: WebhookSettings,
        http: ConnectorHttp,
        sending_secret: str | None = None,
        authorization: str | None = None,
    ) -> None:
        self.settings = settings
        self.client = WebhookClient(http, settings, sending_secret, authorization)

    async def receive(self, request: WebhookRequest) -> list[Event]:
        """Makes the events of a request. Raises InvalidBody."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/cloudevents-batch+json":
            batch = decode_json(request.body)
            if not isinstance(batch, list):
                raise InvalidBody("invalid_cloudevent", "The batch is not a JSON array.")
            return [self._event(request, _structured(item), None) for item in batch]
        if kind == "application/cloudevents+json":
            return [self._event(request, _structured(decode_json(request.body)), None)]
        content = _content(kind, request)
        if "ce-specversion" in request.headers:
            return [self._event(request, _binary(request.headers) | content, None)]
        data = content.get("data")
        if self.settings.split and isinstance(data, list):
            return [self._event(request, {"data": item}, index) for index, item in enumerate(data)]
        return [self._event(request, content, None)]

    async def send_request(self, data: schemas.SendRequest) -> dict[str, Any]:
        return (await self.client.send(data)).model_dump(mode="json")

    async def aclose(self) -> None:
        await self.client.aclose()

    def _event(self, request: WebhookRequest, content: dict[str, Any], index: int | None) -> Event:
        """One message's event; `index` counts those of one request that have no more of their own."""
        settings, headers, data = self.settings, request.headers, content.get("data")
        message_id, external_id = content.get("id"), content.get("external_id")
        if settings.id_path is not None and message_id is None:
            message_id = external_id = _at(data, settings.id_path)
        elif message_id is None:
            name = settings.id_header or ("webhook-id" if settings.scheme == "standard" else "")
            message_id = headers.get(name)
            external_id = message_id if index is None or message_id is None else f"{message_id}:{index}"
        message_type = content.get("type")
        if message_type is None and settings.type_path is not None:
            message_type = _at(data, settings.type_path)
        if message_type is None and settings.type_header is not None:
            message_type = headers.get(settings.type_header)
        payload = MessagePayload(
            type=message_type,
            id=message_id,
            source=content.get("source"),
            attributes=content.get("attributes", {}),
            headers={n.lower(): headers[n] for n in settings.keep_headers if n in headers},
            data=data,
            data_base64=content.get("data_base64"),
        )
        return Event(
            type="webhook.message.received",
            external_id=_bounded(external_id),
            payload=payload.model_dump(),
        )


def _content(kind: str, request: WebhookRequest) -> dict[str, Any]:
    """What the body holds: JSON unless the content type says something else and it is that."""
    if not request.body:
        return {}
    try:
        return {"data": decode_json(request.body)}
    except InvalidBody:
        if not kind or kind == "application/json" or kind.endswith("+json"):
            raise
    if kind == "application/x-www-form-urlencoded":
        (fields,) = Form().parse(request.headers, request.body)
        return {"data": fields}
    try:
        return {"data": request.body.decode("utf-8")}
    except UnicodeDecodeError:
        return {"data_base64": base64.b64encode(request.body).decode()}


def _structured(item: Any) -> dict[str, Any]:
    """A CloudEvent in one JSON object."""
    found = validated(CloudEvent, item, "cloudevent").model_dump(exclude_unset=True)
    content = {name: found.pop(name) for name in ("data", "data_base64") if name in found}
    return _attributes(found) | content


def _binary(headers: Headers) -> dict[str, Any]:
    """A CloudEvent whose attributes are headers, percent-encoded where they are not plain ASCII."""
    found = {name[3:]: unquote(value) for name, value in headers.items() if name.startswith("ce-")}
    if "content-type" in headers:
        found["datacontenttype"] = headers["content-type"]
    return _attributes(validated(CloudEvent, found, "cloudevent").model_dump(exclude_unset=True))


def _attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    # The id is unique within its source.
    return {
        "id": attributes["id"],
        "type": attributes["type"],
        "source": attributes["source"],
        "external_id": f"{attributes['source']}#{attributes['id']}",
        "attributes": attributes,
    }


def _at(data: Any, path: str) -> str | None:
    """The text or whole number at a path; None if there is none."""
    for step in path.split("."):
        if isinstance(data, dict):
            data = data.get(step)
        elif isinstance(data, list) and step.isdecimal() and int(step) < len(data):
            data = data[int(step)]
        else:
            return None
    return str(data) if isinstance(data, str | int) and not isinstance(data, bool) else None


def _bounded(external_id: str | None) -> str | None:
    """An id that can be stored, whatever the sender wrote."""
    if not external_id:
        return None
    if len(external_id) > MAX_ID or "\x00" in external_id:
        return hashlib.sha256(external_id.encode()).hexdigest()
    return external_id
