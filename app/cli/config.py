"""`trunkline config`: what is set, and where it comes from."""

import os
from typing import Any

from .commands import local, single
from .flags import SECRET, Flags, settings_flags, warn_about_variables
from .output import Output

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
        value = getattr(settings, name)
        rows.append(
            {
                "setting": name,
                "value": ("set" if value else "not set") if name in SECRET else _shown(value),
                "source": source_of(settings, name, flags, dict(os.environ)),
                "variable": ENV_PREFIX + name.upper(),
                "description": setting.description,
            }
        )
    out.items(rows, {"setting": "setting", "value": "value", "source": "source"}, empty="")


def _shown(value: Any) -> Any:
    return value if value is None or isinstance(value, int | float) else str(value)
