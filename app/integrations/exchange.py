"""What is seen of each exchange with a provider: how long it took, and its span inside whatever is traced.

Method, host and status: no path and no query, because some providers carry the credential there, and nothing
that an exception says. The tracer comes with the context and not from the process-wide provider: that would
wake the instrumentation that libraries bring along, which records paths, queries and what exceptions say.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import httpx2
from opentelemetry import trace
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode, Tracer

Observe = Callable[[float, int | None], None]
"""Told of each exchange: its seconds, and its status or None if there was no answer."""

current_observer: ContextVar[Observe | None] = ContextVar("current_observer", default=None)
"""Whom a client that is made now tells: so that a connector's own client does, too."""

_current_tracer: ContextVar[Tracer | None] = ContextVar("current_tracer", default=None)


@contextmanager
def traced(tracer: Tracer, span: Span) -> Iterator[None]:
    """Exchanges in this block belong to the span."""
    token = _current_tracer.set(tracer)
    try:
        with trace.use_span(span, record_exception=False, set_status_on_exception=False):
            yield
    finally:
        _current_tracer.reset(token)


@contextmanager
def exchange_span(request: httpx2.Request) -> Iterator[Span]:
    """The current span while the request is under way; one that records nothing unless there is a trace."""
    tracer = _current_tracer.get()
    if tracer is None:
        yield INVALID_SPAN
        return
    attributes: dict[str, str | int] = {
        "http.request.method": request.method,
        "server.address": request.url.host,
    }
    if request.url.port is not None:
        attributes["server.port"] = request.url.port
    with tracer.start_as_current_span(
        request.method,
        kind=SpanKind.CLIENT,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            yield span
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(StatusCode.ERROR)
            raise


def note_answer(span: Span, status: int) -> None:
    if span.is_recording():
        span.set_attribute("http.response.status_code", status)
        if status >= 400:
            span.set_attribute("error.type", str(status))
            span.set_status(StatusCode.ERROR)
