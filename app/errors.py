"""The platform's errors, and the one table that says what each means over HTTP.

    TrunklineError
    ├── StartupError          the process cannot start; one line that says what to do
    ├── NotFound              404  also for what belongs to another tenant
    ├── Unauthenticated       401
    ├── Forbidden             403
    ├── Conflict              409
    ├── Invalid               422  with the fields that are wrong
    ├── TooLarge              413
    └── StorageUnavailable    503  it could not be stored; come back later

Every error has a stable `code`, a sentence that says what happened, and a `remedy` that says what to do.
None of them names a secret or a payload value.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One field that is wrong: a path such as `payload.chat_id`, a stable code, a sentence."""

    path: str
    code: str
    message: str


class TrunklineError(Exception):
    """Base of the platform's own errors."""

    code = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        remedy: str = "",
        problems: Sequence[Problem] = (),
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.remedy = remedy
        self.problems = tuple(problems)
        self.retry_after = retry_after


class StartupError(TrunklineError):
    code = "cannot_start"


class NotFound(TrunklineError):
    code = "not_found"

    def __init__(self, what: str, identifier: str = "") -> None:
        named = f" '{identifier[:100]}'" if identifier else ""
        super().__init__(f"There is no {what}{named}.", remedy="Check the id; lists show what there is.")


class Unauthenticated(TrunklineError):
    code = "unauthenticated"


class Forbidden(TrunklineError):
    code = "forbidden"


class Conflict(TrunklineError):
    code = "conflict"


class Invalid(TrunklineError):
    code = "invalid"


class TooLarge(TrunklineError):
    code = "too_large"


class StorageUnavailable(TrunklineError):
    code = "storage_unavailable"

    def __init__(
        self,
        message: str,
        *,
        remedy: str = "Nothing was stored. Send it again after the time in Retry-After.",
    ) -> None:
        super().__init__(message, remedy=remedy, retry_after=5)


HTTP_STATUS: dict[type[TrunklineError], int] = {
    NotFound: 404,
    Unauthenticated: 401,
    Forbidden: 403,
    Conflict: 409,
    Invalid: 422,
    TooLarge: 413,
    StorageUnavailable: 503,
}


def http_status(error: TrunklineError) -> int:
    """The status that the error's class, or the nearest base of it, has in the table."""
    return next((HTTP_STATUS[base] for base in type(error).__mro__ if base in HTTP_STATUS), 500)
