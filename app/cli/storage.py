"""`trunkline migrate` and `trunkline backup`: care of the data folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .commands import DataDir, local, single
from .exits import CommandFailed
from .output import Output

if TYPE_CHECKING:
    from app.config import Settings

migrate_app = single()
backup_app = single()


@local(migrate_app, "migrate", "trunkline migrate", "trunkline migrate --data-dir ./data --json")
def migrate(out: Output, data_dir: DataDir = None) -> None:
    """Bring the database up to date.

    `trunkline serve` does this itself for SQLite. With PostgreSQL (TRUNKLINE_DATABASE_URL) it is this command
    that does it: stop the nodes of the earlier version first.
    """
    from app.config import load_settings

    settings = load_settings(data_dir=data_dir)
    if settings.database_url is not None:
        _migrate_postgres(out, settings, settings.database_url.get_secret_value())
        return

    from app.infra.migrate import upgrade
    from app.infra.sqlite import lock_data_dir, writer_engine

    with lock_data_dir(settings.data_dir):
        engine = writer_engine(settings.database_path)
        try:
            applied = upgrade(engine)
        finally:
            engine.dispose()
    _applied(out, str(settings.database_path), applied)


def _migrate_postgres(out: Output, settings: "Settings", url: str) -> None:
    import asyncio

    from app.infra import log
    from app.infra.migrate import upgrade_postgres

    log.to_standard_error()
    applied = asyncio.run(upgrade_postgres(url, allow_superuser=settings.allow_superuser))
    _applied(out, settings.shown_database_url or "", applied)


def _applied(out: Output, database: str, applied: list[str]) -> None:
    if out.as_json:
        out.document({"database": database, "applied": applied})
    out.text(f"Applied: {', '.join(applied)}." if applied else "The database is up to date.")


@local(backup_app, "backup", "trunkline backup /backups/trunkline-monday.db")
def backup(
    out: Output,
    target: Annotated[Path, typer.Argument(help="File to write; it must not exist.")],
    data_dir: DataDir = None,
) -> None:
    """Copy the database to a file, also while the platform runs.

    Keep the master key as well (master.key in the data folder), but elsewhere: without it nobody can read
    the secrets in the copy.
    """
    from app.config import load_settings

    settings = load_settings(data_dir=data_dir)
    if settings.database_url is not None:
        raise CommandFailed(
            f"The database {settings.shown_database_url} is PostgreSQL's to copy.",
            'Use its own tool: pg_dump --format=custom --file=trunkline.dump "$TRUNKLINE_DATABASE_URL"',
        )

    if not target.absolute().parent.is_dir():
        raise CommandFailed(
            f"There is no folder {target.absolute().parent}.", "Make it, or name another file."
        )

    from app.infra.sqlite import backup as copy

    copy(settings.database_path, target)
    if out.as_json:
        out.document({"database": str(settings.database_path), "backup": str(target.absolute())})
    out.text(f"Copied {settings.database_path} to {target}. Keep the master key too, in another place.")
