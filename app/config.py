"""Settings: `TRUNKLINE_*` environment variables, overridden by flags of the same names."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .errors import StartupError

ENV_PREFIX = "TRUNKLINE_"


class Settings(BaseSettings):
    """Everything that can be configured, with its default. `trunkline config` shows it with its source."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="ignore", frozen=True
    )

    data_dir: Path = Field(
        default=Path("~/.trunkline"),
        description="Folder of the database, the master key and the admin key",
        validate_default=True,
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="PostgreSQL for any number of nodes, such as "
        "postgresql://trunkline:PASSWORD@host/trunkline; without it, an SQLite file in the data folder "
        "and one process",
    )
    allow_superuser: bool = Field(
        default=False, description="Start although the database's role is a superuser of PostgreSQL"
    )
    role: Literal["all", "api"] = Field(
        default="all",
        description="What `trunkline serve` does: everything, or requests only, and the work is done by "
        "`trunkline worker` (needs a database_url)",
    )
    node_timeout: Annotated[float, Field(gt=0)] = Field(
        default=10.0,
        description="Seconds without a heartbeat after which a node counts as dead and others take over",
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=8080, description="Port to listen on; 0 takes a free one"
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port of its own for /metrics, /healthz and /readyz, 0 for a free one; without it "
        "`trunkline serve` has them on its port, and `trunkline worker` listens to nothing",
    )
    public_url: str | None = Field(
        default=None,
        description="Where providers reach this platform, such as https://hooks.example.com; "
        "without it, connectors that can poll do",
    )
    connectors_path: Path | None = Field(default=None, description="Folder with connectors of your own")
    master_key: SecretStr | None = Field(
        default=None,
        description="32 bytes in base64 that all secrets are encrypted under; "
        "without it, the file master.key in the data folder, made at the first start",
    )
    secret_store: Literal["database", "environment"] = Field(
        default="database",
        description="Where connections' secrets live: encrypted in the database, or read-only in variables "
        "TRUNKLINE_SECRET__<TENANT>__<CONNECTION>__<NAME>",
    )
    max_body_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=8 * 1024 * 1024, description="Largest webhook body that is accepted"
    )
    max_request_bytes: Annotated[int, Field(ge=1024)] = Field(
        default=16 * 1024 * 1024, description="Largest request body that the API accepts"
    )
    handler_timeout: Annotated[float, Field(gt=0)] = Field(
        default=30.0, description="Seconds that a connector may take for one webhook item"
    )
    action_timeout: Annotated[float, Field(gt=0)] = Field(
        default=120.0, description="Seconds that one attempt of an action may take"
    )
    action_concurrency: Annotated[int, Field(ge=1)] = Field(
        default=32, description="Actions that run at the same time"
    )
    action_attempts: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=20, description="Tries of an action that provably did not happen or may be repeated"
    )
    action_lifetime: Annotated[float, Field(gt=0)] = Field(
        default=24 * 3600.0,
        description="Seconds after an action is due in which a try may begin, unless it has its own deadline",
    )
    retention_days: Annotated[int, Field(ge=1)] = Field(
        default=30, description="Days that webhooks and events are kept"
    )
    attempt_retention_days: Annotated[int, Field(ge=1)] = Field(
        default=90, description="Days that finished actions and their attempts are kept"
    )
    dedupe_days: Annotated[int, Field(ge=7)] = Field(
        default=30, description="Days in which a repeated event is recognised (at least 7)"
    )
    stop_timeout: Annotated[float, Field(ge=0)] = Field(
        default=20.0, description="Seconds that running work gets to finish when the process is asked to stop"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Log level")
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="Log lines as JSON or text; auto is text on a terminal"
    )

    @field_validator("data_dir", "connectors_path")
    @classmethod
    def _expand(cls, value: Path | None) -> Path | None:
        try:
            return value.expanduser().absolute() if value else value
        except RuntimeError:
            raise ValueError("there is no such user's home folder") from None

    @field_validator("public_url")
    @classmethod
    def _plain_url(cls, value: str | None) -> str | None:
        if not value:
            return None
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
            raise ValueError(
                "it must be an http or https address without a query, such as https://hooks.example.com"
            )
        return value.rstrip("/")

    @field_validator("database_url")
    @classmethod
    def _postgres_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        try:
            parts = urlsplit(value.get_secret_value())
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("postgresql", "postgres") or not parts.path.strip("/"):
            raise ValueError(
                "it must name a PostgreSQL database, such as postgresql://trunkline:PASSWORD@host/trunkline"
            )
        return value

    @property
    def shown_database_url(self) -> str | None:
        """Without the password."""
        if self.database_url is None:
            return None
        parts = urlsplit(self.database_url.get_secret_value())
        user, _, place = parts.netloc.rpartition("@")
        name, _, password = user.partition(":")
        shown = f"{name}:***@{place}" if password else parts.netloc
        query = re.sub(r"(?i)((?:^|&)[^=&]*password=)[^&]*", r"\1***", parts.query)
        return urlunsplit(parts._replace(netloc=shown, query=query))

    @property
    def database_path(self) -> Path:
        return self.data_dir / "trunkline.db"


def load_settings(**flags: Any) -> Settings:
    """Settings from the environment; flags that are given win, and empty ones, like empty variables, are not.
    Raises StartupError in one line."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value not in (None, "")})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        raise StartupError(
            f"The setting {name} is wrong: {first['msg'].removeprefix('Value error, ')}.",
            remedy=f"Correct {ENV_PREFIX}{name.upper()} or --{name.replace('_', '-')}.",
        ) from None


def source_of(settings: Settings, name: str, flags: dict[str, Any], environment: dict[str, str]) -> str:
    """Where a setting's value comes from: `flag`, the variable's name, or `default`."""
    if flags.get(name) is not None:
        return "flag"
    variable = f"{ENV_PREFIX}{name.upper()}"
    if any(value and key.upper() == variable for key, value in environment.items()):
        return variable
    return "default"
