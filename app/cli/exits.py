"""Exit codes, and the one error by which a command ends with them."""

from collections.abc import Sequence
from enum import IntEnum

from app.errors import Forbidden, Invalid, NotFound, Problem, TrunklineError, Unauthenticated


class ExitCode(IntEnum):
    """What scripts can rely on; MEANINGS says it in words."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    FORBIDDEN = 4
    UNREACHABLE = 5
    INVALID = 6


MEANINGS = {
    ExitCode.OK: "it worked",
    ExitCode.FAILED: "it did not: an action failed or is unknown, a check is not good, no start",
    ExitCode.USAGE: "the command line is wrong",
    ExitCode.NOT_FOUND: "there is no such thing, or it belongs to another tenant",
    ExitCode.FORBIDDEN: "no key, an unknown key, or one that may not do this",
    ExitCode.UNREACHABLE: "no platform answers at the address",
    ExitCode.INVALID: "the platform refuses the input; the fields are named",
}

_OF_ERROR: dict[type[TrunklineError], ExitCode] = {
    NotFound: ExitCode.NOT_FOUND,
    Unauthenticated: ExitCode.FORBIDDEN,
    Forbidden: ExitCode.FORBIDDEN,
    Invalid: ExitCode.INVALID,
}

_OF_STATUS = {
    401: ExitCode.FORBIDDEN,
    403: ExitCode.FORBIDDEN,
    404: ExitCode.NOT_FOUND,
    422: ExitCode.INVALID,
}


class CommandFailed(Exception):
    """A command cannot go on. What it says is printed on standard error, without a traceback."""

    def __init__(
        self,
        message: str,
        remedy: str = "",
        *,
        exit_code: ExitCode = ExitCode.FAILED,
        problems: Sequence[Problem] = (),
        code: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
        self.exit_code = exit_code
        self.problems = tuple(problems)
        self.code = code
        """The API's, if it was the API that said it."""

    @classmethod
    def from_error(cls, error: TrunklineError) -> "CommandFailed":
        code = next((_OF_ERROR[base] for base in type(error).__mro__ if base in _OF_ERROR), ExitCode.FAILED)
        return cls(error.message, error.remedy, exit_code=code, problems=error.problems)


class WrongUsage(CommandFailed):
    """The command line itself is wrong."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy, exit_code=ExitCode.USAGE)


def exit_code_of_status(status: int) -> ExitCode:
    """The exit code for an HTTP status of the platform that is not a success."""
    return _OF_STATUS.get(status, ExitCode.FAILED)
