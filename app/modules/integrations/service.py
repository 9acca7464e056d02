"""The catalogue in the database, and connections."""

import hashlib
import secrets as random_secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from app.errors import Conflict, Invalid, NotFound, Problem
from app.infra.clock import now_ms
from app.infra.db import exclusive, signal
from app.infra.ids import new_id
from app.infra.queue import WorkQueue
from app.integrations.registry import Integration, Registry
from app.modules.secrets.service import Owner, SecretStore, TenantKeys

from .models import CatalogueEntry, Connection, ConnectionUrl

CHANGED = "connections"
"""Topic: a connection was made, changed or removed."""

REGISTER = "connection.register"
REMOVE = "connection.remove"
"""Kinds of work."""


@dataclass(frozen=True)
class Connections:
    """What connections are made of: everything that their units of work need beside the session."""

    registry: Registry
    secrets: SecretStore
    keys: TenantKeys
    queue: WorkQueue

    def integration(self, key: str) -> Integration | None:
        return self.registry.integrations.get(key)

    def create(
        self,
        session: Session,
        tenant: str,
        *,
        integration: str,
        name: str,
        secrets: Mapping[str, str],
        settings: Mapping[str, Any],
        enabled: bool = True,
    ) -> Connection:
        """Makes a connection with its webhook URL and secrets. Raises Invalid naming the fields."""
        known = self.integration(integration)
        if known is None:
            raise Invalid(
                "There is no such integration.",
                code="unknown_integration",
                remedy="GET /api/v1/integrations lists them; a broken connector is listed there too.",
                problems=[Problem("integration", "unknown_integration", "not the key of an integration")],
            )
        now = now_ms()
        row = Connection(
            id=new_id("con"),
            tenant=tenant,
            integration=integration,
            name=name or integration,
            enabled=enabled,
            settings=_stored_settings(known, settings),
            config_version=1,
            created_at=now,
            updated_at=now,
            registration="none",
        )
        session.add(row)
        session.flush()
        owner = owner_of(row)
        given = dict(secrets)
        _check_secret_names(known, given)
        if self.secrets.writable:
            for spec in known.connector.secrets:
                if spec.generate and not given.get(spec.name):
                    given[spec.name] = random_secrets.token_urlsafe(32)
        self.secrets.put(session, owner, given)
        self._mint_url(session, row)
        self._tell_provider(session, row)
        signal(session, CHANGED)
        return row

    def change(
        self,
        session: Session,
        row: Connection,
        *,
        name: str | None = None,
        settings: Mapping[str, Any] | None = None,
        enabled: bool | None = None,
    ) -> None:
        """Changes what is not None. Raises Invalid, or Conflict if the connector to check with is gone."""
        if settings is not None:
            known = self.integration(row.integration)
            if known is None:
                raise _unavailable(row)
            row.settings = _stored_settings(known, settings)
            row.config_version += 1
        if name is not None:
            row.name = name
            row.config_version += 1  # the environment's secrets go by name
        if enabled is not None:
            row.enabled = enabled
        row.updated_at = now_ms()
        self._tell_provider(session, row)
        signal(session, CHANGED)

    def set_secrets(
        self, session: Session, row: Connection, values: Mapping[str, str], keep_previous_for: int = 0
    ) -> None:
        """Sets secrets. Raises Invalid for names that are not declared."""
        known = self.integration(row.integration)
        if known is None:
            raise _unavailable(row)
        _check_secret_names(known, values)
        self.secrets.put(session, owner_of(row), values, keep_previous_for * 1000)
        row.config_version += 1
        row.updated_at = now_ms()
        self._tell_provider(session, row)
        signal(session, CHANGED)

    def rotate_url(self, session: Session, row: Connection, keep_previous_for: int) -> None:
        """Gives the connection a new webhook URL; the old ones end after `keep_previous_for` seconds."""
        now = now_ms()
        until = now + keep_previous_for * 1000
        for url in session.scalars(select(ConnectionUrl).where(ConnectionUrl.connection_id == row.id)):
            if url.live_until is None or url.live_until > until:
                url.live_until = until
            elif url.live_until <= now:
                session.delete(url)
        self._mint_url(session, row)
        row.updated_at = now
        self._tell_provider(session, row)
        signal(session, CHANGED)

    def remove(self, session: Session, row: Connection) -> None:
        """Takes the connection away; telling the provider and forgetting the secrets follow as work."""
        row.deleted_at = row.updated_at = now_ms()
        row.enabled = False
        self.queue.put(session, REMOVE, row.id)
        signal(session, CHANGED)

    def forget(self, session: Session, row: Connection) -> None:
        """Removes what a deleted connection must not leave behind. The row stays, for what refers to it."""
        self.secrets.forget(session, owner_of(row))
        for url in session.scalars(select(ConnectionUrl).where(ConnectionUrl.connection_id == row.id)):
            session.delete(url)

    def token(self, session: Session, row: Connection) -> str | None:
        """The token of the connection's current webhook URL; None once it is deleted."""
        url = session.scalars(
            select(ConnectionUrl)
            .where(ConnectionUrl.connection_id == row.id, ConnectionUrl.live_until.is_(None))
            .order_by(ConnectionUrl.created_at.desc())
        ).first()
        if url is None:
            return None
        return self.keys.unseal(session, row.tenant, url.sealed, ("url", row.id))

    def former_tokens(self, session: Session, row: Connection) -> list[str]:
        """The tokens of earlier webhook URLs, as far as they are known: providers may still use them."""
        urls = session.scalars(
            select(ConnectionUrl).where(
                ConnectionUrl.connection_id == row.id, ConnectionUrl.live_until.is_not(None)
            )
        )
        return [self.keys.unseal(session, row.tenant, url.sealed, ("url", row.id)) for url in urls]

    def missing_secrets(self, session: Session, row: Connection) -> list[str]:
        """Required secrets without a value."""
        known = self.integration(row.integration)
        if known is None:
            return []
        required = [spec.name for spec in known.connector.secrets if spec.required]
        present = {info.name for info in self.secrets.infos(session, owner_of(row), required)}
        return [name for name in required if name not in present]

    def register_all(self, session: Session) -> None:
        """Has every provider told its URL anew if that has changed: at start, the public address may have."""
        for row in session.scalars(
            select(Connection).where(Connection.enabled, Connection.deleted_at.is_(None))
        ):
            self._tell_provider(session, row)

    def _mint_url(self, session: Session, row: Connection) -> None:
        token = random_secrets.token_urlsafe(32)
        session.add(
            ConnectionUrl(
                token_hash=hash_token(token),
                connection_id=row.id,
                sealed=self.keys.seal(session, row.tenant, token, ("url", row.id)),
                created_at=now_ms(),
                live_until=None,
            )
        )
        session.flush()

    def _tell_provider(self, session: Session, row: Connection) -> None:
        known = self.integration(row.integration)
        if known and known.registers_webhooks:
            self.queue.put(session, REGISTER, row.id)


def hash_token(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def owner_of(row: Connection) -> Owner:
    return Owner(row.tenant, row.id, row.name)


def get_connection(
    session: Session, tenant: str, connection_id: str, *, to_change: bool = False
) -> Connection:
    """Raises NotFound, for another tenant's too. `to_change` keeps other nodes from changing it, its secrets
    and its URLs until the commit."""
    row = session.get(Connection, connection_id, with_for_update=to_change or None)
    if row is None or row.tenant != tenant or row.deleted_at is not None:
        raise NotFound("connection", connection_id)
    return row


def sync_catalogue(session: Session, registry: Registry) -> None:
    """Notes in the database which integrations there are: new, changed in version, gone."""
    exclusive(session, "catalogue")
    now = now_ms()
    entries = {entry.key: entry for entry in session.scalars(select(CatalogueEntry))}
    for key, integration in registry.integrations.items():
        connector = integration.connector
        name, version = connector.name[:200], connector.version[:50]
        entry = entries.pop(key, None)
        if entry is None:
            entry = CatalogueEntry(key=key, first_seen_at=now, changed_at=now)
            session.add(entry)
        elif (entry.name, entry.version, entry.available) != (name, version, True):
            entry.changed_at = now
        entry.name, entry.version, entry.available = name, version, True
    for gone in entries.values():
        if gone.available:
            gone.available, gone.changed_at = False, now


def connections_without_connector(session: Session, registry: Registry) -> dict[str, int]:
    """Integrations that connections are of, but whose connector is not there, with how many."""
    rows = session.execute(
        select(Connection.integration, func.count())
        .where(Connection.deleted_at.is_(None), Connection.integration.not_in(list(registry.integrations)))
        .group_by(Connection.integration)
    )
    return {str(key): int(count) for key, count in rows}


def _stored_settings(integration: Integration, settings: Mapping[str, Any]) -> str:
    """The settings as they are stored, in JSON. Raises Invalid."""
    model = integration.connector.settings_model
    if model is None:
        if settings:
            raise Invalid(
                f"{integration.connector.name} has no settings.",
                code="invalid_settings",
                remedy="Leave settings out.",
                problems=[Problem("settings", "unexpected", "this integration has no settings")],
            )
        return "{}"
    try:
        # A misspelt setting would otherwise silently be the default.
        extra = model.model_config.get("extra")
        valid = model.model_validate(settings, extra="allow" if extra == "allow" else "forbid")
    except ValidationError as error:
        problems = [
            Problem(".".join(("settings", *map(str, e["loc"]))), e["type"], e["msg"])
            for e in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        known = ", ".join(field.alias or name for name, field in model.model_fields.items()) or "none"
        raise Invalid(
            "The settings are not valid.",
            code="invalid_settings",
            remedy=f"Correct the fields named in problems. {integration.connector.name} has: {known}.",
            problems=problems,
        ) from None
    try:
        stored = orjson.dumps(valid.model_dump(mode="json", by_alias=True, exclude_unset=True))
        read = model.model_validate(orjson.loads(stored))
        unchanged = read.model_dump(exclude_unset=True) == valid.model_dump(exclude_unset=True)
    except (TypeError, ValueError):
        unchanged = False
    if not unchanged:
        raise Invalid(
            "The settings hold something that cannot be stored unchanged.",
            code="invalid_settings",
            remedy="Leave out NaN, infinities and integers beyond 64 bits; secrets have their own place.",
            problems=[Problem("settings", "not_json", "not interoperable JSON")],
        )
    return stored.decode()


def _check_secret_names(integration: Integration, values: Mapping[str, str]) -> None:
    known = integration.secret_specs
    if unknown := sorted(set(values) - set(known)):
        raise Invalid(
            "The secrets name some that this integration does not have.",
            code="unknown_secret",
            remedy=f"{integration.connector.name} takes: {', '.join(known) or 'none'}.",
            problems=[Problem(f"secrets.{name[:100]}", "unexpected", "not declared") for name in unknown],
        )
    if empty := sorted(name for name, value in values.items() if not value):
        raise Invalid(
            "A secret cannot be empty.",
            code="empty_secret",
            remedy="Leave it out, or give its value.",
            problems=[Problem(f"secrets.{name}", "empty", "has no value") for name in empty],
        )


def _unavailable(row: Connection) -> Conflict:
    return Conflict(
        f"The connector '{row.integration}' is not available, so this cannot be checked.",
        code="integration_unavailable",
        remedy="GET /api/v1/integrations says why; mend it and restart.",
    )
