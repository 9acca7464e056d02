"""`trunkline config`: what is set, and where it comes from."""

import os
from typing import TYPE_CHECKING, Any

from .commands import local, single
from .flags import SECRET, Flags, settings_flags, warn_about_variables
from .output import Output

if TYPE_CHECKING:
    from app.config import Settings

app = single()


@local(app, "config", "trunkline config", "trunkline config --port 9000 --json")
@settings_flags(skip="out")
def config(out: Output, flags: Flags) -> None:
    """Show what `trunkline serve` would use, with the same flags: each setting, its value and its source."""
    from app.config import ENV_PREFIX, Settings, load_settings, source_of

    warn_about_variables()
    settings = load_settings(**flags)
    rows = []
    for name, setting in Settings.model_fields.items():
        rows.append(
            {
                "setting": name,
                "value": _value(settings, name),
                "source": source_of(settings, name, flags, dict(os.environ)),
                "variable": ENV_PREFIX + name.upper(),
                "description": setting.description,
            }
        )
    out.items(rows, {"setting": "setting", "value": "value", "source": "source"}, empty="")


def _value(settings: "Settings", name: str) -> Any:
    value = getattr(settings, name)
    if name == "database_url":
        return settings.shown_database_url
    if name in SECRET:
        return "set" if value else "not set"
    return value if value is None or isinstance(value, int | float) else str(value)
