"""Traces, for OpenTelemetry: off unless the standard variables ask for them.

An id of ours is a prefix and 32 hex digits, which are a trace id: the webhook `whk_0198…` is the trace
`0198…`, and the action `act_0198…` likewise. So whoever goes on with a webhook, in another process or days
later, knows its trace without anything being stored. The trace's first span has the id's last 16 digits as
its span id, which makes it the parent of all that follows. Nothing says whether that first span was sampled,
but the standard samplers decide by the trace id, so asking again gives the same answer.

Spans carry ids, codes and declared names: never a payload, a header or a URL. What an exception says is not
recorded, because it may quote any of them.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, TraceFlags

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

log = structlog.get_logger()

Attributes = Mapping[str, str | int | list[str]]

FLUSH_SECONDS = 3.0
"""What the exporter gets to send the last spans when the process stops."""

COMPLAIN_EVERY = 60.0

_EXPORTER = "OTEL_TRACES_EXPORTER"
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")

_given_id: ContextVar[int | None] = ContextVar("given_trace_id", default=None)


class Tracing:
    """The traces of this process, while they are asked for."""

    def __init__(self, provider: "TracerProvider") -> None:
        self._provider = provider
        self.tracer = provider.get_tracer("trunkline")

    def first(
        self, identifier: str, name: str, kind: SpanKind, attributes: Attributes, began_ns: int | None = None
    ) -> Span | None:
        """The span that begins this id's trace; None if it is not sampled."""
        trace_id = _trace_id(identifier)
        if not self._samples(trace_id):
            return None
        token = _given_id.set(trace_id)
        try:
            return self.tracer.start_span(
                name, context=Context(), kind=kind, attributes=attributes, start_time=began_ns
            )
        finally:
            _given_id.reset(token)

    def following(self, identifier: str, name: str, kind: SpanKind, attributes: Attributes) -> Span | None:
        """A span that follows on the first one, wherever and whenever that was; None if it is not sampled."""
        trace_id = _trace_id(identifier)
        if not self._samples(trace_id):
            return None
        flags = TraceFlags(TraceFlags.SAMPLED)
        parent = SpanContext(trace_id, _first_span_id(trace_id), is_remote=True, trace_flags=flags)
        context = trace.set_span_in_context(NonRecordingSpan(parent), Context())
        return self.tracer.start_span(name, context=context, kind=kind, attributes=attributes)

    def _samples(self, trace_id: int) -> bool:
        from opentelemetry.sdk.trace.sampling import Decision

        # An empty context: with the current one the sampler would look for a parent there.
        result = self._provider.sampler.should_sample(Context(), trace_id, "")
        return result.decision != Decision.DROP

    async def stop(self) -> None:
        """Sends what waits, if the exporter is quick about it."""
        # A thread that nobody joins: an exporter that hangs does not keep the process from ending.
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop is gone: nobody waits any more
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=shut_down, name="trunkline-traces", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_SECONDS):
                await done.wait()


active: Tracing | None = None
"""None while traces are off, which is all that is looked at then."""


def start(environment: Mapping[str, str]) -> None:
    """Begins to trace if the standard variables ask for it."""
    global active  # noqa: PLW0603 - one for the process, like its log
    if active is not None or not _asked_for(environment):
        return
    try:
        active = Tracing(_provider())
    except Exception as error:  # noqa: BLE001 - an edge: traces are not worth a start that fails
        log.warning("traces_off", reason=type(error).__name__, remedy="Look at the OTEL_… variables.")
    else:
        log.info("traces_on")


async def stop() -> None:
    global active
    stopping, active = active, None
    if stopping is not None:
        await stopping.stop()


def current_trace_id() -> str | None:
    """The trace that the running code belongs to, if it is recorded."""
    if active is None:
        return None
    span = trace.get_current_span()
    return trace.format_trace_id(span.get_span_context().trace_id) if span.is_recording() else None


def _asked_for(environment: Mapping[str, str]) -> bool:
    def value(*names: str) -> str:
        return next((environment[name].strip() for name in names if environment.get(name, "").strip()), "")

    if value("OTEL_SDK_DISABLED").lower() == "true":
        return False
    exporters = {part.strip().lower() for part in value(_EXPORTER).split(",") if part.strip()}
    if exporters == {"none"} or not (exporters or value(*_ENDPOINTS)):
        return False
    if exporters - {"otlp", "none"}:
        log.warning("traces_off", reason="unknown exporter", remedy=f"Set {_EXPORTER}=otlp or none.")
        return False
    if value(*_PROTOCOLS).lower() not in ("", "http/protobuf"):
        remedy = f"Set {_PROTOCOLS[1]}=http/protobuf and an endpoint that takes it, usually on port 4318."
        log.warning("traces_off", reason="unsupported protocol", remedy=remedy)
        return False
    return True


def _provider() -> "TracerProvider":
    # Imported only now: it takes a quarter of a second.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class Ids(RandomIdGenerator):
        """The ids that were given, for first spans."""

        def generate_trace_id(self) -> int:
            given = _given_id.get()
            return super().generate_trace_id() if given is None else given

        def generate_span_id(self) -> int:
            given = _given_id.get()
            return super().generate_span_id() if given is None else _first_span_id(given)

    _speak_for_the_exporter()
    resource = Resource.create({"service.name": "trunkline"}).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, id_generator=Ids(), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _trace_id(identifier: str) -> int:
    return int(identifier.rpartition("_")[2], 16)


def _first_span_id(trace_id: int) -> int:
    return trace_id & 0xFFFF_FFFF_FFFF_FFFF


class _Complaints(logging.Handler):
    """One line a minute of our own, instead of the library's many: they quote addresses and answers."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._said_at = float("-inf")

    def emit(self, record: logging.LogRecord) -> None:
        if time.monotonic() - self._said_at >= COMPLAIN_EVERY:
            self._said_at = time.monotonic()
            log.warning(
                "traces_not_exported",
                source=record.name,
                remedy="Is OTEL_EXPORTER_OTLP_ENDPOINT right, and does it answer?",
            )


def _speak_for_the_exporter() -> None:
    library = logging.getLogger("opentelemetry")
    library.handlers = [_Complaints()]
    library.propagate = False
