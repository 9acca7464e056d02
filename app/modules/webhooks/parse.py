"""From a stored request to events: calls the connector and never lets its faults out."""

from dataclasses import dataclass, field
from typing import Any

import orjson
import structlog
from opentelemetry.trace import Span
from pydantic import ValidationError

from app.infra.clock import now_ms
from app.infra.place import kind_and_place, place_of
from app.infra.watchdog import Watchdog
from app.integrations.base import BaseIntegration, call
from app.integrations.errors import InboundError
from app.integrations.models import Event
from app.integrations.requests import Reply, WebhookRequest
from app.modules.events.service import NewEvent, canonical, fingerprint_of

log = structlog.get_logger()


@dataclass(frozen=True)
class Origin:
    """Whose webhook it is."""

    webhook_id: str
    tenant: str
    connection_id: str
    received_at: int


@dataclass(frozen=True)
class Failure:
    """Why an item or a whole webhook did not become events: a stable code and a sentence."""

    code: str
    message: str


@dataclass
class Parsed:
    """What became of a webhook. The first failure is kept; good items count all the same."""

    events: list[NewEvent] = field(default_factory=list)
    failure: Failure | None = None
    reply: Reply | None = None
    span: Span | None = None

    def fail(self, failure: Failure) -> None:
        self.failure = self.failure or failure


async def parse(
    instance: BaseIntegration,
    request: WebhookRequest,
    origin: Origin,
    watchdog: Watchdog,
    *,
    inline: bool = False,
) -> Parsed:
    """Makes the events of a request. Never raises for a fault of the body or the connector.

    `inline` says that the sender still waits, so that a Reply can be given.
    """
    parsed = Parsed()
    try:
        items = request.items
    except InboundError as error:
        # An override of `receive` may not need the items at all (a form, a bare ping).
        if _by_item(instance):
            parsed.fail(Failure(error.code, str(error)))
            return parsed
        items = [request.body.hex()]
    # Taken before the call: a connector may change what it is given.
    fingerprinted = not all(spec.unique_id for spec in instance.events)
    if _by_item(instance):
        for index, item in enumerate(items):
            content = canonical(item) if fingerprinted else b""
            try:
                event = await watchdog.run(call(instance.handle_webhook, item))
                parsed.events.append(_new_event(instance, event, index, origin, content, None))
            except Exception as error:  # noqa: BLE001 - an edge: a connector's fault fails this item only
                where = f"item {index}: " if len(items) > 1 else ""
                parsed.fail(_failure(error, where, origin, watchdog.seconds))
        return parsed
    content = canonical(items[0] if len(items) == 1 else items) if fingerprinted else b""
    try:
        made = await watchdog.run(call(instance.receive, request))
        if isinstance(made, Reply):
            _check_reply(made)
            if not inline and instance.reply_within is None:
                raise InboundError(
                    "reply_too_late",
                    "The connector returned a Reply, but the sender was answered long ago. "
                    "Set reply_within on the class so that receive runs while the sender waits.",
                )
            # Of a replay, and after a crash, nobody waits for the answer; its events count all the same.
            parsed.reply = made if inline else None
            made = list(made.events)
        for index, event in enumerate(_as_list(made)):
            parsed.events.append(_new_event(instance, event, index, origin, content, index))
    except Exception as error:  # noqa: BLE001 - an edge: see above
        parsed.events.clear()
        parsed.reply = None
        parsed.fail(_failure(error, "", origin, watchdog.seconds))
    return parsed


def _by_item(instance: BaseIntegration) -> bool:
    return type(instance).receive is BaseIntegration.receive


def _check_event(event: Event) -> None:
    """Looks at what a connector assigned to an Event afterwards, or constructed without validation."""
    try:
        identifier = event.external_id
        valid = isinstance(event.type, str) and isinstance(event.payload, dict)
        if identifier is not None:
            valid = valid and isinstance(identifier, str) and len(identifier.encode()) <= 2048
            valid = valid and "\0" not in identifier
    except (AttributeError, UnicodeEncodeError):
        valid = False
    if not valid:
        raise InboundError(
            "not_an_event",
            "The connector's Event is not valid: type is a string, external_id one or None, payload a dict.",
        )


def _check_reply(reply: Reply) -> None:
    valid = (
        isinstance(reply.body, bytes)
        and isinstance(reply.status, int)
        and 200 <= reply.status <= 599
        and isinstance(reply.content_type, str)
        and reply.content_type.isascii()
        and reply.content_type.isprintable()
    )
    if not valid:
        raise InboundError(
            "not_a_reply",
            "The connector's Reply is not valid: body is bytes, status 200 to 599, content_type plain ASCII.",
        )


def _as_list(made: Any) -> list[Any]:
    if made is None:
        return []
    return list(made) if isinstance(made, list | tuple) else [made]


def _new_event(
    instance: BaseIntegration,
    event: Any,
    index: int,
    origin: Origin,
    content: bytes,
    position: int | None,
) -> NewEvent:
    if not isinstance(event, Event):
        raise InboundError(
            "not_an_event",
            f"The connector returned a {type(event).__name__}; it has to return an Event.",
        )
    _check_event(event)
    spec = instance.event_spec(event.type)
    if spec is None:
        raise InboundError(
            "undeclared_event",
            f"The connector made an event of type '{event.type[:200]}', which it does not declare. "
            f"Add EventSpec(name='{event.type[:200]}', description=...) to its events.",
        )
    try:
        payload = orjson.dumps(event.payload).decode()
    except TypeError as error:
        raise InboundError(
            "payload_not_json",
            f"The event's payload holds something that JSON does not have ({type(error).__name__}): "
            "dict keys must be strings; use text, numbers, booleans, null, lists, dicts and datetimes.",
        ) from None
    return NewEvent(
        tenant=origin.tenant,
        connection_id=origin.connection_id,
        integration=instance.key,
        webhook_id=origin.webhook_id,
        item=index,
        type=event.type,
        external_id=event.external_id,
        unique_id=spec.unique_id,
        payload=payload,
        fingerprint=b"" if event.external_id is None or spec.unique_id else fingerprint_of(content, position),
        received_at=origin.received_at or now_ms(),
    )


def _failure(error: Exception, where: str, origin: Origin, timeout: float) -> Failure:
    if isinstance(error, InboundError):
        return Failure(error.code, f"{where}{error}")
    if isinstance(error, TimeoutError):
        return Failure("handler_timeout", f"{where}The connector took longer than {timeout:g} s.")
    log.warning(
        "webhook_handler_failed",
        webhook=origin.webhook_id,
        connection=origin.connection_id,
        error=kind_and_place(error),
    )
    if isinstance(error, ValidationError):
        fields = ", ".join(".".join(map(str, e["loc"])) for e in error.errors(include_input=False)[:5])
        message = f"{where}These fields are not as expected: {fields}. ({place_of(error)})"
        return Failure("unexpected_content", message)
    # Other errors may quote the payload: their kind and place are enough to find the line.
    return Failure("connector_error", f"{where}{kind_and_place(error)}")
