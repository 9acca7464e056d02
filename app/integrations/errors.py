"""Every error of the contract.

    IntegrationError
    ├── DeclarationError            a connector's class says something impossible
    ├── InboundError                a request or item that does not become an event
    │   ├── Refused                 verification says that the sender is not genuine
    │   ├── KeyUnavailable          verification could not be carried out (not the sender's fault)
    │   │   └── KeyNeeded           the platform has to fetch a key first
    │   ├── InvalidBody             the bytes are not what the integration declares
    │   └── UnhandledWebhook        the connector has no way to take this webhook
    ├── ActionError                 an action that cannot be started
    │   ├── UnknownAction
    │   └── InvalidActionPayload
    └── ProviderError               the provider, or the way to it, did not do what was asked
        ├── NotSent                 provably nothing reached the provider: repeating is safe
        ├── AuthenticationFailed    the credential is bad (401, 403)
        ├── RateLimited             the provider asks to come back later (429)
        ├── Rejected                the provider understood and refused; repeating will not help
        └── Unavailable             5xx, timeout or a broken connection: it may have happened

Messages are shown to people: they name settings, headers and fields, never a secret or a payload value.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class IntegrationError(Exception):
    """Base of everything that a connector or the contract raises on purpose."""


class DeclarationError(IntegrationError):
    """A connector's declarations are wrong. `remedy` says what to change, and where."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem} {remedy}")
        self.problem = problem
        self.remedy = remedy


class InboundError(IntegrationError):
    """A request or item that does not become an event. `code` is stable and safe to show."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Refused(InboundError):
    """The request is not genuine as far as the declared verification can tell."""


class KeyUnavailable(InboundError):
    """What verification needs is missing on our side: the sender should try again later."""


class KeyNeeded(KeyUnavailable):
    """Verification needs what is at `url`; the check has made sure that the host is the provider's. The
    platform fetches it, keeps it, and verifies again with it among the secrets, by its URL."""

    def __init__(self, url: str) -> None:
        super().__init__("key_unavailable", "The provider's key could not be fetched; send again.")
        self.url = url


class InvalidBody(InboundError):
    """The body is not of the declared form."""


class UnhandledWebhook(InboundError):
    """The connector cannot take this webhook."""


class ActionError(IntegrationError):
    """An action that cannot be started."""


class UnknownAction(ActionError):
    """No declared action has this type."""

    def __init__(self, key: str, action_type: str, known: Sequence[str]) -> None:
        declared = ", ".join(known) or "none"
        super().__init__(f"Integration '{key}' has no action '{action_type[:100]}'. Declared: {declared}.")


@dataclass(frozen=True)
class FieldProblem:
    """One thing wrong with one field: `path` such as `reply.chat_id`, never the value."""

    path: str
    code: str
    message: str


class InvalidActionPayload(ActionError):
    """The payload does not fit the action's model. `problems` name the fields."""

    def __init__(self, action_type: str, problems: Sequence[FieldProblem]) -> None:
        self.problems = tuple(problems)
        listed = "; ".join(f"{p.path or 'payload'}: {p.message}" for p in self.problems)
        super().__init__(f"The payload of '{action_type}' is not valid: {listed}")


class ProviderError(IntegrationError):
    """The provider, or the way to it, did not do what was asked.

    `status` is the HTTP status if there was an answer; `retry_after` the seconds that the provider
    asked us to wait. `harmless` is set by ConnectorHttp for an exchange that changes nothing, such as a GET.
    Raise a leaf, not this class.
    """

    code = "provider_error"
    harmless = False

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class NotSent(ProviderError):
    """Provably nothing reached the provider, so repeating is safe whatever the action does.

    `hopeless` says that it would be in vain as well: the request itself cannot be made.
    """

    code = "not_sent"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        hopeless: bool = False,
    ) -> None:
        super().__init__(message, status=status, retry_after=retry_after)
        self.hopeless = hopeless


class AuthenticationFailed(ProviderError):
    """The provider refuses the credential. Never raised for an outage."""

    code = "authentication_failed"


class RateLimited(ProviderError):
    """The provider did not do it and asks to come back later."""

    code = "rate_limited"


class Rejected(ProviderError):
    """The provider understood the request and refused it: repeating it as it stands will not help."""

    code = "rejected"


class Unavailable(ProviderError):
    """A fault of the provider or of the network: what was asked may or may not have happened."""

    code = "provider_unavailable"
