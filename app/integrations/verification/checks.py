"""What every check offers, what checks have in common, several checks as one, one chosen by settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from app.integrations.errors import DeclarationError, KeyUnavailable, Refused
from app.integrations.requests import WebhookRequest

LiveSecrets = Mapping[str, Sequence[str]]
"""Secret name to its live values, the newest first. Key material that a check asked for by raising
`KeyNeeded` is in here too, by its URL."""


class Verification(Protocol):
    """What every check offers.

    secret_names      the declared secrets that it takes
    credential_headers  headers that carry a secret itself (not a signature): never stored
    """

    @property
    def secret_names(self) -> frozenset[str]: ...

    @property
    def credential_headers(self) -> frozenset[str]: ...

    def verify(self, request: WebhookRequest, secrets: LiveSecrets, now: float) -> None: ...


@dataclass(frozen=True)
class _Several:
    checks: tuple[Verification, ...]

    def __init__(self, *checks: Verification) -> None:
        if not checks:
            raise DeclarationError(f"{type(self).__name__} has no checks.", "Give it at least one.")
        object.__setattr__(self, "checks", checks)

    @property
    def secret_names(self) -> frozenset[str]:
        return frozenset[str]().union(*(check.secret_names for check in self.checks))

    @property
    def credential_headers(self) -> frozenset[str]:
        return frozenset[str]().union(*(check.credential_headers for check in self.checks))


class AnyOf(_Several):
    """Genuine if one of the checks says so; the first refusal is the one reported."""

    def verify(self, request: WebhookRequest, secrets: LiveSecrets, now: float) -> None:
        refusals: list[Refused | KeyUnavailable] = []
        for check in self.checks:
            try:
                check.verify(request, secrets, now)
            except (Refused, KeyUnavailable) as error:
                refusals.append(error)
            else:
                return
        raise refusals[0]


class AllOf(_Several):
    """Genuine if every check says so."""

    def verify(self, request: WebhookRequest, secrets: LiveSecrets, now: float) -> None:
        for check in self.checks:
            check.verify(request, secrets, now)


@dataclass(frozen=True)
class BySettings:
    """A check that each connection chooses by its settings, for senders who sign in different ways.

    choose   makes the check from the connection's settings (the connector's `settings_model`); None leaves
             it to the unguessable URL. Pure: the platform asks once for each change of the settings
    secrets  every declared secret that a chosen check may take
    """

    choose: Callable[[Any], Verification | None]
    secrets: tuple[str, ...]

    credential_headers: ClassVar[frozenset[str]] = frozenset()
    """Those of the chosen check count."""

    @property
    def secret_names(self) -> frozenset[str]:
        return frozenset(self.secrets)

    def verify(self, request: WebhookRequest, secrets: LiveSecrets, now: float) -> None:
        # Whoever asks this instead of the chosen check must not let anything through.
        raise KeyUnavailable("settings_unread", "The settings that choose the check have not been read.")


def live_values(secrets: LiveSecrets, name: str) -> Sequence[str]:
    """Raises KeyUnavailable if there is none."""
    values = secrets.get(name, ())
    if not values:
        raise KeyUnavailable(
            "secret_missing", f"The connection has no value for the secret '{name}'; set it and send again."
        )
    return values


def header_value(request: WebhookRequest, name: str) -> str:
    """Raises Refused if the header is missing or empty."""
    value = request.headers.get(name)
    if not value:
        raise Refused("header_missing", f"The header {name} is missing or empty.")
    return value


def on_the_wire(header: str) -> bytes:
    """The bytes that a header value was received as."""
    # Latin-1 gives back every byte that was received; no other character comes from a request.
    return header.encode("latin-1", "backslashreplace")
