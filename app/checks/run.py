"""Carries checks out: each in a thread of its own with a deadline, its findings less the exemptions."""

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from .connection import NotBuilt, place
from .exemptions import read_exemptions
from .model import Check, Finding, NotApplicable, Result
from .subject import ConnectorUnderTest

DEADLINE = 120.0
"""Seconds that one check of one connector may take: something hangs if it takes longer."""

_BUILDS = "C04"
"""The check that says when no instance can be built; for the others it is a reason not to look."""


@dataclass(frozen=True)
class Found:
    """What a check found before exemptions, or why it did not look."""

    findings: tuple[Finding, ...] = ()
    skipped: str = ""


_known: WeakKeyDictionary[ConnectorUnderTest, dict[str, Found]] = WeakKeyDictionary()


def run(check: Check, subject: ConnectorUnderTest) -> Result:
    """Carries out one check of one connector."""
    seen = found(check, subject)
    exemptions = read_exemptions(subject)
    exempted = tuple(finding for finding in seen.findings if exemptions.covers(check, finding))
    left = tuple(finding for finding in seen.findings if finding not in exempted)
    return Result(check, subject, left, exempted, seen.skipped)


def run_all(checks: Iterable[Check], subject: ConnectorUnderTest) -> list[Result]:
    return [run(check, subject) for check in checks]


def found(check: Check, subject: ConnectorUnderTest) -> Found:
    """What a check finds; each is carried out once."""
    known = _known.setdefault(subject, {})
    if check.code not in known:
        known[check.code] = _look(check, subject)
    return known[check.code]


def _look(check: Check, subject: ConnectorUnderTest) -> Found:
    if subject.integration is None and not check.unloaded:
        return Found(skipped="it cannot be loaded: see C01")
    findings: list[Finding] = []
    ended: list[BaseException | None] = []

    def look() -> None:
        try:
            findings.extend(check.find(subject))
            ended.append(None)
        except BaseException as error:  # noqa: BLE001 - it is judged below
            ended.append(error)

    thread = threading.Thread(target=look, name=f"check-{check.code}", daemon=True)
    thread.start()
    thread.join(DEADLINE)
    if not ended:
        return Found(
            (
                *findings,
                Finding(
                    f"the check did not end within {DEADLINE:g} s.",
                    "Look for a loop or a call that waits in the connector.",
                    level="contract",
                ),
            )
        )
    return _judged(check, subject, tuple(findings), ended[0])


def _judged(
    check: Check, subject: ConnectorUnderTest, findings: tuple[Finding, ...], error: BaseException | None
) -> Found:
    if error is None:
        return Found(findings)
    if isinstance(error, NotApplicable):
        return Found(findings, "" if findings else str(error))
    if isinstance(error, NotBuilt):
        if check.code != _BUILDS:
            return Found(findings, "" if findings else f"it cannot be built: see {_BUILDS}")
        return Found((*findings, Finding(error.message, error.remedy, level="quality")))
    where = place(error, subject.connector) if subject.integration is not None else ""
    remedy = (
        "Let the connector raise the contract's errors."
        if where
        else "No line of the connector was running: it may be a fault of the check itself."
    )
    return Found((*findings, Finding(f"it ends the check with {type(error).__name__}{where}.", remedy)))
