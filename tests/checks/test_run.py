"""Exemptions (C14), and how checks are carried out."""

from dataclasses import replace
from pathlib import Path

import pytest

from app.checks import run as running
from app.checks.catalogue import CHECKS
from app.checks.model import Check, NotApplicable
from app.checks.run import run, run_all
from app.checks.subject import ConnectorUnderTest
from tests.support.specification import ROOT

from .conftest import BY_CODE, Acme, findings, messages

UNDESCRIBED = ("connector.py", '"Creates an order"', '""')
NO_RESULT = ("connector.py", ", result=Created", "")


# C14


def test_no_exemptions_are_fine(acme: Acme) -> None:
    assert messages("C14", acme()) == []


def test_an_exempted_finding_does_not_count_and_is_shown(acme: Acme) -> None:
    exempt = {"tests/exemptions.toml": '"C05 create_order" = "The API says nothing, and we say so."'}
    subject = acme(NO_RESULT, files=exempt)
    result = run(BY_CODE["C05"], subject)
    assert (result.status, len(result.exempted)) == ("passed", 1)
    assert messages("C14", subject) == []


def test_an_exemption_covers_only_what_it_names(acme: Acme) -> None:
    exempt = {"tests/exemptions.toml": '"C05 create_order" = "The API says nothing, and we say so."'}
    subject = acme(NO_RESULT, ("connector.py", '"Key of the API"', '""'), files=exempt)
    result = run(BY_CODE["C05"], subject)
    assert [finding.about for finding in result.findings] == ["api_key"]


def test_a_code_alone_covers_all(acme: Acme) -> None:
    exempt = {"tests/exemptions.toml": 'C05 = "Nobody has told us what this API does."'}
    subject = acme(NO_RESULT, ("connector.py", '"Key of the API"', '""'), files=exempt)
    assert run(BY_CODE["C05"], subject).status == "passed"
    assert messages("C14", subject) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('"C05 create_order" = ""', "exemption 'C05 create_order' has no reason."),
        ('"C05 create_order" = "later"', "exemption 'C05 create_order' has no reason."),
        ('"C05 create_order" = true', "exemption 'C05 create_order' has no reason."),
        (
            '"C05 delete_order" = "A reason that is long enough."',
            "exemption 'C05 delete_order' is stale: nothing is found that it would be for.",
        ),
        (
            'C11 = "A reason that is long enough."',
            "exemption 'C11' is stale: nothing is found that it would be for.",
        ),
        ('C99 = "A reason that is long enough."', "exemption 'C99' is of no check."),
        ('C04 = "A reason that is long enough."', "there is no exemption from C04."),
        ('C14 = "A reason that is long enough."', "there is no exemption from C14."),
    ],
)
def test_an_exemption_without_reason_or_need_is_found(acme: Acme, line: str, problem: str) -> None:
    assert messages("C14", acme(NO_RESULT, files={"tests/exemptions.toml": line})) == [problem]


def test_nothing_is_stale_where_nothing_could_be_looked_at(acme: Acme) -> None:
    broken = ("connector.py", "from typing import Any", "import nothing_that_exists")
    exempt = {"tests/exemptions.toml": '"C05 create_order" = "The API says nothing, and we say so."'}
    assert messages("C14", acme(broken, files=exempt)) == []


def test_a_file_that_is_no_toml_exempts_nothing(acme: Acme) -> None:
    subject = acme(NO_RESULT, files={"tests/exemptions.toml": "C05 ="})
    [message] = messages("C14", subject)
    assert message.startswith("exemptions.toml is not TOML")
    assert run(BY_CODE["C05"], subject).status == "warned"


# What findings mean.


def test_a_plain_connector_passes_every_check(acme: Acme) -> None:
    results = run_all(CHECKS, acme())
    assert [(result.check.code, result.status) for result in results if result.status != "passed"] == []


def test_quality_fails_in_the_repository_and_warns_elsewhere(acme: Acme, tmp_path: Path) -> None:
    subject = acme(UNDESCRIBED)
    result = run(BY_CODE["C05"], subject)
    assert result.status == "warned"
    ours = replace(result, subject=replace(subject, repository=tmp_path))
    assert ours.status == "failed"


def test_the_contract_fails_everywhere(acme: Acme) -> None:
    subject = acme(("connector.py", "from typing import Any", "import nothing_that_exists"))
    assert run(BY_CODE["C01"], subject).status == "failed"


def test_a_failure_reads_in_one_line(acme: Acme) -> None:
    missing = {f"tests/fixtures/acme.order.paid{part}.json": None for part in ("", "__large")}
    result = run(BY_CODE["C06"], acme(files=missing))
    assert [result.line(finding) for finding in result.findings] == [
        "C06 acme: event acme.order.paid has no fixture. Add acme/tests/fixtures/acme.order.paid.json. "
        "(docs/adding-a-connector.md#fixtures)"
    ]


def test_in_the_repository_files_are_where_its_own_connectors_have_them(acme: Acme, tmp_path: Path) -> None:
    ours = replace(acme(), repository=tmp_path)
    tests = tmp_path / "tests" / "integrations" / "connectors" / "acme"
    assert (ours.tests, ours.page) == (tests, tmp_path / "docs" / "connectors" / "acme.md")
    assert messages("C11", ours) == ["it has no page."]
    assert findings("C06", ours)[0].remedy == (
        "Add tests/integrations/connectors/acme/fixtures/acme.order.paid.json."
    )


def test_fixtures_may_lie_in_the_connectors_own_folder(acme: Acme) -> None:
    files = {f"tests/{name}": None for name in ("test_acme.py", "fixtures/README.md")}
    files |= {f"tests/fixtures/acme.order.paid{part}.json": None for part in ("", "__large")}
    subject = acme(files={**files, "fixtures/acme.order.paid.json": '{"id": "1", "amount": 1}'})
    assert messages("C06", subject) == []
    assert messages("C02", subject) == []


# How checks are carried out.


def test_a_connector_that_is_broken_is_looked_at_as_far_as_it_goes(acme: Acme) -> None:
    subject = acme(("connector.py", "from typing import Any", "import nothing_that_exists"))
    statuses = {result.check.code: result.status for result in run_all(CHECKS, subject)}
    assert {code for code, status in statuses.items() if status != "skipped"} == {"C01", "C02", "C03", "C14"}


def test_a_connector_that_cannot_be_built_is_looked_at_as_far_as_it_goes(acme: Acme) -> None:
    change = (
        "connector.py",
        "        self.http = http",
        '        raise OSError("no")\n        self.http = http',
    )
    results = {result.check.code: result for result in run_all(CHECKS, acme(change))}
    assert results["C04"].status == "warned"
    for code in ("C06", "C08", "C09", "C10", "C12"):
        assert results[code].skipped == "it cannot be built: see C04"
    assert "failed" not in {result.status for result in results.values()}


def checking(find: object) -> Check:
    return Check("C00", "made up", "quality", "folder", find)  # type: ignore[arg-type]


def test_a_check_that_hangs_ends(acme: Acme, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "DEADLINE", 0.1)

    def hang(_: ConnectorUnderTest) -> list[None]:
        __import__("time").sleep(5)
        return []

    result = run(checking(hang), acme())
    assert result.status == "failed"
    assert result.findings[0].message == "the check did not end within 0.1 s."


def test_a_check_that_raises_is_a_finding(acme: Acme) -> None:
    def fail(_: ConnectorUnderTest) -> None:
        raise SystemExit

    assert run(checking(fail), acme()).findings[0].message == "it ends the check with SystemExit."


def test_a_check_with_nothing_to_look_at_is_skipped(acme: Acme) -> None:
    def nothing(_: ConnectorUnderTest) -> None:
        raise NotApplicable("it has nothing")

    result = run(checking(nothing), acme())
    assert (result.status, result.skipped) == ("skipped", "it has nothing")


# The page.


def test_every_check_is_explained_where_its_findings_point_to() -> None:
    text = (ROOT / "docs" / "adding-a-connector.md").read_text()
    anchors = {
        line.lstrip("#").strip().lower().replace(" ", "-")
        for line in text.splitlines()
        if line.startswith("#")
    }
    assert [check.code for check in CHECKS] == [f"C{number:02}" for number in range(1, len(CHECKS) + 1)]
    for check in CHECKS:
        assert check.section in anchors, check.code
        assert f"**{check.code}**" in text
