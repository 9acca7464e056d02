"""The span of one exchange with a provider, inside whatever is being traced.

Method, host and status: no path and no query, because some providers carry the credential there, and nothing
that an exception says.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, StatusCode

_tracer = trace.get_tracer("trunkline")


@contextmanager
def exchange_span(request: httpx2.Request) -> Iterator[Span]:
    """The current span while the request is under way; one that records nothing unless there is a trace."""
    around = trace.get_current_span()
    if not around.is_recording():
        yield around
        return
    attributes: dict[str, str | int] = {
        "http.request.method": request.method,
        "server.address": request.url.host,
    }
    if request.url.port is not None:
        attributes["server.port"] = request.url.port
    with _tracer.start_as_current_span(
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
