"""Carries actions out: opens an attempt, calls the connector, records what became of it."""

import asyncio

import orjson
import structlog
from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.errors import NotFound, StorageUnavailable
from app.infra.db import Database
from app.infra.ids import new_id
from app.infra.place import kind_and_place
from app.infra.queue import WorkQueue
from app.integrations.errors import (
    ActionError,
    AuthenticationFailed,
    NotSent,
    ProviderError,
    RateLimited,
    Rejected,
)
from app.integrations.http import AttemptTrace, current_attempt
from app.integrations.models import Action
from app.modules.integrations.instances import ConnectionUnusable, Instances

from .models import FAILED, SUCCEEDED, UNKNOWN
from .service import OpenAttempt, Outcome, abandon_attempts, close_attempt, open_attempt

log = structlog.get_logger()

MAX_RESULT = 1024 * 1024
"""Bytes of a stored result; a longer one is left out with a warning."""

STORAGE_PAUSE = 1.0


class ActionRunner:
    """The work handler of action.run. One runner is one owner of attempts."""

    def __init__(self, database: Database, instances: Instances, queue: WorkQueue, *, timeout: float) -> None:
        self._database = database
        self._instances = instances
        self._queue = queue
        self._timeout = timeout
        self.owner = new_id("run")

    async def start(self) -> None:
        """Call before any work is done: ends what a dead process left open."""
        lost = await self._database.write(lambda s: abandon_attempts(s, self._queue, self.owner))
        if lost:
            log.warning("attempts_abandoned", count=lost)

    async def run(self, action_id: str) -> None:
        """Tries one action. Safe to call any number of times: the row says what there is to do."""
        attempt = await self._database.write(lambda s: open_attempt(s, self._queue, action_id, self.owner))
        if attempt is None:
            return
        outcome = await self._try(attempt)
        await self._close(attempt, outcome)

    async def _close(self, attempt: OpenAttempt, outcome: Outcome) -> None:
        def unit(session: Session) -> None:
            close_attempt(session, attempt, self.owner, outcome)

        while True:
            try:
                await self._database.write(unit)
            except StorageUnavailable as error:
                # The effect has happened: what became of it is worth waiting for.
                log.warning("outcome_not_stored", action=attempt.action_id, reason=error.message)
                await asyncio.sleep(STORAGE_PAUSE)
            else:
                return

    async def _try(self, attempt: OpenAttempt) -> Outcome:
        trace = AttemptTrace(key=attempt.action_id)
        token = current_attempt.set(trace)
        try:
            async with self._instances.lease(attempt.connection_id) as lease:
                if not lease.enabled:
                    return Outcome(
                        FAILED, False, error_code="connection_disabled", error="The connection is disabled."
                    )
                action = Action(type=attempt.type, payload=orjson.loads(attempt.payload))
                async with asyncio.timeout(self._timeout):
                    result = await lease.instance.execute(action)
        except (ConnectionUnusable, NotFound, StorageUnavailable) as error:
            return Outcome(FAILED, False, error_code=error.code, error=f"{error.message} {error.remedy}")
        except ActionError as error:
            return Outcome(FAILED, False, error_code="invalid_payload", error=str(error))
        except ProviderError as error:
            return _provider_outcome(error, trace)
        except TimeoutError:
            message = f"It took longer than {self._timeout:g} s."
            return Outcome(
                UNKNOWN, trace.begun or None, error_code="timeout", error=message, status=trace.status
            )
        except asyncio.CancelledError:
            # The process is stopping and gave it all the time it had.
            message = "The process stopped while this was being tried; it may or may not have happened."
            await asyncio.shield(
                self._close(
                    attempt, Outcome(UNKNOWN, trace.begun or None, error_code="interrupted", error=message)
                )
            )
            raise
        except Exception as error:  # noqa: BLE001 - an edge: whatever a connector raises
            fault = kind_and_place(error)
            log.warning("action_handler_failed", action=attempt.action_id, error=fault)
            message = f"The connector failed with {fault}; what was asked may have happened before that."
            return Outcome(
                UNKNOWN,
                trace.begun or None,
                error_code="connector_error",
                error=message,
                status=trace.status,
            )
        finally:
            current_attempt.reset(token)
        return _success(result, trace)


def _success(result: object, trace: AttemptTrace) -> Outcome:
    try:
        if isinstance(result, BaseModel):
            result = result.model_dump(mode="json")
        stored = orjson.dumps(result).decode()
    except Exception:  # noqa: BLE001 - a connector's own model may raise anything; the effect has happened
        warning = f"The connector returned a {type(result).__name__}, which is not JSON; it was left out."
        return Outcome(SUCCEEDED, True, warning=warning, status=trace.status)
    if len(stored.encode()) > MAX_RESULT:
        warning = f"The result is longer than {MAX_RESULT} bytes; it was left out."
        return Outcome(SUCCEEDED, True, warning=warning, status=trace.status)
    return Outcome(SUCCEEDED, True, result=stored, status=trace.status)


def _provider_outcome(error: ProviderError, trace: AttemptTrace) -> Outcome:
    """What a typed error says about the world.

    Provably nothing happened: nothing was sent (and nothing before it in this attempt), or the provider
    said no. Everything else may have happened.
    """
    refused = isinstance(error, Rejected | AuthenticationFailed | RateLimited)
    unsent = isinstance(error, NotSent) and not trace.begun
    return Outcome(
        FAILED if refused or unsent else UNKNOWN,
        sent=not unsent,
        error_code=error.code,
        error=str(error)[:1000],
        status=error.status or trace.status,
        retry_after=error.retry_after,
    )
