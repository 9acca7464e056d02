"""Which database the platforms of a test work on, so that the same test runs on each.

A fixture chooses; `running_platform` and `PlatformProcess` ask here. A data folder keeps its database for as
long as the test lasts, so a platform that is started anew finds what it had stored.
"""

import base64
import contextlib
import os
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.infra.migrate import upgrade
from app.infra.sqlite import writer_engine

from .postgres import PostgresServer

MASTER_KEY = base64.b64encode(os.urandom(32)).decode()
NODE_TIMEOUT = 3.0


class PostgresStorage:
    """A database of its own for each data folder."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._urls: dict[Path, str] = {}

    def url(self, folder: Path) -> str:
        if folder not in self._urls:
            self._urls[folder] = self._server.create_database(template=self._server.migrated())
        return self._urls[folder]

    def drop(self) -> None:
        for url in self._urls.values():
            self._server.drop_database(url)


_chosen: PostgresStorage | None = None


def settings_for(folder: Path) -> dict[str, Any]:
    """The settings that make a platform over this folder use the chosen database."""
    if _chosen is None:
        return {}
    return {
        "database_url": _chosen.url(folder),
        "master_key": MASTER_KEY,
        "node_timeout": NODE_TIMEOUT,
    }


def set_up(database: Path) -> None:
    """Lets a new SQLite file begin with the current schema: applying migrations would be half of a start."""
    if _chosen is None and not database.exists():
        database.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        database.write_bytes(_migrated())


@cache
def _migrated() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "template.db"
        engine = writer_engine(path)
        upgrade(engine)
        engine.dispose()
        return path.read_bytes()


ON_SQLITE_ONLY = pytest.mark.parametrize("every_storage", ["sqlite"], indirect=True)
"""For what there is on SQLite alone, such as files in the data folder."""


def waiting_work(session: Session) -> int:
    """How many wake-ups are in the queue."""
    table = "work" if session.get_bind().dialect.name == "sqlite" else "pgqueuer"
    return session.scalar(text(f"SELECT count(*) FROM {table}")) or 0


@contextlib.contextmanager
def on_postgres(server: PostgresServer) -> Iterator[None]:
    """Platforms that are opened meanwhile are on PostgreSQL."""
    global _chosen  # noqa: PLW0603 - platforms are opened in places that no fixture reaches
    _chosen = PostgresStorage(server)
    try:
        yield
    finally:
        _chosen.drop()
        _chosen = None
