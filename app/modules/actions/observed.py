"""What metrics and traces show of an action: its request, its attempts, its end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

from opentelemetry.trace import Span, SpanKind, StatusCode
from sqlalchemy.orm import Session

from app.infra import metrics, tracing
from app.infra.db import Database, Unit
from app.integrations.exchange import traced

from .attempts import ENDED, OpenAttempt, Outcome

T = TypeVar("T")

Note = Callable[[Outcome], None]


async def write_and_count(database: Database, unit: Unit[T]) -> T:
    """`database.write`, which counts the actions that the unit ends once that is on disk."""

    def keeping(session: Session) -> tuple[T, list[tuple[str, str]]]:
        return unit(session), session.info.get(ENDED, [])

    result, ended = await database.write(keeping)
    for integration, state in ended:
        metrics.ACTIONS_ENDED(integration, state).inc()
    return result


def note_requested(action_id: str, type: str, integration: str, connection_id: str) -> None:
    """A new action is on disk: its trace begins."""
    if tracing.active is None:
        return
    attributes = _attributes(action_id, type, integration, connection_id)
    span = tracing.active.first(action_id, "action request", SpanKind.SERVER, attributes)
    if span is not None:
        span.end()


@contextmanager
def attempting(attempt: OpenAttempt) -> Iterator[Note]:
    """The span of one attempt; what is yielded is told how it ended."""
    active = tracing.active
    span = None
    if active is not None:
        about = _attributes(attempt.action_id, attempt.type, attempt.integration, attempt.connection_id)
        about["trunkline.attempt.number"] = attempt.number
        span = active.following(attempt.action_id, "action attempt", SpanKind.INTERNAL, about)
    if active is None or span is None:
        yield lambda outcome: None
        return
    try:
        with traced(active.tracer, span):
            yield partial(_note, span)
    finally:
        span.end()


def note_attempt_closed(attempt: OpenAttempt, outcome: Outcome, *, paused: bool) -> None:
    """An attempt's outcome is on disk; `paused` if it is the one that paused its connection."""
    metrics.ATTEMPTS(attempt.integration, outcome.verdict).inc()
    if outcome.error_code is not None:
        metrics.ATTEMPTS_FAILED(attempt.integration, metrics.code_label(outcome.error_code)).inc()
    if attempt.number > 1:
        metrics.RETRIES(attempt.integration).inc()
    if paused:
        metrics.CONNECTIONS_PAUSED(attempt.integration).inc()


def _note(span: Span, outcome: Outcome) -> None:
    span.set_attribute("trunkline.attempt.verdict", outcome.verdict)
    if outcome.error_code is not None:
        span.set_attribute("error.type", outcome.error_code)
        span.set_status(StatusCode.ERROR)


def _attributes(action_id: str, type: str, integration: str, connection_id: str) -> dict[str, str | int]:
    return {
        "trunkline.action.id": action_id,
        "trunkline.action.type": type,
        "trunkline.integration": integration,
        "trunkline.connection.id": connection_id,
    }
