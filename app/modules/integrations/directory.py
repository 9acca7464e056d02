"""From a webhook URL's token to what is needed to judge a request, without a database query per request."""

import time
from dataclasses import dataclass, field

import orjson
from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.infra.clock import now_ms
from app.infra.db import Database
from app.integrations.registry import Integration
from app.integrations.verification import Verification
from app.modules.secrets.service import LiveValue

from .models import Connection, ConnectionUrl
from .service import CHANGED, Connections, hash_token, owner_of

MISS_SECONDS = 1.0
MOST_MISSES = 10_000


@dataclass(frozen=True)
class Endpoint:
    """A connection as its webhook URL sees it.

    integration   None while its connector is unavailable, or does not take the connection's settings
    verification  how its requests prove to be genuine
    """

    connection_id: str
    tenant: str
    key: str
    integration: Integration | None
    verification: Verification | None
    secrets: dict[str, list[str]] = field(repr=False)
    expires_at: int | None
    read_at: float = field(default_factory=time.monotonic)


class Directory:
    """Caches endpoints until anything about connections changes, and unknown tokens for a second."""

    def __init__(
        self, database: Database, connections: Connections, *, cache_seconds: float | None = None
    ) -> None:
        """`cache_seconds` ends what is cached also when no change is announced."""
        self._database = database
        self._connections = connections
        self._cache_seconds = cache_seconds
        self._known: dict[tuple[str, str], Endpoint] = {}
        self._missed: dict[bytes, float] = {}
        self._generation = 0
        database.signals.listen(CHANGED, self._forget)

    def _forget(self) -> None:
        self._known.clear()
        self._missed.clear()
        self._generation += 1

    def cached(self, key: str, token: str) -> Endpoint | None:
        """The endpoint if it is in the cache: the usual case, without awaiting."""
        endpoint = self._known.get((key, token))
        if endpoint is None:
            return None
        if endpoint.expires_at is not None and endpoint.expires_at <= now_ms():
            return None
        if self._cache_seconds is not None and endpoint.read_at < time.monotonic() - self._cache_seconds:
            return None
        return endpoint

    async def find(self, key: str, token: str) -> Endpoint | None:
        """The endpoint of an enabled connection, or None. Raises StorageUnavailable."""
        hashed = hash_token(token)
        missed = self._missed.get(hashed)
        if missed is not None and time.monotonic() - missed < MISS_SECONDS:
            return None
        generation = self._generation
        endpoint = await self._database.read(lambda session: self._load(session, hashed))
        if endpoint is None:
            if len(self._missed) >= MOST_MISSES:
                self._missed.clear()
            if generation == self._generation:  # otherwise it may be known by now
                self._missed[hashed] = time.monotonic()
            return None
        if endpoint.key != key:
            return None
        if generation == self._generation:
            self._known[key, token] = endpoint
        return endpoint

    def _load(self, session: Session, hashed: bytes) -> Endpoint | None:
        now = now_ms()
        found = session.execute(
            select(ConnectionUrl, Connection)
            .join(Connection, Connection.id == ConnectionUrl.connection_id)
            .where(ConnectionUrl.token_hash == hashed)
        ).first()
        if found is None:
            return None
        url, row = found
        if not row.enabled or row.deleted_at is not None or (url.live_until or now + 1) <= now:
            return None
        integration = self._connections.integration(row.integration)
        verification: Verification | None = None
        if integration is not None:
            try:
                verification = integration.verification_for(orjson.loads(row.settings))
            except ValidationError:  # of an earlier version of the connector
                integration = None
        live: dict[str, list[LiveValue]] = {}
        if integration and (names := integration.webhook_secrets):
            live = self._connections.secrets.live(session, owner_of(row), names)
        ends = [v.until for values in live.values() for v in values if v.until is not None]
        if url.live_until is not None:
            ends.append(url.live_until)
        return Endpoint(
            connection_id=row.id,
            tenant=row.tenant,
            key=row.integration,
            integration=integration,
            verification=verification,
            secrets={name: [v.value for v in values] for name, values in live.items()},
            expires_at=min(ends, default=None),
        )
