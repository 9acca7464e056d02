"""Where connections' secrets live.

A store hands values only to the platform's own code: to build a connector, and to verify webhooks. The API
can set them and list their names.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session

from app.errors import Conflict, StartupError
from app.infra import crypto
from app.infra.clock import now_ms
from app.infra.db import insert_if_absent

from .models import MasterKeyCheck, Secret, TenantKey

_CHECK = b"trunkline master key"
_CHECK_PLACE = ("master key check",)


@dataclass(frozen=True)
class Owner:
    """The connection whose secrets are meant."""

    tenant: str
    connection_id: str
    connection_name: str


@dataclass(frozen=True)
class LiveValue:
    """A secret's value, and until when it is accepted in verification (None: without end)."""

    value: str
    until: int | None = None

    def __repr__(self) -> str:
        return "LiveValue(***)"


@dataclass(frozen=True)
class SecretInfo:
    """What may be known about a secret by those who may not know it."""

    name: str
    version: int
    set_at: int | None


class SecretStore(Protocol):
    """One place where secrets live. All methods are parts of units of work."""

    writable: bool

    def put(
        self, session: Session, owner: Owner, values: Mapping[str, str], keep_previous_ms: int = 0
    ) -> None:
        """Sets values; the previous ones stay accepted in verification for `keep_previous_ms`."""

    def live(self, session: Session, owner: Owner, names: Iterable[str]) -> dict[str, list[LiveValue]]:
        """The live values of each name that has any, the newest first."""

    def infos(self, session: Session, owner: Owner, names: Iterable[str]) -> list[SecretInfo]:
        """Which of the names have a value."""

    def forget(self, session: Session, owner: Owner) -> None:
        """Removes every value of the connection."""

    def remedy(self, owner: Owner, name: str) -> str:
        """What to do when a value is missing."""


def has_master_key(session: Session) -> bool:
    """Whether something in the database is already sealed under a master key."""
    return session.get(MasterKeyCheck, 1) is not None


class TenantKeys:
    """Data keys by tenant: sealed under the master key in the database, open in memory."""

    def __init__(self, master_key: bytes) -> None:
        self._master_key = master_key
        self._open: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return "TenantKeys(***)"

    def check(self, session: Session) -> None:
        """Raises StartupError if the database was written under another master key. The first start leaves
        the check value."""
        sealed = crypto.seal(self._master_key, _CHECK, _CHECK_PLACE)
        if insert_if_absent(session, MasterKeyCheck, id=1, sealed=sealed):
            return
        row = session.get_one(MasterKeyCheck, 1)
        try:
            crypto.unseal(self._master_key, row.sealed, _CHECK_PLACE)
        except crypto.CannotOpen:
            raise StartupError(
                "The master key is not the one that this database was written with.",
                remedy="Restore the right key in TRUNKLINE_MASTER_KEY or in master.key in the data folder.",
            ) from None

    def ensure(self, session: Session, tenant: str) -> None:
        """Makes the tenant's data key if there is none yet."""
        if session.get(TenantKey, tenant) is None:
            sealed = crypto.seal(self._master_key, crypto.new_key(), ("tenant key", tenant))
            insert_if_absent(session, TenantKey, tenant=tenant, sealed=sealed, created_at=now_ms())

    def seal(self, session: Session, tenant: str, plain: str, place: tuple[str, ...]) -> bytes:
        self.ensure(session, tenant)
        return crypto.seal(self._key(session, tenant), plain.encode(), (tenant, *place))

    def unseal(self, session: Session, tenant: str, sealed: bytes, place: tuple[str, ...]) -> str:
        return crypto.unseal(self._key(session, tenant), sealed, (tenant, *place)).decode()

    def _key(self, session: Session, tenant: str) -> bytes:
        # Remembered by its sealed form: a unit that made a key may yet roll back.
        sealed = session.scalars(select(TenantKey.sealed).where(TenantKey.tenant == tenant)).one()
        memory = f"{tenant}:{sealed.hex()}"
        if memory not in self._open:
            self._open[memory] = crypto.unseal(self._master_key, sealed, ("tenant key", tenant))
        return self._open[memory]


class DatabaseSecrets:
    """Secrets in the platform's database, each version sealed under its tenant's key and bound to its row."""

    writable = True

    def __init__(self, keys: TenantKeys) -> None:
        self._keys = keys

    def put(
        self, session: Session, owner: Owner, values: Mapping[str, str], keep_previous_ms: int = 0
    ) -> None:
        now = now_ms()
        until = now + keep_previous_ms
        for name, value in values.items():
            newest = session.scalar(
                select(Secret.version)
                .where(Secret.connection_id == owner.connection_id, Secret.name == name)
                .order_by(Secret.version.desc())
                .limit(1)
            )
            version = (newest or 0) + 1
            of_this_name = (Secret.connection_id == owner.connection_id, Secret.name == name)
            session.execute(
                update(Secret)
                .where(*of_this_name, or_(Secret.live_until.is_(None), Secret.live_until > until))
                .values(live_until=until)
            )
            session.execute(delete(Secret).where(*of_this_name, Secret.live_until <= now))
            session.add(
                Secret(
                    connection_id=owner.connection_id,
                    name=name,
                    version=version,
                    tenant=owner.tenant,
                    sealed=self._keys.seal(session, owner.tenant, value, _place(owner, name, version)),
                    created_at=now,
                    live_until=None,
                )
            )
            session.flush()

    def live(self, session: Session, owner: Owner, names: Iterable[str]) -> dict[str, list[LiveValue]]:
        now = now_ms()
        rows = session.scalars(
            select(Secret)
            .where(Secret.connection_id == owner.connection_id, Secret.name.in_(list(names)))
            .order_by(Secret.name, Secret.version.desc())
        )
        live: dict[str, list[LiveValue]] = {}
        for row in rows:
            if row.live_until is not None and row.live_until <= now:
                continue
            plain = self._keys.unseal(session, owner.tenant, row.sealed, _place(owner, row.name, row.version))
            live.setdefault(row.name, []).append(LiveValue(plain, row.live_until))
        return live

    def infos(self, session: Session, owner: Owner, names: Iterable[str]) -> list[SecretInfo]:
        rows = session.scalars(
            select(Secret)
            .where(
                Secret.connection_id == owner.connection_id,
                Secret.name.in_(list(names)),
                Secret.live_until.is_(None),
            )
            .order_by(Secret.name)
        )
        return [SecretInfo(row.name, row.version, row.created_at) for row in rows]

    def forget(self, session: Session, owner: Owner) -> None:
        session.execute(delete(Secret).where(Secret.connection_id == owner.connection_id))

    def remedy(self, owner: Owner, name: str) -> str:
        return f"Set it with PUT /api/v1/connections/{owner.connection_id}/secrets."


class EnvironmentSecrets:
    """Secrets in environment variables, read-only: `TRUNKLINE_SECRET__<TENANT>__<CONNECTION>__<NAME>`, each
    part in capitals with everything but letters and digits as one underscore."""

    writable = False

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = os.environ if environment is None else environment

    def put(
        self, session: Session, owner: Owner, values: Mapping[str, str], keep_previous_ms: int = 0
    ) -> None:
        if values:
            raise Conflict(
                "Secrets are read from environment variables here and cannot be set.",
                code="secrets_read_only",
                remedy="Set the variable "
                + ", ".join(self.variable(owner, name) for name in values)
                + " and restart.",
            )

    def live(self, session: Session, owner: Owner, names: Iterable[str]) -> dict[str, list[LiveValue]]:
        return {
            name: [LiveValue(value)]
            for name in names
            if (value := self._environment.get(self.variable(owner, name)))
        }

    def infos(self, session: Session, owner: Owner, names: Iterable[str]) -> list[SecretInfo]:
        return [SecretInfo(name, 1, None) for name in self.live(session, owner, names)]

    def forget(self, session: Session, owner: Owner) -> None:
        """Nothing is kept here."""

    def remedy(self, owner: Owner, name: str) -> str:
        return f"Set the variable {self.variable(owner, name)} and restart."

    @staticmethod
    def variable(owner: Owner, name: str) -> str:
        # Tenant names hold no underscores, so two tenants never share a variable.
        parts = (owner.tenant, owner.connection_name, name)
        return "TRUNKLINE_SECRET__" + "__".join(
            re.sub(r"[^A-Z0-9]+", "_", part.upper()).strip("_") for part in parts
        )


def _place(owner: Owner, name: str, version: int) -> tuple[str, ...]:
    return ("secret", owner.connection_id, name, str(version))
