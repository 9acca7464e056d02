"""The modules' tests run on each database."""

import pytest


@pytest.fixture(autouse=True)
def _on_every_storage(every_storage: None) -> None:
    """See `every_storage`."""
