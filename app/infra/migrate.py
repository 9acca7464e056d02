"""Brings a database to the current schema, and refuses one that is newer than this code."""

from pathlib import Path

from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DatabaseError

from app.errors import StartupError

_SCRIPTS = Path(__file__).parent / "migrations"


def known_revisions() -> list[str]:
    """All schema versions, in order. A migration's file is named after it: `0001_what_it_does.py`."""
    return sorted(path.name.split("_")[0] for path in (_SCRIPTS / "versions").glob("[0-9]*_*.py"))


def upgrade(engine: Engine) -> list[str]:
    """Applies what is missing, each migration in a transaction; returns the revisions applied.

    Raises StartupError if the schema is newer than this code or the file is not a database.
    """
    known = known_revisions()
    try:
        with engine.connect() as connection:
            current = _current_revision(connection)
            connection.rollback()
            if current == known[-1]:
                return []
            if current is not None and current not in known:
                raise StartupError(
                    f"The database has schema {current}, which this version does not know: it is newer.",
                    remedy="Run the version that wrote it, or a newer one.",
                )
            _apply(connection)
    except DatabaseError as error:
        raise StartupError(
            f"The database cannot be opened ({error.orig}).",
            remedy="Check that the file is a Trunkline database and that the disk is not full.",
        ) from None
    return known if current is None else known[known.index(current) + 1 :]


def _current_revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def _apply(connection: Connection) -> None:
    # Imported when needed: it takes a tenth of the time in which a start should be ready.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    connection.commit()
