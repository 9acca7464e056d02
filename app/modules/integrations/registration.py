"""Keeps providers told where to send webhooks. The work handlers of connection.register and .remove."""

import asyncio
import hashlib
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import structlog
from sqlalchemy.orm import Session

from app.infra.clock import now_ms
from app.infra.db import Database
from app.infra.nodes import Nodes
from app.integrations.base import call
from app.integrations.errors import AuthenticationFailed, ProviderError, Rejected, Unavailable

from .instances import ConnectionUnusable, Instances
from .models import Connection
from .service import REGISTER, REMOVE, Connections

log = structlog.get_logger()

RETRY_MS = 30_000
ELSEWHERE_MS = 2_000
"""When to look again while another node is at it."""
CALL_SECONDS = 60.0
GIVE_UP_MS = 10 * 60_000
"""How long a deleted connection's provider is asked to stop sending, if it does not answer."""


class Registration:
    """Tells providers the present URL and secrets, as long as they do not know them."""

    def __init__(
        self,
        database: Database,
        connections: Connections,
        instances: Instances,
        nodes: Nodes,
        public_url: str | None,
    ) -> None:
        self._database = database
        self._connections = connections
        self._instances = instances
        self._nodes = nodes
        self._public_url = public_url
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def register(self, connection_id: str) -> None:
        """Work handler: safe to run any number of times."""
        await self._in_turn(REGISTER, connection_id, self._register)

    async def _register(self, connection_id: str) -> None:
        def unit(session: Session) -> tuple[Connection | None, str | None, list[str]]:
            row = session.get(Connection, connection_id)
            if row is None:
                return None, None, []
            former = self._connections.former_tokens(session, row)
            return row, self._connections.token(session, row), former

        row, token, former_tokens = await self._database.read(unit)
        if row is None or row.deleted_at is not None or not row.enabled or token is None:
            return
        if self._public_url is None:
            await self._note(connection_id, "none", None, None)
            return
        url, *former = self._urls(row, [token, *former_tokens])
        try:
            async with self._instances.lease(connection_id) as lease:
                address = _digest(url, row.settings, lease.secrets)
                if row.registered_address == address and row.registration == "done":
                    return
                await self._note(connection_id, "pending", None, None)
                register = _taking(lease.instance.register_webhook, "former", former)
                await _ask(register, url, dict(lease.secrets))
        except ConnectionUnusable as error:
            await self._note(connection_id, "failed", str(error), None)
        except ProviderError as error:
            log.warning("webhook_not_registered", connection=connection_id, code=error.code)
            again = not isinstance(error, AuthenticationFailed | Rejected)
            pause = RETRY_MS if error.retry_after is None else int(error.retry_after * 1000)
            await self._note(connection_id, "failed", str(error), None, retry_in=pause if again else None)
        else:
            await self._note(connection_id, "done", None, address)

    async def remove(self, connection_id: str) -> None:
        """Work handler: tells the provider to stop, then forgets the secrets."""
        await self._in_turn(REMOVE, connection_id, self._remove)

    async def _in_turn(self, kind: str, connection_id: str, work: Callable[[str], Awaitable[None]]) -> None:
        """Of two that overlap, the one that began first could reach the provider last."""
        async with self._turns.setdefault(connection_id, asyncio.Lock()):
            lease = f"registration:{connection_id}"
            if not await self._nodes.acquire([lease]):
                put = self._connections.queue.put
                await self._database.write(
                    lambda session: put(session, kind, connection_id, now_ms() + ELSEWHERE_MS)
                )
                return
            try:
                await work(connection_id)
            finally:
                await self._nodes.release([lease])

    async def _remove(self, connection_id: str) -> None:
        def unit(session: Session) -> tuple[Connection | None, list[str]]:
            row = session.get(Connection, connection_id)
            if row is None:
                return None, []
            token = self._connections.token(session, row)
            return row, [*([token] if token else []), *self._connections.former_tokens(session, row)]

        row, tokens = await self._database.read(unit)
        if row is None or row.deleted_at is None:
            return
        urls = self._urls(row, tokens)
        try:
            if row.registration in ("done", "pending", "failed") and self._public_url is not None:
                async with self._instances.lease(connection_id) as lease:
                    await _ask(_taking(lease.instance.unregister_webhook, "urls", urls))
        except (AuthenticationFailed, Rejected, ConnectionUnusable) as error:
            log.warning("webhook_not_unregistered", connection=connection_id, code=error.code)
        except ProviderError as error:
            log.warning("webhook_not_unregistered", connection=connection_id, code=error.code)
            if now_ms() - row.deleted_at < GIVE_UP_MS:
                queue = self._connections.queue
                await self._database.write(
                    lambda session: queue.put(session, REMOVE, connection_id, now_ms() + RETRY_MS)
                )
                return

        def forget(session: Session) -> None:
            row = session.get(Connection, connection_id)
            if row:
                self._connections.forget(session, row)

        await self._database.write(forget)
        await self._instances.drop(connection_id)

    def _urls(self, row: Connection, tokens: Sequence[str]) -> list[str]:
        return [f"{self._public_url}/webhooks/{row.integration}/{token}" for token in tokens]

    async def _note(
        self,
        connection_id: str,
        state: str,
        error: str | None,
        address: str | None,
        retry_in: int | None = None,
    ) -> None:
        def unit(session: Session) -> None:
            row = session.get(Connection, connection_id)
            if row is None:
                return
            row.registration, row.registration_error, row.registered_address = state, error, address
            if retry_in is not None:
                self._connections.queue.put(session, REGISTER, connection_id, now_ms() + retry_in)

        await self._database.write(unit)


def _taking(method: Callable[..., Any], name: str, value: Any) -> Callable[..., Any]:
    """The method with one more argument, if it is among those that take it."""
    return partial(method, **{name: value}) if name in inspect.signature(method).parameters else method


async def _ask(hook: Callable[..., Awaitable[None]], *arguments: object) -> None:
    """Calls a connector's hook. Whatever else it raises is an Unavailable: it is worth another try."""
    try:
        async with asyncio.timeout(CALL_SECONDS):
            await call(hook, *arguments)
    except ProviderError:
        raise
    except TimeoutError:
        raise Unavailable(f"It took longer than {CALL_SECONDS:g} s.") from None
    except Exception as error:  # noqa: BLE001 - an edge: whatever a connector raises
        raise Unavailable(f"The connector failed with {type(error).__name__}.") from None


def _digest(url: str, settings: str, secrets: Mapping[str, str]) -> str:
    known = "\0".join([url, settings, *(f"{name}={value}" for name, value in sorted(secrets.items()))])
    return hashlib.sha256(known.encode()).hexdigest()
