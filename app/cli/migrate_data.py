"""`trunkline migrate-data`: from SQLite to PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .commands import DataDir, local, single
from .exits import CommandFailed
from .output import Columns, Output, complain

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from app.config import Settings
    from app.infra.move.mark import Mark
    from app.infra.move.move import Report

app = single()

_COLUMNS: Columns = {
    "table": "table",
    "in SQLite": lambda row: str(row["source_rows"]),
    "in PostgreSQL": lambda row: str(row["target_rows"]),
    "different": lambda row: str(row["different"]),
}


@local(
    app,
    "migrate-data",
    "trunkline migrate-data",
    "trunkline migrate-data --data-dir ./data --json",
    "trunkline migrate-data --undo",
)
def migrate_data(
    out: Output,
    data_dir: DataDir = None,
    replace_nul: Annotated[
        bool,
        typer.Option("--replace-nul", help="Put U+FFFD for each U+0000, which PostgreSQL cannot store."),
    ] = False,
    undo: Annotated[
        bool,
        typer.Option("--undo", help="Move nothing; let a file that was moved be started again."),
    ] = False,
) -> None:
    """Move everything from the SQLite file in the data folder to PostgreSQL (TRUNKLINE_DATABASE_URL).

    The platform must be stopped and the database empty. All of it is moved or nothing, and every row is
    compared. The file stays where it is, with a mark by which it is not started again.
    """
    from app.config import load_settings
    from app.infra import log

    settings = load_settings(data_dir=data_dir)
    log.to_standard_error()
    if not settings.database_path.exists():
        raise CommandFailed(
            f"There is no database at {settings.database_path}.", "Name its folder with --data-dir."
        )
    if undo:
        _undo(out, settings)
        return
    if settings.database_url is None:
        raise CommandFailed(
            "It is not said where to.",
            "Set TRUNKLINE_DATABASE_URL to an empty PostgreSQL database, such as "
            "postgresql://trunkline:PASSWORD@host/trunkline",
        )
    _tell(out, settings, *_move(out, settings, settings.database_url.get_secret_value(), replace_nul))


def _move(out: Output, settings: "Settings", url: str, replace_nul: bool) -> "tuple[Report, str | None]":
    import asyncio

    import app.worker  # noqa: F401 - it imports every model
    from app.infra.db import Base
    from app.infra.move.move import Move
    from app.infra.sqlite import lock_data_dir

    with lock_data_dir(settings.data_dir):
        with _opened(settings) as (engine, mark):
            key = _key_place(settings, engine)
        move = Move(
            settings.database_path,
            url,
            settings.shown_database_url or "",
            mark,
            Base.metadata,
            allow_superuser=settings.allow_superuser,
            replace_nul=replace_nul,
            progress=out.text,
        )
        return asyncio.run(move.run()), key


@contextmanager
def _opened(settings: "Settings") -> "Iterator[tuple[Engine, Mark | None]]":
    """The file with the current schema, and its mark."""
    from app.infra.migrate import upgrade
    from app.infra.move.mark import mark_of
    from app.infra.sqlite import writer_engine

    engine = writer_engine(settings.database_path)
    try:
        upgrade(engine, moved=True)
        with engine.connect() as connection:
            mark = mark_of(connection)
        yield engine, mark
    finally:
        engine.dispose()


def _key_place(settings: "Settings", engine: "Engine") -> str | None:
    """Where the master key is that opens the file's secrets; None if nothing is sealed yet. Raises
    StartupError if it is not there: the nodes would not start without it."""
    from sqlalchemy.orm import Session

    from app.modules.secrets.service import TenantKeys, has_master_key
    from app.worker import load_master_key

    with Session(engine) as session:
        if not has_master_key(session):
            return None
        TenantKeys(load_master_key(settings, create=False)).check(session)
    return "TRUNKLINE_MASTER_KEY" if settings.master_key else str(settings.data_dir / "master.key")


def _tell(out: Output, settings: "Settings", report: "Report", key: str | None) -> None:
    rows: list[dict[str, Any]] = [
        {
            "table": table.table,
            "source_rows": table.source_rows,
            "target_rows": table.target_rows,
            "different": table.different,
        }
        for table in report.compared
    ]
    if report.left_out:
        complain(f"warning: left in the file, because they are not Trunkline's: {', '.join(report.left_out)}")
    if out.as_json:
        out.document(
            {
                "from": str(settings.database_path),
                "to": settings.shown_database_url,
                "moved": not report.different,
                "copied": report.copied and not report.different,
                "master_key": key,
                "left_out": report.left_out,
                "tables": rows,
            }
        )
    else:
        out.items(rows, _COLUMNS, empty="")
    if report.different:
        for table in report.compared:
            for name in table.named:
                complain(f"  {name}")
        raise CommandFailed(
            f"{report.different} rows were not in PostgreSQL as in the file. Nothing was moved.",
            "Does a trigger or a rule over there change them? Name another database, and run it again.",
        )
    done = "was there already, and is" if not report.copied else "is"
    out.text(
        f"Everything {done} in {settings.shown_database_url}, every row as it was.\n"
        f"The file {settings.database_path} is kept, marked as moved, and not started again by accident."
    )
    if key is not None:
        out.text(
            f"Keep the master key ({key}): every node needs the same, as TRUNKLINE_MASTER_KEY or as the file "
            "master.key in its data folder."
        )
    out.text("Now start the platform with TRUNKLINE_DATABASE_URL set.")


def _undo(out: Output, settings: "Settings") -> None:
    from app.infra.move import mark
    from app.infra.sqlite import lock_data_dir

    with lock_data_dir(settings.data_dir):
        removed = mark.remove(settings.database_path)
    if out.as_json:
        out.document({"database": str(settings.database_path), "target": removed and removed.target})
        return
    if removed is None:
        out.text("It was not marked as moved. Nothing has changed.")
        return
    out.text(
        f"{settings.database_path} can be started again, with what it held at the move.\n"
        f"See to it that nothing runs over {removed.target} any more, and empty it: what was queued would be "
        "sent from both. What was done there since is not in the file."
    )
