"""Logs: one line an event, with ids, without secrets or payload values.

Request lines are not logged at all: the webhook URL is a credential. Tracebacks show code, never the
values of local variables.
"""

import logging
import sys
from typing import Literal

import structlog

from . import tracing


def configure(level: str, style: Literal["auto", "json", "text"]) -> None:
    """Sets up structlog and the standard library's logging to write to standard error."""
    text = style == "text" or (style == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _trace_id,
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        if text
        else structlog.processors.JSONRenderer()
    )
    before = [] if text else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *before, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # A stream that is still open when the process stops: nothing is wrong, and nobody can do anything.
    handler.addFilter(lambda record: "ASGI callable returned without completing" not in record.getMessage())
    for noisy in (
        "httpx2",
        "httpcore2",
        "alembic",
        "uvicorn.error",
        "uvicorn.access",
        "asyncio",
        "sse_starlette",
        "urllib3",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def to_standard_error() -> None:
    """For a command that does its work by itself: its standard output is its answer, and nothing else."""
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))


def _trace_id(logger: object, method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    if (found := tracing.current_trace_id()) is not None:
        line["trace_id"] = found
    return line
