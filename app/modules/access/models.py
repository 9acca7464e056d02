"""Tenants and API keys."""

from sqlalchemy import BigInteger, LargeBinary, String
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.db import Base


class Tenant(Base):
    """Whose data it is. The name is the id."""

    __tablename__ = "tenants"

    name: Mapped[str] = mapped_column(String(63), primary_key=True)
    created_at: Mapped[int] = mapped_column(BigInteger)


class ApiKey(Base):
    """A key, as its SHA-256: keys are random, so a plain hash cannot be searched backwards.

    `tenant` is None for an admin key, which may act for every tenant.
    """

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str | None] = mapped_column(String(63), index=True)
    name: Mapped[str] = mapped_column(String(100))
    key_hash: Mapped[bytes] = mapped_column(LargeBinary(32), unique=True)
    created_at: Mapped[int] = mapped_column(BigInteger)
