"""Exemptions: findings that stand, each with the reason why. C14 watches them.

`exemptions.toml` in the connector's tests folder, one line each:

    C11 = "The page waits for the provider's answer about retries."
    "C06 acme.refund.issued" = "Refunds cannot be made in a test account."

The code alone means all that the check finds; with a name, only what it finds about that event, action or
file.
"""

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .model import Check, Finding
from .subject import ConnectorUnderTest

FILE = "exemptions.toml"
_SHORTEST_REASON = 15


@dataclass(frozen=True)
class Exemptions:
    """What is exempted, with the reasons; `problem` if the file cannot be read."""

    reasons: dict[str, str] = field(default_factory=dict)
    problem: str = ""

    def covers(self, check: Check, finding: Finding) -> bool:
        return check.exempt and any(name in self.reasons for name in _names(check, finding))

    def used(self, check: Check, findings: Iterable[Finding]) -> set[str]:
        """The exemptions that some finding needs."""
        return {name for finding in findings for name in _names(check, finding) if name in self.reasons}


def read_exemptions(subject: ConnectorUnderTest) -> Exemptions:
    path = subject.tests / FILE if subject.tests is not None else None
    if path is None or not path.exists():
        return Exemptions()
    try:
        reasons = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return Exemptions(problem=f"{FILE} is not TOML ({error}).")
    return Exemptions({name: reason if isinstance(reason, str) else "" for name, reason in reasons.items()})


def unreasonable(exemptions: Exemptions, checks: Iterable[Check]) -> Iterator[Finding]:
    """Exemptions that cannot be: of no check, of one that allows none, without a reason."""
    known = {check.code: check for check in checks}
    for name, reason in exemptions.reasons.items():
        check = known.get(name.split(" ")[0])
        if check is None:
            yield Finding(
                f"exemption '{name}' is of no check.", "Begin it with a code such as C06.", about=name
            )
        elif not check.exempt:
            yield Finding(f"there is no exemption from {check.code}.", "Mend what it finds.", about=name)
        elif len(reason.strip()) < _SHORTEST_REASON:
            yield Finding(
                f"exemption '{name}' has no reason.",
                "Say why the finding stands, and until when.",
                about=name,
            )


def _names(check: Check, finding: Finding) -> tuple[str, str]:
    return check.code, f"{check.code} {finding.about}"
