"""Keys and tenants as the API shows them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from app.infra.clock import Instant

from .models import ApiKey


class KeyRequest(BaseModel):
    """A new key."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100, description="What the key is for")
    scope: Literal["tenant", "admin"] = Field(
        default="tenant", description="tenant: only the tenant of this request; admin: every tenant"
    )


class KeyOut(BaseModel):
    """A key, without the key itself."""

    id: str
    name: str
    tenant: str | None = Field(description="null for an admin key")
    created_at: Instant

    @classmethod
    def of(cls, row: ApiKey) -> "KeyOut":
        return cls(id=row.id, name=row.name, tenant=row.tenant, created_at=row.created_at)


class NewKeyOut(KeyOut):
    """A new key, shown this once."""

    key: str


class TenantOut(BaseModel):
    name: str
    created_at: Instant
