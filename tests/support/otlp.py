"""An OpenTelemetry collector on a real socket: takes OTLP over HTTP and keeps the spans."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SpanMessage

from .wire import Exchange, wire_server


@dataclass(frozen=True)
class Collected:
    """One span as it was sent."""

    name: str
    trace: str
    span: str
    parent: str
    kind: str
    failed: bool
    seconds: float
    attributes: dict[str, Any]
    resource: dict[str, Any]


@dataclass
class Collector:
    """Where it listens, what came, and all bytes of it."""

    url: str = ""
    spans: list[Collected] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)

    def trace(self, identifier: str) -> list[Collected]:
        """The spans of the webhook or action with this id, in the order of the way."""
        order = ["webhook receive", "action request", "webhook process", "action attempt"]
        spans = [span for span in self.spans if span.trace == identifier.partition("_")[2]]
        return sorted(spans, key=lambda s: order.index(s.name) if s.name in order else len(order))


@contextlib.asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    collector = Collector()

    async def behave(exchange: Exchange) -> None:
        while True:
            head, _, body = (await exchange.request()).partition(b"\r\n\r\n")
            assert head.startswith(b"POST /v1/traces ")
            collector.raw.append(body)
            collector.spans += _spans(body)
            await exchange.answer(200, content_type="application/x-protobuf")

    async with wire_server(behave) as server:
        collector.url = server.url
        yield collector


def _spans(body: bytes) -> list[Collected]:
    return [
        Collected(
            name=span.name,
            trace=span.trace_id.hex(),
            span=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            kind=SpanMessage.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
            failed=span.status.code == 2,
            seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
            attributes=_values(span.attributes),
            resource=_values(of_resource.resource.attributes),
        )
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in of_resource.scope_spans
        for span in scope.spans
    ]


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)
