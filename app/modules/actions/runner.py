"""Carries actions out: opens an attempt, calls the connector, records what became of it."""

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import orjson
import structlog
from pydantic import BaseModel
from sqlalchemy.orm import Session

from app.errors import NotFound, StorageUnavailable
from app.infra import metrics
from app.infra.batches import Batches
from app.infra.db import Database
from app.infra.deadline import Overtime, within
from app.infra.failpoints import failpoint
from app.infra.nodes import Nodes
from app.infra.place import kind_and_place
from app.infra.queue import WorkQueue
from app.integrations.errors import (
    ActionError,
    AuthenticationFailed,
    NotSent,
    ProviderError,
    RateLimited,
    Rejected,
    Unavailable,
)
from app.integrations.http import AttemptTrace, current_attempt
from app.integrations.models import Action, Applied, CannotTell
from app.integrations.registry import Registry
from app.modules.integrations.instances import ConnectionUnusable, Instances, Lease

from .attempts import (
    OpenAttempt,
    Outcome,
    Verdict,
    abandon_attempts,
    close_attempts,
    expire_actions,
    open_attempts,
    wake_blocked,
)
from .observed import attempting, note_attempt_closed, write_and_count
from .schedule import Schedule

log = structlog.get_logger()

MAX_RESULT = 1024 * 1024
"""Bytes of a stored result; a longer one is left out with a warning."""

STORAGE_PAUSE = 1.0
SWEEP_SECONDS = 5.0
SWEEP_BATCH = 500


@dataclass(eq=False)
class _Opening:
    """A call that wants an attempt of this action opened; `last` if it asks no more when that fails."""

    action_id: str
    last: bool = False


class ActionRunner:
    """The work handler of action.run. Its node owns the attempts that it opens."""

    def __init__(
        self,
        database: Database,
        registry: Registry,
        instances: Instances,
        queue: WorkQueue,
        nodes: Nodes,
        *,
        schedule: Schedule,
        timeout: float,
    ) -> None:
        self._database = database
        self._registry = registry
        self._instances = instances
        self._queue = queue
        self._nodes = nodes
        self._schedule = schedule
        self._timeout = timeout
        self._opening = Batches(self._open_all)
        self._openers: dict[str, _Opening] = {}
        """Who was the last to open an attempt of an action, until it knows whether that was stored."""
        self._closing = Batches(self._close_all)

    async def start(self) -> None:
        """Call before any work is done: ends what a dead process left open."""
        await self.adopt()

    async def adopt(self) -> None:
        """Ends what dead processes left open."""
        lost = await write_and_count(
            self._database,
            lambda s: abandon_attempts(s, self._queue, self._schedule, self._nodes.living(s)),
        )
        if lost:
            log.warning("attempts_abandoned", count=lost)

    async def run(self, action_id: str) -> None:
        """Tries one action. Safe to call any number of times: the row says what there is to do."""
        call = _Opening(action_id)
        opening = asyncio.create_task(self._open(call))
        try:
            attempt = await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The process is stopping, and what was opened meanwhile would look as if it had been tried.
            call.last = True
            with suppress(StorageUnavailable):
                if attempt := await opening:
                    message = "The process stopped before this was tried."
                    await asyncio.shield(self._close(attempt, _unsent("not_done", "interrupted", message)))
            raise
        if attempt is None:
            return
        failpoint("action.opened")
        with attempting(attempt) as note:
            outcome = await self._try(attempt)
            note(outcome)
        failpoint("action.answered")
        await self._close(attempt, outcome)
        failpoint("action.closed")

    async def sweep(self) -> None:
        """Now and then: ends what has passed its deadline, and wakes what nobody else has woken."""
        while True:
            while (
                await write_and_count(self._database, lambda s: expire_actions(s, SWEEP_BATCH)) == SWEEP_BATCH
            ):
                pass
            await self._database.write(lambda s: wake_blocked(s, self._queue, self._registry))
            await asyncio.sleep(SWEEP_SECONDS)

    async def _open(self, call: _Opening) -> OpenAttempt | None:
        """Opens an attempt, if there is one to open, however long the storage takes.

        If the line was lost during the commit it may be open without anybody knowing, and nobody would ever
        end it, because its owner lives. So whoever was the last to open it asks again; nothing was sent yet.
        """
        try:
            while True:
                try:
                    return await self._opening.ask(call)
                except StorageUnavailable as error:
                    if call.last:
                        raise
                    log.warning("attempt_not_opened", action=call.action_id, reason=error.message)
                    await asyncio.sleep(STORAGE_PAUSE)
        finally:
            if self._openers.get(call.action_id) is call:
                del self._openers[call.action_id]

    async def _open_all(self, calls: Sequence[_Opening]) -> list[OpenAttempt | None]:
        def unit(session: Session) -> list[OpenAttempt | None]:
            ids = [call.action_id for call in calls]
            perhaps_open = {n for n, call in enumerate(calls) if self._openers.get(call.action_id) is call}
            owner = self._nodes.id
            opened = open_attempts(session, self._queue, self._registry, ids, owner, perhaps_open)
            for call, attempt in zip(calls, opened, strict=True):
                if attempt is not None:  # its row is held: until the commit nobody else opens one
                    self._openers[call.action_id] = call
            return opened

        return await write_and_count(self._database, unit)

    async def _close_all(self, ended: Sequence[tuple[OpenAttempt, Outcome]]) -> list[bool]:
        return await write_and_count(
            self._database,
            lambda s: close_attempts(s, self._queue, self._registry, self._schedule, ended),
        )

    async def _close(self, attempt: OpenAttempt, outcome: Outcome) -> None:
        while True:
            try:
                paused = await self._closing.ask((attempt, outcome))
            except StorageUnavailable as error:
                # The effect has happened: what became of it is worth waiting for.
                log.warning("outcome_not_stored", action=attempt.action_id, reason=error.message)
                await asyncio.sleep(STORAGE_PAUSE)
            else:
                note_attempt_closed(attempt, outcome, paused=paused)
                if paused:
                    log.warning(
                        "connection_paused", connection=attempt.connection_id, reason=outcome.error_code
                    )
                return

    async def _try(self, attempt: OpenAttempt) -> Outcome:
        trace = AttemptTrace(key=attempt.action_id, owned=lambda: self._nodes.counts_as_living(attempt.owner))
        token = current_attempt.set(trace)
        called = False
        try:
            await self._nodes.prove()
            async with self._instances.lease(attempt.connection_id) as lease:
                if not lease.enabled:
                    return _unsent("refused", "connection_disabled", "The connection is disabled or deleted.")
                called = True
                began = time.monotonic()
                try:
                    return await self._call(attempt, lease, trace)
                finally:
                    metrics.ATTEMPT_SECONDS(attempt.integration).observe(time.monotonic() - began)
        except ConnectionUnusable as error:
            # A connector that is broken now may be mended by the next start; a missing secret is up to
            # somebody.
            verdict: Verdict = "not_done" if error.code == "integration_unavailable" else "refused"
            return _unsent(verdict, error.code, f"{error.message} {error.remedy}")
        except NotFound as error:
            return _unsent("refused", error.code, f"{error.message} {error.remedy}")
        except StorageUnavailable as error:
            return _unsent("not_done", error.code, f"{error.message} {error.remedy}")
        except asyncio.CancelledError:
            # The process is stopping and gave it all the time it had.
            message = "The process stopped while this was being tried; it may or may not have happened."
            await asyncio.shield(self._close(attempt, _ambiguous(trace, "interrupted", message)))
            raise
        except Exception as error:  # noqa: BLE001 - an attempt that is left open is open for ever
            fault = kind_and_place(error)
            log.warning("attempt_failed", action=attempt.action_id, error=fault)
            message = f"The platform failed with {fault}."
            if not called:
                return _unsent("not_done", "internal_error", message)
            return _ambiguous(trace, "internal_error", f"{message} It may have happened before that.")
        finally:
            current_attempt.reset(token)

    async def _call(self, attempt: OpenAttempt, lease: Lease, trace: AttemptTrace) -> Outcome:
        """Asks the provider if need be, then has the connector do it."""
        not_applied = reads = False
        instance = lease.instance
        until = time.monotonic() + self._timeout
        try:
            action = Action(type=attempt.type, payload=orjson.loads(attempt.payload))
            reads = instance.action_spec(action.type).reads
            if attempt.ask_first:
                answer = await within(self._timeout, instance.probe(action))
                if isinstance(answer, Applied):
                    return _success(answer.result, trace, found=True)
                if isinstance(answer, CannotTell):
                    message = "The provider could not say whether an earlier try has done it."
                    return _ambiguous(trace, "cannot_tell", message)
                not_applied = True
            result = await within(until - time.monotonic(), instance.execute(action))
        except ActionError as error:
            # It no longer fits what the connector declares today.
            outcome = _unsent("refused", "invalid_payload", str(error))
        except ProviderError as raised:
            told = lease.told(raised)
            if attempt.ask_first and not not_applied:
                # It is the probe that failed: an earlier try may still have done it.
                return _ambiguous(trace, told.code, str(told), told)
            outcome = _provider_outcome(told, trace)
            if trace.overtaken:  # the provider has nothing to do with it
                outcome = replace(outcome, outage=None)
        except Overtime:
            message = f"It took longer than {self._timeout:g} s."
            outcome = _ambiguous(trace, "timeout", message, outage=True)
        except Exception as error:  # noqa: BLE001 - an edge: whatever a connector raises
            fault = kind_and_place(error)
            log.warning("action_handler_failed", action=attempt.action_id, error=fault)
            message = f"The connector failed with {fault}; what was asked may have happened before that."
            outcome = _ambiguous(trace, "connector_error", message)
        else:
            return _success(result, trace)
        finally:
            # What the handler has left running can change nothing any more about what has just been judged.
            trace.end()
        if reads and outcome.verdict == "ambiguous":
            outcome = replace(outcome, verdict="not_done")
        return replace(outcome, not_applied=not_applied)


def _unsent(verdict: Verdict, code: str, message: str) -> Outcome:
    return Outcome(verdict, False, error_code=code, error=message)


def _ambiguous(
    trace: AttemptTrace,
    code: str,
    message: str,
    error: ProviderError | None = None,
    *,
    outage: bool | None = None,
) -> Outcome:
    return Outcome(
        "ambiguous",
        trace.begun or None,
        error_code=code,
        error=message,
        status=trace.status,
        retry_after=error.retry_after if error else None,
        outage=outage,
    )


def _success(result: object, trace: AttemptTrace, *, found: bool = False) -> Outcome:
    warning = "The provider says that an earlier try has done it; it was not sent again." if found else None
    stored: str | None = None
    try:
        if isinstance(result, BaseModel):
            result = result.model_dump(mode="json")
        stored = orjson.dumps(result).decode()
        if "null" in stored:  # what orjson makes of NaN as well
            json.dumps(result, allow_nan=False, default=str)
    except Exception:  # noqa: BLE001 - a connector's own model may raise anything; the effect has happened
        stored = None
        warning = f"The connector returned a {type(result).__name__}, which is not JSON; it was left out."
    if stored is not None and len(stored.encode()) > MAX_RESULT:
        stored, warning = None, f"The result is longer than {MAX_RESULT} bytes; it was left out."
    sent = trace.begun if found else True
    return Outcome("succeeded", sent, result=stored, warning=warning, status=trace.status, outage=False)


def _provider_outcome(error: ProviderError, trace: AttemptTrace) -> Outcome:
    """What a typed error says about the world. It speaks of the attempt's last exchange; where an earlier one
    may have had an effect, it proves nothing about the action.

    Provably nothing happened: nothing was sent, or the provider said no, or only something harmless was
    asked.
    """
    said_no = isinstance(error, Rejected | AuthenticationFailed | RateLimited)
    unsent = isinstance(error, NotSent) and trace.effects == 0
    if said_no:
        nothing_happened = trace.effects - trace.last_counts == 0
    else:
        nothing_happened = unsent or (error.harmless and trace.effects == 0)
    in_vain = isinstance(error, Rejected | AuthenticationFailed) or getattr(error, "hopeless", False)
    verdict: Verdict = "ambiguous"
    if nothing_happened:
        verdict = "refused" if in_vain else "not_done"
    return Outcome(
        verdict,
        sent=not unsent,
        error_code=error.code,
        error=str(error),
        status=error.status or trace.status,
        # Who refuses for good has nothing to wait for, and nobody else on the connection has either.
        retry_after=None if in_vain else error.retry_after,
        outage=_outage(error),
    )


def _outage(error: ProviderError) -> bool | None:
    """Whether the provider is down; None if the error does not tell."""
    if isinstance(error, NotSent):
        return None if error.hopeless else True
    return isinstance(error, Unavailable)
