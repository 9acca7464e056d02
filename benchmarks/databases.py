"""Where the servers keep what they store: a file of their own, or a database of one PostgreSQL server."""

import base64
import os
import stat
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.support.postgres import PostgresServer, database_of


@dataclass(frozen=True)
class Place:
    """A folder and a database that nobody has used yet. Without `url` it is a file in the folder."""

    folder: Path
    url: str | None = None

    @property
    def data(self) -> Path:
        """The platform's data folder."""
        return self.folder / "data"

    def for_platform(self, process: int = 0) -> dict[str, str]:
        """Variables of the platform's process of this number."""
        if self.url is None:
            return {"TRUNKLINE_DATA_DIR": str(self.data)}
        return {
            "TRUNKLINE_DATA_DIR": str(self.data if not process else self.folder / f"data-{process}"),
            "TRUNKLINE_DATABASE_URL": self.url,
            "TRUNKLINE_MASTER_KEY": base64.b64encode(bytes(32)).decode(),
        }

    def for_comparison(self) -> dict[str, str]:
        """Variables of a server that the platform is compared with."""
        return {"BENCHMARK_DATABASE": self.url or str(self.folder / "benchmark.db")}


class Storage:
    """One kind of database."""

    name: str

    def place(self, folder: Path) -> Place:
        """A new one, for a server in `folder`."""
        raise NotImplementedError

    def size(self, place: Place) -> int:
        """Bytes on disk, with indexes."""
        raise NotImplementedError

    def logged(self) -> int | None:
        """Bytes that have ever been written to the write-ahead log; None where that is not counted."""
        return None

    def forget(self, place: Place) -> None:
        """It is not needed any more."""

    def close(self) -> None:
        """None of them is needed any more."""


class Sqlite(Storage):
    """A file in the server's folder."""

    name = "sqlite"

    def place(self, folder: Path) -> Place:
        return Place(folder)

    def size(self, place: Place) -> int:
        return (place.data / "trunkline.db").stat().st_size


class Postgres(Storage):
    """A server with fsync on, started when first needed, for the whole run. Its processes are not pinned."""

    name = "postgres"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _server(self) -> PostgresServer:
        within = self._folder if _anybody_may_enter(self._folder) else Path("/var/tmp")
        return PostgresServer(within=within, shared_buffers="256MB")

    def place(self, folder: Path) -> Place:
        return Place(folder, self._server.create_database(template=self._server.migrated()))

    def size(self, place: Place) -> int:
        assert place.url is not None
        name = database_of(place.url)
        return int(self._server.psql(f"SELECT pg_database_size('{name}')"))

    def logged(self) -> int | None:
        return int(self._server.psql("SELECT pg_current_wal_lsn() - '0/0'"))

    def forget(self, place: Place) -> None:
        assert place.url is not None
        self._server.drop_database(place.url)

    def close(self) -> None:
        if "_server" in vars(self):
            self._server.close()


def _anybody_may_enter(folder: Path) -> bool:
    """As root, PostgreSQL is run as another user, who has to reach its folder."""
    if os.geteuid() != 0:
        return True
    return all(part.stat().st_mode & stat.S_IXOTH for part in (folder, *folder.resolve().parents))
