"""A check, what it finds, and what comes of it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from .subject import ConnectorUnderTest

Level = Literal["contract", "quality"]
"""contract: a finding fails everywhere; quality: outside this repository it only warns."""

Status = Literal["passed", "warned", "failed", "skipped"]

PAGE = "docs/adding-a-connector.md"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, and what to do about it.

    message  what is wrong, to follow on the connector's name: lower case, with its full stop
    remedy   what to do, as a sentence
    about    the event, action, secret or file that it is about: what an exemption may name
    level    where it weighs differently than the check's own level
    """

    message: str
    remedy: str
    about: str = ""
    level: Level | None = None


class NotApplicable(Exception):
    """The check has nothing to look at in this connector; the message says why."""


@dataclass(frozen=True)
class Check:
    """One check.

    code     stable; never used for another check
    title    what holds if nothing is found
    level    see `Level`
    section  of the page that explains it
    find     looks at a connector; raises NotApplicable
    exempt   whether an exemption can be made
    unloaded whether it has something to look at if the connector cannot be loaded
    """

    code: str
    title: str
    level: Level
    section: str
    find: Callable[["ConnectorUnderTest"], Iterable[Finding]]
    exempt: bool = True
    unloaded: bool = False


@dataclass(frozen=True)
class Result:
    """What a check found in one connector; `exempted` are findings that somebody gave a reason for."""

    check: Check
    subject: "ConnectorUnderTest"
    findings: tuple[Finding, ...] = ()
    exempted: tuple[Finding, ...] = ()
    skipped: str = ""

    @property
    def status(self) -> Status:
        if self.skipped:
            return "skipped"
        if not self.findings:
            return "passed"
        return "failed" if any(map(self.fails, self.findings)) else "warned"

    def fails(self, finding: Finding) -> bool:
        return self.subject.ours or (finding.level or self.check.level) == "contract"

    def line(self, finding: Finding) -> str:
        """The finding in one line."""
        where = f"{PAGE}#{self.check.section}"
        return f"{self.check.code} {self.subject.key}: {finding.message} {finding.remedy} ({where})"
