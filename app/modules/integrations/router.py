"""The catalogue and connections."""

import asyncio

import orjson
from fastapi import APIRouter
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.errors import NotFound
from app.infra.place import kind_and_place
from app.integrations.base import call
from app.integrations.errors import ProviderError
from app.modules.access.deps import CallerDep, DatabaseDep
from app.modules.paging import Cursor, Limit, Page

from .catalogue import describe, describe_absent
from .deps import BaseUrlDep, ConnectionsDep, InstancesDep, RefusalsDep
from .instances import ConnectionUnusable
from .models import CatalogueEntry, Connection
from .schemas import (
    BrokenOut,
    CatalogueOut,
    CheckOut,
    ConnectionChange,
    ConnectionOut,
    ConnectionRequest,
    IntegrationOut,
    RefusalOut,
    RegistrationOut,
    RotateRequest,
    SecretInfoOut,
    SecretsRequest,
)
from .service import Connections, get_connection, owner_of

router = APIRouter(prefix="/api/v1", tags=["integrations"])

CHECK_SECONDS = 20.0


@router.get("/integrations", summary="List integrations")
async def list_integrations(database: DatabaseDep, connections: ConnectionsDep, _: CallerDep) -> CatalogueOut:
    """What the connectors declare; those that are gone, as unavailable; those that are broken, with why."""
    registry = connections.registry
    absent = await database.read(
        lambda session: list(
            session.scalars(select(CatalogueEntry).where(CatalogueEntry.available.is_(False)))
        )
    )
    items = [describe(known) for known in registry.integrations.values()]
    items += [describe_absent(entry) for entry in absent]
    return CatalogueOut(
        items=sorted(items, key=lambda item: item.key),
        broken=[BrokenOut(source=b.source, reason=b.reason, remedy=b.remedy) for b in registry.broken],
    )


@router.get("/integrations/{key}", summary="Show an integration")
async def show_integration(
    key: str, database: DatabaseDep, connections: ConnectionsDep, _: CallerDep
) -> IntegrationOut:
    known = connections.integration(key)
    if known is not None:
        return describe(known)
    entry = await database.read(lambda session: session.get(CatalogueEntry, key))
    if entry is None:
        raise NotFound("integration", key)
    return describe_absent(entry)


@router.post("/connections", status_code=201, summary="Make a connection")
async def make_connection(
    body: ConnectionRequest,
    database: DatabaseDep,
    connections: ConnectionsDep,
    caller: CallerDep,
    base_url: BaseUrlDep,
) -> ConnectionOut:
    """Makes a connection with its own webhook URL. Secrets that the platform can make are made."""

    def unit(session: Session) -> ConnectionOut:
        row = connections.create(
            session,
            caller.tenant,
            integration=body.integration,
            name=body.name,
            secrets=body.secrets,
            settings=body.settings,
            enabled=body.enabled,
        )
        return _shown(session, connections, row, base_url)

    return await database.write(unit)


@router.get("/connections", summary="List connections")
async def list_connections(
    database: DatabaseDep,
    connections: ConnectionsDep,
    caller: CallerDep,
    base_url: BaseUrlDep,
    after: Cursor = None,
    limit: Limit = 100,
) -> Page[ConnectionOut]:
    """Connections, the oldest first."""

    def unit(session: Session) -> Page[ConnectionOut]:
        query = select(Connection).where(
            Connection.tenant == caller.tenant, Connection.deleted_at.is_(None), Connection.id > (after or "")
        )
        rows = list(session.scalars(query.order_by(Connection.id).limit(limit + 1)))
        return Page(
            items=[_shown(session, connections, row, base_url) for row in rows[:limit]],
            next=rows[limit - 1].id if len(rows) > limit else None,
        )

    return await database.read(unit)


@router.get("/connections/{connection_id}", summary="Show a connection")
async def show_connection(
    connection_id: str,
    database: DatabaseDep,
    connections: ConnectionsDep,
    caller: CallerDep,
    base_url: BaseUrlDep,
) -> ConnectionOut:
    def unit(session: Session) -> ConnectionOut:
        row = get_connection(session, caller.tenant, connection_id)
        return _shown(session, connections, row, base_url)

    return await database.read(unit)


@router.patch("/connections/{connection_id}", summary="Change a connection")
async def change_connection(
    connection_id: str,
    body: ConnectionChange,
    database: DatabaseDep,
    connections: ConnectionsDep,
    caller: CallerDep,
    base_url: BaseUrlDep,
) -> ConnectionOut:
    """Changes what is given. A disabled connection answers its webhook URL with 404."""

    def unit(session: Session) -> ConnectionOut:
        row = get_connection(session, caller.tenant, connection_id, to_change=True)
        connections.change(session, row, name=body.name, settings=body.settings, enabled=body.enabled)
        return _shown(session, connections, row, base_url)

    return await database.write(unit)


@router.delete("/connections/{connection_id}", status_code=204, summary="Remove a connection")
async def remove_connection(
    connection_id: str, database: DatabaseDep, connections: ConnectionsDep, caller: CallerDep
) -> None:
    """Its webhook URL ends at once, the provider is told, its secrets are forgotten; its events stay."""

    def unit(session: Session) -> None:
        connections.remove(session, get_connection(session, caller.tenant, connection_id, to_change=True))

    await database.write(unit)


@router.post("/connections/{connection_id}/check", summary="Check the credentials")
async def check_connection(
    connection_id: str, database: DatabaseDep, instances: InstancesDep, caller: CallerDep
) -> CheckOut:
    """Asks the provider whether the credentials are good."""
    await database.read(lambda session: get_connection(session, caller.tenant, connection_id))
    try:
        async with instances.lease(connection_id) as lease, asyncio.timeout(CHECK_SECONDS):
            if not lease.integration.checks:
                return CheckOut(
                    ok=None,
                    code="not_checked",
                    message=f"Nothing was asked: the connector '{lease.integration.key}' has no check().",
                )
            await call(lease.instance.check)
    except ConnectionUnusable as error:
        return CheckOut(ok=False, code=error.code, message=f"{error.message} {error.remedy}")
    except ProviderError as error:
        return CheckOut(ok=False, code=error.code, message=str(error))
    except TimeoutError:
        return CheckOut(
            ok=False, code="provider_unavailable", message=f"No answer within {CHECK_SECONDS:g} s."
        )
    except Exception as error:  # noqa: BLE001 - a connector's fault is an answer here
        return CheckOut(
            ok=False, code="connector_error", message=f"The connector failed with {kind_and_place(error)}."
        )
    return CheckOut(ok=True, code=None, message="The provider accepts the credentials.")


@router.post("/connections/{connection_id}/rotate-url", summary="Rotate the webhook URL")
async def rotate_url(
    connection_id: str,
    database: DatabaseDep,
    connections: ConnectionsDep,
    caller: CallerDep,
    base_url: BaseUrlDep,
    body: RotateRequest | None = None,
) -> ConnectionOut:
    """A new URL at once, told to the provider; the old one ends after `keep_previous_for` seconds."""
    keep = (body or RotateRequest()).keep_previous_for

    def unit(session: Session) -> ConnectionOut:
        row = get_connection(session, caller.tenant, connection_id, to_change=True)
        connections.rotate_url(session, row, keep)
        return _shown(session, connections, row, base_url)

    return await database.write(unit)


@router.get("/connections/{connection_id}/refusals", summary="See what was turned away")
async def list_refusals(
    connection_id: str, database: DatabaseDep, refusals: RefusalsDep, caller: CallerDep
) -> Page[RefusalOut]:
    """The last requests to the webhook URL that were refused, the newest first; kept in memory only."""
    await database.read(lambda session: get_connection(session, caller.tenant, connection_id))
    return Page(
        items=[
            RefusalOut(at=r.at, code=r.code, message=r.message, headers=list(r.headers), length=r.length)
            for r in refusals.of(connection_id)
        ],
        next=None,
    )


@router.get("/connections/{connection_id}/secrets", summary="List secrets, without values")
async def list_secrets(
    connection_id: str, database: DatabaseDep, connections: ConnectionsDep, caller: CallerDep
) -> Page[SecretInfoOut]:
    """Which secrets have a value. Values are never shown."""

    def unit(session: Session) -> list[SecretInfoOut]:
        row = get_connection(session, caller.tenant, connection_id)
        known = connections.integration(row.integration)
        names = list(known.secret_specs) if known else []
        return [
            SecretInfoOut(name=info.name, version=info.version, set_at=info.set_at)
            for info in connections.secrets.infos(session, owner_of(row), names)
        ]

    return Page(items=await database.read(unit), next=None)


@router.put("/connections/{connection_id}/secrets", summary="Set secrets")
async def set_secrets(
    connection_id: str,
    body: SecretsRequest,
    database: DatabaseDep,
    connections: ConnectionsDep,
    caller: CallerDep,
    base_url: BaseUrlDep,
) -> ConnectionOut:
    """Sets the values named and leaves the others. They are used from the next webhook and action on."""

    def unit(session: Session) -> ConnectionOut:
        row = get_connection(session, caller.tenant, connection_id, to_change=True)
        connections.set_secrets(session, row, body.secrets, body.keep_previous_for)
        return _shown(session, connections, row, base_url)

    return await database.write(unit)


def _shown(session: Session, connections: Connections, row: Connection, base_url: str) -> ConnectionOut:
    known = connections.integration(row.integration)
    missing = connections.missing_secrets(session, row)
    token = connections.token(session, row) if known is None or known.takes_webhooks else None
    if known is None:
        state = "unavailable"
    elif not row.enabled:
        state = "disabled"
    else:
        state = "incomplete" if missing else "ready"
    return ConnectionOut(
        id=row.id,
        tenant=row.tenant,
        integration=row.integration,
        name=row.name,
        enabled=row.enabled,
        state=state,
        missing_secrets=missing,
        settings=orjson.loads(row.settings),
        webhook_url=f"{base_url}/webhooks/{row.integration}/{token}" if token else None,
        registration=RegistrationOut(state=row.registration, error=row.registration_error),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
