"""Every check of every connector: docs/adding-a-connector.md says what each wants."""

import pytest

from app.checks.catalogue import CHECKS
from app.checks.model import Check
from app.checks.run import run
from app.checks.subject import ConnectorUnderTest, discovered

CASES = [
    pytest.param(subject, check, id=f"{subject.key}-{check.code}")
    for subject in discovered(entry_points=None)
    for check in CHECKS
]


NOT_APPLICABLE = {
    ("kommo", "C07"),  # Kommo signs nothing: its webhooks rest on the unguessable URL
    ("ses", "C10"),  # it has no actions
}
"""Checks that have nothing to look at, each for a reason that a connector cannot mend."""


@pytest.mark.parametrize(("subject", "check"), CASES)
def test_connector(subject: ConnectorUnderTest, check: Check) -> None:
    result = run(check, subject)
    if result.status == "skipped":
        assert (subject.key, check.code) in NOT_APPLICABLE, result.skipped
    failures = [result.line(finding) for finding in result.findings if result.fails(finding)]
    if failures:
        pytest.fail("\n".join(failures), pytrace=False)


def test_the_connectors_of_the_repository_are_known_as_ours() -> None:
    assert {param.values[0].ours for param in CASES} == {True}
