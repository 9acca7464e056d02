"""The catalogue as last seen, and the tenants' connections."""

from sqlalchemy import BigInteger, Boolean, Index, Integer, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.infra.db import Base


class CatalogueEntry(Base):
    """An integration that the registry has or had. `available` is False once its connector is gone or
    broken; its connections are kept."""

    __tablename__ = "integrations"

    key: Mapped[str] = mapped_column(String(63), primary_key=True)
    name: Mapped[str] = mapped_column(String(200))
    version: Mapped[str] = mapped_column(String(50))
    available: Mapped[bool] = mapped_column(Boolean)
    first_seen_at: Mapped[int] = mapped_column(BigInteger)
    changed_at: Mapped[int] = mapped_column(BigInteger)


class Connection(Base):
    """One tenant's configured instance of an integration.

    `config_version` grows with every change of settings or secrets: instances are cached by it.
    `registered_address` is a digest of what the provider was last told (URL and secrets); while it differs
    from the present one, the provider has to be told again.
    """

    __tablename__ = "connections"
    __table_args__ = (Index(None, "tenant", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(63))
    integration: Mapped[str] = mapped_column(String(63), index=True)
    name: Mapped[str] = mapped_column(String(200))
    enabled: Mapped[bool] = mapped_column(Boolean)
    settings: Mapped[str] = mapped_column(Text)
    config_version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[int] = mapped_column(BigInteger)
    updated_at: Mapped[int] = mapped_column(BigInteger)
    deleted_at: Mapped[int | None] = mapped_column(BigInteger)
    registration: Mapped[str] = mapped_column(String(20))
    registration_error: Mapped[str | None] = mapped_column(Text)
    registered_address: Mapped[str | None] = mapped_column(String(64))


class ConnectionUrl(Base):
    """A capability URL's token: its SHA-256 to find the connection, a sealed copy to show it again.

    After a rotation the old one is live until `live_until`.
    """

    __tablename__ = "connection_urls"

    token_hash: Mapped[bytes] = mapped_column(LargeBinary(32), primary_key=True)
    connection_id: Mapped[str] = mapped_column(String(40), index=True)
    sealed: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[int] = mapped_column(BigInteger)
    live_until: Mapped[int | None] = mapped_column(BigInteger)
