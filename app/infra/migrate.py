"""Brings a database to the current schema, and refuses one that is newer than this code."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine
from sqlalchemy.exc import DatabaseError

from app.errors import StartupError

_SCRIPTS = Path(__file__).parent / "migrations"


def upgrade(engine: Engine) -> list[str]:
    """Applies what is missing, each migration in a transaction; returns the revisions applied.

    Raises StartupError if the schema is newer than this code or the file is not a database.
    """
    config = Config()
    config.set_main_option("script_location", str(_SCRIPTS))
    scripts = ScriptDirectory.from_config(config)
    known = [revision.revision for revision in reversed(list(scripts.walk_revisions()))]
    try:
        with engine.connect() as connection:
            current = MigrationContext.configure(connection).get_current_revision()
            if current == known[-1]:
                return []
            if current is not None and current not in known:
                raise StartupError(
                    f"The database has schema {current}, which this version does not know: it is newer.",
                    remedy="Run the version that wrote it, or a newer one.",
                )
            connection.rollback()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    except DatabaseError as error:
        raise StartupError(
            f"The database cannot be opened ({error.orig}).",
            remedy="Check that the file is a Trunkline database and that the disk is not full.",
        ) from None
    return known if current is None else known[known.index(current) + 1 :]
