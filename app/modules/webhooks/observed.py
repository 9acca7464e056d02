"""What metrics and traces show of a webhook: its receipt, its processing, its events."""

import time
from collections.abc import Coroutine, Sequence

from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer

from app.infra import metrics, tracing
from app.infra.watchdog import Watchdog
from app.integrations.base import BaseIntegration
from app.integrations.exchange import traced
from app.integrations.requests import WebhookRequest

from .parse import Origin, Parsed, parse
from .service import Settled

ROUTE = "/webhooks/{key}/{token}"
"""Instead of a path: that is a credential."""


def note_received(webhook_id: str, integration: str, connection_id: str, seconds: float) -> None:
    """A webhook is stored and its sender answered, `seconds` after its request was complete."""
    metrics.ACKNOWLEDGEMENT_SECONDS.observe(seconds)
    if tracing.active is None:
        return
    attributes = _attributes(webhook_id, integration, connection_id) | {"http.route": ROUTE}
    began = time.time_ns() - int(seconds * 1e9)
    span = tracing.active.first(webhook_id, "webhook receive", SpanKind.SERVER, attributes, began)
    if span is not None:
        span.end()


def parse_traced(
    instance: BaseIntegration,
    request: WebhookRequest,
    origin: Origin,
    watchdog: Watchdog,
    *,
    inline: bool = False,
    polled: bool = False,
) -> Coroutine[None, None, Parsed]:
    """`parse`, in the span of the processing, which `note_settled` ends."""
    if tracing.active is None:
        return parse(instance, request, origin, watchdog, inline=inline)
    # Nobody has received a polled item: being processed is how its trace begins.
    begin = tracing.active.first if polled else tracing.active.following
    attributes = _attributes(origin.webhook_id, instance.key, origin.connection_id)
    span = begin(origin.webhook_id, "webhook process", SpanKind.CONSUMER, attributes)
    parsing = parse(instance, request, origin, watchdog, inline=inline)
    return parsing if span is None else _in_span(tracing.active.tracer, span, parsing)


async def _in_span(tracer: Tracer, span: Span, parsing: Coroutine[None, None, Parsed]) -> Parsed:
    with traced(tracer, span):
        parsed = await parsing
    parsed.span = span
    return parsed


def note_settled(batch: Sequence[Settled]) -> None:
    """What became of one connection's webhooks is on disk, with their events."""
    if not batch:
        return
    integration = batch[0].integration
    failures = [one.failure for one in batch if one.failure is not None]
    for failure in failures:
        metrics.WEBHOOKS_FAILED(integration, metrics.code_label(failure.code)).inc()
    if len(batch) > len(failures):
        metrics.WEBHOOKS_PROCESSED(integration).inc(len(batch) - len(failures))
    if stored := sum(event.id != "" for one in batch for event in one.events):
        metrics.EVENTS_STORED(integration).inc(stored)
    if tracing.active is not None:
        for one in batch:
            if one.span is not None:
                _end(one.span, one)


def _end(span: Span, settled: Settled) -> None:
    span.set_attribute("trunkline.event.ids", [event.id for event in settled.events if event.id])
    if settled.failure is not None:
        span.set_attribute("error.type", metrics.code_label(settled.failure.code))
        span.set_status(StatusCode.ERROR)
    span.end()


def _attributes(webhook_id: str, integration: str, connection_id: str) -> dict[str, str]:
    return {
        "trunkline.webhook.id": webhook_id,
        "trunkline.integration": integration,
        "trunkline.connection.id": connection_id,
    }
