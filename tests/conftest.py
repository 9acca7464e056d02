"""Fixtures for all tests."""

import os
from collections.abc import Iterator

import pytest

from tests.support.postgres import PostgresServer
from tests.support.storage import on_postgres

# A developer's own settings and proxies must not reach the tests.
for name in [n for n in os.environ if n.startswith("TRUNKLINE_") or n.lower().endswith("_proxy")]:
    del os.environ[name]


@pytest.fixture(autouse=True)
def _fresh_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server for the tests of one process, started when the first of them asks for it."""
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgres"])
def every_storage(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs the test once for each database that the platform can work on."""
    if request.param == "sqlite":
        yield
    else:
        with on_postgres(request.getfixturevalue("postgres")):
            yield


@pytest.fixture
def empty_postgres(postgres: PostgresServer) -> Iterator[str]:
    """The URL of an empty database."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture
def migrated_postgres(postgres: PostgresServer) -> Iterator[str]:
    """The URL of a database with the current schema and nothing in it."""
    url = postgres.create_database(template=postgres.migrated())
    yield url
    postgres.drop_database(url)
