"""Live connector instances: one per connection and configuration version, built when first needed."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import orjson
import structlog
from sqlalchemy.orm import Session

from app.errors import Conflict, NotFound
from app.infra import metrics
from app.infra.crypto import CannotOpen
from app.infra.db import Database
from app.infra.deadline import within
from app.infra.place import kind_and_place
from app.integrations.base import BaseIntegration, call
from app.integrations.errors import ProviderError
from app.integrations.exchange import current_observer
from app.integrations.http import ConnectorHttp
from app.integrations.registry import Integration

from .models import Connection
from .service import CHANGED, Connections, owner_of

log = structlog.get_logger()

CLOSE_SECONDS = 10.0


class ConnectionUnusable(Conflict):
    """The connection cannot work now: `code` and `remedy` say what is missing."""

    code = "connection_unusable"


class ConnectorMissing(ConnectionUnusable):
    """This process does not have the connection's connector; another may."""


@dataclass(eq=False)
class Lease:
    """An instance in use, and the connection that it is for."""

    instance: BaseIntegration
    integration: Integration
    connection_id: str
    tenant: str
    secrets: dict[str, str]
    version: int
    enabled: bool
    _http: ConnectorHttp
    _users: int = 0
    _retired: bool = False

    def __repr__(self) -> str:
        return f"Lease({self.connection_id})"

    def told(self, error: ProviderError) -> ProviderError:
        """The error as it may be stored and shown: a connector may have quoted anything."""
        return self._http.told(error)


class Instances:
    """Builds, shares and retires connector instances. An instance is closed once nobody uses it."""

    def __init__(
        self, database: Database, connections: Connections, *, cache_seconds: float | None = None
    ) -> None:
        """`cache_seconds` is how long an instance is believed to be of the present configuration when no
        change is announced."""
        self._database = database
        self._connections = connections
        self._current: dict[str, Lease] = {}
        self._cache_seconds = math.inf if cache_seconds is None else cache_seconds
        self._checked: dict[str, float] = {}
        self._building: dict[str, asyncio.Lock] = {}
        self._generation = 0
        database.signals.listen(CHANGED, self._forget)

    @asynccontextmanager
    async def lease(self, connection_id: str) -> AsyncIterator[Lease]:
        """The connection's instance, of its present configuration.

        Raises NotFound if the connection is gone, ConnectionUnusable if its connector is not available, a
        required secret has no value or the constructor raises.
        """
        lease = await self._present(connection_id)
        lease._users += 1
        try:
            yield lease
        except ProviderError as error:
            raise lease.told(error) from None
        finally:
            lease._users -= 1
            if lease._retired and lease._users == 0:
                await _close(lease)

    async def drop(self, connection_id: str) -> None:
        """Gives a removed connection's instance up."""
        async with self._building.setdefault(connection_id, asyncio.Lock()):
            await self._retire(connection_id)
        self._building.pop(connection_id, None)

    async def close(self) -> None:
        leases, self._current = list(self._current.values()), {}
        for lease in leases:
            await _close(lease)

    async def _present(self, connection_id: str) -> Lease:
        if lease := self._believed(connection_id):
            return lease
        async with self._building.setdefault(connection_id, asyncio.Lock()):
            if lease := self._believed(connection_id):
                return lease
            read_at = time.monotonic()
            generation = self._generation
            try:
                lease = await self._load(connection_id)
            except BaseException:
                await self._retire(connection_id)
                raise
            if generation == self._generation:  # nothing has changed since the read began
                self._checked[connection_id] = read_at
        return lease

    def _believed(self, connection_id: str) -> Lease | None:
        checked = self._checked.get(connection_id)
        if checked is None or checked < time.monotonic() - self._cache_seconds:
            return None
        return self._current.get(connection_id)

    def _forget(self) -> None:
        self._checked.clear()
        self._generation += 1

    async def _load(self, connection_id: str) -> Lease:
        def unit(session: Session) -> tuple[Connection, dict[str, str], list[str]]:
            row = session.get(Connection, connection_id)
            if row is None:
                raise NotFound("connection", connection_id)
            known = self._connections.integration(row.integration)
            if known is None:
                raise ConnectorMissing(
                    f"The connector '{row.integration}' is not available.",
                    code="integration_unavailable",
                    remedy="GET /api/v1/integrations says why; mend it and restart.",
                )
            live = self._connections.secrets.live(session, owner_of(row), known.secret_specs)
            missing = [s.name for s in known.connector.secrets if s.required and s.name not in live]
            return row, {name: values[0].value for name, values in live.items()}, missing

        try:
            row, secrets, missing = await self._database.read(unit)
        except CannotOpen:
            raise ConnectionUnusable(
                "A secret of the connection does not open: its row was changed, or is another connection's.",
                code="secret_unreadable",
                remedy=f"Set the secrets anew with PUT /api/v1/connections/{connection_id}/secrets.",
            ) from None
        current = self._current.get(connection_id)
        if current and current.version == row.config_version and current.secrets == secrets:
            current.enabled = row.enabled
            return current
        if missing and row.deleted_at is not None:
            raise ConnectionUnusable(
                "The connection has been deleted.",
                code="connection_disabled",
                remedy="What it was to do can be asked of another one.",
            )
        if missing:
            raise ConnectionUnusable(
                f"The connection has no value for the secret {', '.join(missing)}.",
                code="secret_missing",
                remedy=self._connections.secrets.remedy(owner_of(row), missing[0]),
            )
        integration = self._connections.registry.integrations[row.integration]
        lease = self._build(row, integration, secrets)
        await self._retire(connection_id)
        self._current[connection_id] = lease
        return lease

    def _build(self, row: Connection, integration: Integration, secrets: dict[str, str]) -> Lease:
        model = integration.connector.settings_model
        token = current_observer.set(partial(_note_exchange, row.integration))
        try:
            http = ConnectorHttp(redact=secrets.values())
            settings = model.model_validate(orjson.loads(row.settings)) if model else None
            instance = integration.create(secrets, settings, http)
        except BaseException as error:  # noqa: BLE001 - whatever a connector's constructor raises
            # Only the kind of error: what the constructor says may quote a secret.
            raise ConnectionUnusable(
                f"The connector '{row.integration}' could not be built: {kind_and_place(error)}.",
                code="connector_failed",
                remedy=f"Look at {integration.source} and at this connection's settings and secrets.",
            ) from None
        finally:
            current_observer.reset(token)
        return Lease(
            instance, integration, row.id, row.tenant, secrets, row.config_version, row.enabled, http
        )

    async def _retire(self, connection_id: str) -> None:
        lease = self._current.pop(connection_id, None)
        if lease:
            lease._retired = True
            if lease._users == 0:
                await _close(lease)


def _note_exchange(integration: str, seconds: float, status: int | None) -> None:
    label = "none" if status is None else f"{status // 100}xx"
    metrics.PROVIDER_SECONDS(integration, label).observe(seconds)


async def _close(lease: Lease) -> None:
    try:
        await within(CLOSE_SECONDS, call(lease.instance.aclose))
    except Exception as error:  # noqa: BLE001 - a connector's farewell stops nothing
        log.warning("connector_close_failed", connection=lease.connection_id, error=type(error).__name__)
    await lease._http.aclose()
