"""Fixtures for all tests."""

import os

import pytest

# A developer's own settings and proxies must not reach the tests.
for name in [n for n in os.environ if n.startswith("TRUNKLINE_") or n.lower().endswith("_proxy")]:
    del os.environ[name]


@pytest.fixture(autouse=True)
def _fresh_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
