import os
import random
from pathlib import Path

import pytest

from tests.torture.bench import CONNECTORS


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Chance whose seed a failure report shows; DURABILITY_SEED sets it."""
    seed = int(os.environ.get("DURABILITY_SEED") or random.randrange(2**32))
    request.node.add_report_section("setup", "seed", f"DURABILITY_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def connectors() -> Path:
    """The connectors of these tests, for TRUNKLINE_CONNECTORS_PATH."""
    return CONNECTORS
