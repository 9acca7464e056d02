"""Why a connector was not written."""

from app.errors import TrunklineError


class CannotScaffold(TrunklineError):
    """Nothing was written; message and remedy say why, and what to do."""

    code = "cannot_scaffold"

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message, remedy=remedy)
