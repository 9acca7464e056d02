"""`trunkline keys` and `trunkline tenants`: who may use the platform."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .client import ADMIN_KEY_FILE, path_of
from .commands import Call, DataDir, group, local, remote
from .exits import CommandFailed
from .output import Columns, Output

if TYPE_CHECKING:
    from app.modules.access.service import NewKey

app = group("Make and revoke API keys.")
tenants = group("See the tenants.")

_SCOPE: Columns = {"tenant": lambda key: key["tenant"] or "every tenant (admin)"}
_COLUMNS: Columns = {"id": "id", "name": "name", **_SCOPE, "created": "created_at"}


@remote(app, "list", "trunkline keys list")
def list_keys(call: Call) -> None:
    """List the tenant's keys; with an admin key, the admin keys too. The keys themselves are not shown."""
    call.out.items(call.api.get("/keys")["items"], _COLUMNS, empty="There are none.")


@remote(
    app,
    "create",
    "trunkline keys create ci --tenant acme",
    "trunkline keys create ops --admin",
    "export TRUNKLINE_API_KEY=$(trunkline keys create ci --json | jq -r .key)",
)
def create_key(
    call: Call,
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    admin: Annotated[bool, typer.Option("--admin", help="A key for every tenant.")] = False,
) -> None:
    """Make a key. It is shown this once."""
    made = call.api.post("/keys", {"name": name, "scope": "admin" if admin else "tenant"})
    call.out.record(made, _SCOPE)


@remote(app, "revoke", "trunkline keys revoke key_01J…")
def revoke_key(call: Call, key: Annotated[str, typer.Argument(help="Id of the key.")]) -> None:
    """Revoke a key: it is refused from the next request on."""
    call.api.delete(path_of("keys", key))
    if call.out.as_json:
        call.out.document({"id": key, "revoked": True})
    call.out.text(f"Revoked {key}.")


@local(app, "recover", "trunkline keys recover --data-dir ./data")
def recover_key(out: Output, data_dir: DataDir = None) -> None:
    """Make a new admin key in the data folder, for when all are lost.

    On SQLite the platform must not be running. With PostgreSQL (TRUNKLINE_DATABASE_URL) it may be.
    """
    from app.config import load_settings

    settings = load_settings(data_dir=data_dir)
    if settings.database_url is not None:
        from app.infra import log

        log.to_standard_error()
        made = _recover_on_postgres(settings.database_url.get_secret_value(), settings.allow_superuser)
        _hand_out(out, made, settings.data_dir)
        return
    if not settings.database_path.exists():
        raise CommandFailed(
            f"There is no database at {settings.database_path}.", "Name its folder with --data-dir."
        )

    from sqlalchemy.orm import Session

    from app.infra.migrate import upgrade
    from app.infra.sqlite import lock_data_dir, writer_engine
    from app.modules.access.service import create_key as create_in

    with lock_data_dir(settings.data_dir):
        engine = writer_engine(settings.database_path)
        try:
            upgrade(engine)
            with Session(engine, expire_on_commit=False) as session, session.begin():
                made = create_in(session, "recovered admin", None)
        finally:
            engine.dispose()
        _hand_out(out, made, settings.data_dir)


def _recover_on_postgres(url: str, allow_superuser: bool) -> "NewKey":
    import asyncio

    from app.infra.migrate import prepare_postgres
    from app.infra.postgres import PostgresDatabase
    from app.modules.access.service import create_key as create_in

    async def recover() -> "NewKey":
        await prepare_postgres(url, allow_superuser=allow_superuser)
        database = await PostgresDatabase.open(url)
        try:
            return await database.write(lambda session: create_in(session, "recovered admin", None))
        finally:
            await database.close()

    return asyncio.run(recover())


def _hand_out(out: Output, made: "NewKey", folder: Path) -> None:
    from app.infra.crypto import write_private
    from app.infra.sqlite import make_data_dir

    make_data_dir(folder)
    file = folder / ADMIN_KEY_FILE
    write_private(file, made.key + "\n")
    out.record({"id": made.row.id, "name": made.row.name, "key": made.key, "file": str(file)})


@remote(tenants, "list", "trunkline tenants list")
def list_tenants(call: Call) -> None:
    """List tenants; needs an admin key. A tenant is made when --tenant first names it."""
    columns = {"name": "name", "created": "created_at"}
    call.out.items(call.api.get("/tenants")["items"], columns, empty="There are none.")
