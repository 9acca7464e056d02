"""Who may do what, and for which tenant."""

import hashlib
import re
import secrets
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from app.errors import Conflict, Forbidden, Invalid, NotFound, Problem
from app.infra.clock import now_ms
from app.infra.db import exclusive, insert_if_absent, signal
from app.infra.ids import new_id

from .models import ApiKey, Tenant

DEFAULT_TENANT = "default"
TENANT_HEADER = "Trunkline-Tenant"
REVOKED = "keys-revoked"
"""Wakes whoever remembers keys."""

_TENANT = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Caller:
    """Somebody with a valid key. `tenant` is whom the request acts for."""

    key_id: str
    tenant: str
    admin: bool


@dataclass(frozen=True)
class NewKey:
    """A key at the one moment when it can be shown."""

    row: ApiKey
    key: str

    def __repr__(self) -> str:
        return f"NewKey({self.row.id})"


def hash_key(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def find_key(session: Session, key: str) -> ApiKey | None:
    return session.scalars(select(ApiKey).where(ApiKey.key_hash == hash_key(key))).first()


def caller_for(session: Session, key: ApiKey, named_tenant: str | None) -> tuple[Caller, bool]:
    """The caller, and whether the tenant still has to be made (an admin's first naming of it).

    Raises Forbidden if a tenant's key names another tenant, Invalid for an impossible name.
    """
    if key.tenant is not None:
        if named_tenant not in (None, key.tenant):
            raise Forbidden(
                "This key belongs to another tenant than the one named.",
                remedy=f"Leave {TENANT_HEADER} out, or use an admin key.",
            )
        return Caller(key.id, key.tenant, admin=False), False
    tenant = DEFAULT_TENANT if named_tenant is None else named_tenant
    check_tenant_name(tenant)
    return Caller(key.id, tenant, admin=True), session.get(Tenant, tenant) is None


def check_tenant_name(name: str) -> None:
    if len(name) > 63 or not _TENANT.fullmatch(name):
        raise Invalid(
            "The tenant's name is not valid.",
            code="invalid_tenant",
            remedy="Use up to 63 lower-case letters, digits and single hyphens, such as acme-eu.",
            problems=[Problem(TENANT_HEADER, "invalid_tenant", "not a tenant name")],
        )


def ensure_tenant(session: Session, name: str) -> None:
    insert_if_absent(session, Tenant, name=name, created_at=now_ms())


def create_key(session: Session, name: str, tenant: str | None) -> NewKey:
    """Makes a key; `tenant` None makes an admin key."""
    if tenant is not None:
        check_tenant_name(tenant)
        ensure_tenant(session, tenant)
    key = "tl_" + secrets.token_urlsafe(32)
    row = ApiKey(id=new_id("key"), tenant=tenant, name=name, key_hash=hash_key(key), created_at=now_ms())
    session.add(row)
    session.flush()
    return NewKey(row, key)


def revoke_key(session: Session, caller: Caller, key_id: str) -> None:
    """Raises NotFound, also for keys that the caller may not see; Conflict for the key in use."""
    row = session.get(ApiKey, key_id)
    if row is None or not (row.tenant == caller.tenant or (caller.admin and row.tenant is None)):
        raise NotFound("key", key_id)
    if row.id == caller.key_id:
        raise Conflict(
            "A key cannot revoke itself.", code="key_in_use", remedy="Use another key to revoke this one."
        )
    session.execute(delete(ApiKey).where(ApiKey.id == key_id))
    signal(session, REVOKED)


def first_admin_key(session: Session) -> NewKey | None:
    """The admin key of the first start: None if any key exists."""
    exclusive(session, "first admin key")
    if session.scalar(select(ApiKey.id).limit(1)) is not None:
        return None
    ensure_tenant(session, DEFAULT_TENANT)
    return create_key(session, "admin", None)
