"""Sealed secrets and the keys that they are sealed under."""

from sqlalchemy import BigInteger, Integer, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.db import Base


class MasterKeyCheck(Base):
    """A constant sealed under the master key: tells a wrong key before it does harm."""

    __tablename__ = "master_key_check"

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)


class TenantKey(Base):
    """A tenant's data key, sealed under the master key."""

    __tablename__ = "tenant_keys"

    tenant: Mapped[str] = mapped_column(String(63), primary_key=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[int] = mapped_column(BigInteger)


class Secret(Base):
    """One version of one secret of a connection, sealed under the tenant's data key.

    The newest version is given to the connector. An older one stays live for verification until
    `live_until` (None: it is the newest).
    """

    __tablename__ = "secrets"

    connection_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    tenant: Mapped[str] = mapped_column(String(63))
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[int] = mapped_column(BigInteger)
    live_until: Mapped[int | None] = mapped_column(BigInteger)
