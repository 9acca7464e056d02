"""Where somebody's own connectors are."""

import os
from pathlib import Path

VARIABLE = "TRUNKLINE_CONNECTORS_PATH"
USUAL = Path("connectors")
"""Where `trunkline new` puts them if nothing else is said, and where `check` and `twin` look then."""


def own_connectors(given: Path | None = None) -> Path | None:
    """The folder that is configured, or else `connectors` in this one if connectors are in there."""
    if configured := given or os.environ.get(VARIABLE):
        return Path(configured).expanduser()
    return USUAL if any(USUAL.glob("*/connector.py")) else None
