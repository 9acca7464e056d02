"""From an API key to its caller, without a database query per request."""

import time
from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.errors import Unauthenticated
from app.infra.db import Database

from .service import REVOKED, Caller, caller_for, ensure_tenant, find_key, hash_key

SECONDS = 5.0
"""How long a key is believed to be good when nothing is heard of its end: another node's word may be lost."""

MOST = 1000


@dataclass(frozen=True)
class _Known:
    caller: Caller
    until: float


class Callers:
    """Remembers callers until a key is revoked, on any node. Unknown keys are looked up each time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[tuple[bytes, str | None], _Known] = {}
        self._generation = 0
        database.signals.listen(REVOKED, self._forget)

    def _forget(self) -> None:
        self._known.clear()
        self._generation += 1

    async def of(self, key: str, tenant: str | None) -> Caller:
        """Who calls with this key, naming this tenant. An admin's first naming of a tenant makes it.

        Raises Unauthenticated, Forbidden, Invalid and StorageUnavailable.
        """
        asked = hash_key(key), tenant
        known = self._known.get(asked)
        if known is not None and known.until > time.monotonic():
            return known.caller
        generation, now = self._generation, time.monotonic()

        def unit(session: Session) -> tuple[Caller, bool] | None:
            row = find_key(session, key)
            return caller_for(session, row, tenant) if row else None

        found = await self._database.read(unit)
        if found is None:
            raise Unauthenticated(
                "This API key is not known.", remedy="Check the key; it may have been revoked."
            )
        caller, new_tenant = found
        if new_tenant:
            await self._database.write(lambda session: ensure_tenant(session, caller.tenant))
        if generation == self._generation:  # otherwise it may be revoked by now
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[asked] = _Known(caller, now + SECONDS)
        return caller
