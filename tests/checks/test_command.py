"""`trunkline check`, as a connector's author uses it: in a process of its own, in a folder of theirs."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.checks.catalogue import CHECKS
from app.cli.exits import ExitCode
from tests.support.specification import drop_example

from .conftest import FILES

CODES = [check.code for check in CHECKS]


@dataclass
class Ran:
    exit_code: int
    stdout: str
    stderr: str

    @property
    def statuses(self) -> dict[str, dict[str, str]]:
        """Status by connector and code, out of the JSON."""
        listed = json.loads(self.stdout)["connectors"]
        return {one["key"]: {check["code"]: check["status"] for check in one["checks"]} for one in listed}


def trunkline_check(*arguments: str, cwd: Path, environment: Mapping[str, str] | None = None) -> Ran:
    done = subprocess.run(
        [sys.executable, "-m", "app", "check", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_a_connector_of_ones_own_passes(tmp_path: Path) -> None:
    write(tmp_path / "acme", FILES)
    ran = trunkline_check("./acme", cwd=tmp_path)
    assert ran.exit_code == ExitCode.OK, ran.stdout + ran.stderr
    head, row, *rest = ran.stdout.splitlines()
    assert head.split() == ["connector", *CODES]
    assert row.split() == ["acme", *["✓"] * len(CODES)]
    assert rest[-1] == "No failures, No warnings."


def test_what_is_no_folder_of_connectors_is_a_finding(tmp_path: Path) -> None:
    write(tmp_path / "acme", FILES)
    (tmp_path / "loose.py").write_text("from app.integrations.base import BaseIntegration")
    ran = trunkline_check("--connectors-path", ".", "--only", "C01", "--only", "C02", "--json", cwd=tmp_path)
    assert ran.exit_code == ExitCode.FAILED
    assert "a connector is a folder, and this is a single file." in ran.stdout
    inside = trunkline_check("--connectors-path", "acme", "--only", "C02", "--only", "C01", cwd=tmp_path)
    assert inside.exit_code == ExitCode.FAILED
    assert "is a connector itself" in inside.stdout
    assert "Traceback" not in inside.stdout + inside.stderr


def test_the_specifications_example_only_gets_warnings(tmp_path: Path) -> None:
    """Complete, with its client's variable set; and as it stands, where the variable is missing."""
    drop_example(tmp_path / "connectors")
    for environment in ({"MY_SERVICE_URL": "http://127.0.0.1:9"}, {}):
        ran = trunkline_check("connectors", "--json", cwd=tmp_path, environment=environment)
        assert ran.exit_code == ExitCode.OK, ran.stdout + ran.stderr
        statuses = ran.statuses["my_service"]
        assert {statuses[code] for code in ("C01", "C02", "C03")} == {"passed"}
        assert set(statuses.values()) <= {"passed", "warned", "skipped"}
        assert json.loads(ran.stdout)["failures"] == 0


def test_what_breaks_the_contract_fails_with_what_to_do(tmp_path: Path) -> None:
    leaking = FILES["connector.py"].replace(
        "redact=[api_key])", "redact=[api_key])\n        self.key_ = api_key"
    )
    leaking = leaking.replace('"This is not an order', 'self.key_ + "This is not an order')
    write(tmp_path / "acme", {**FILES, "connector.py": leaking})
    ran = trunkline_check("acme", "--only", "c04", cwd=tmp_path)
    assert ran.exit_code == ExitCode.FAILED
    assert (
        "Failures\n  C04 acme: the secret api_key appears in the error of a webhook. Keep it out:"
        in ran.stdout
    )
    assert "(docs/adding-a-connector.md#secrets)" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "1 failure, No warnings."
    assert "planted" not in ran.stdout + ran.stderr


def test_connectors_of_the_folder_named_by_configuration_are_known(tmp_path: Path) -> None:
    write(tmp_path / "mine" / "acme", FILES)
    (tmp_path / "mine" / "broken").mkdir()
    (tmp_path / "mine" / "broken" / "connector.py").write_text("import nothing_that_exists\n")
    environment = {"TRUNKLINE_CONNECTORS_PATH": str(tmp_path / "mine")}
    named = ("telegram", "acme", "broken", "--only", "C01", "--json")
    ran = trunkline_check(*named, cwd=tmp_path, environment=environment)
    assert ran.exit_code == ExitCode.FAILED
    statuses = ran.statuses
    assert statuses["telegram"] == statuses["acme"] == {"C01": "passed"}
    assert statuses["broken"] == {"C01": "failed"}
    one = trunkline_check("acme", "--connectors-path", "mine", "--only", "C01", "--json", cwd=tmp_path)
    assert list(one.statuses) == ["acme"]


def test_json_holds_findings_and_exemptions(tmp_path: Path) -> None:
    no_result = FILES["connector.py"].replace(", result=Created", "")
    exempted = {"tests/exemptions.toml": '"C05 create_order" = "The API says nothing, and we say so."'}
    write(tmp_path / "acme", {**FILES, **exempted, "connector.py": no_result})
    ran = trunkline_check("acme", "--only", "C05", "--json", cwd=tmp_path)
    [check] = json.loads(ran.stdout)["connectors"][0]["checks"]
    assert check["status"] == "passed"
    assert check["findings"] == []
    assert check["exempted"] == [
        {
            "message": "action create_order has no result model.",
            "remedy": "Set result=..., or make an exemption that says why there is nothing to say.",
            "about": "create_order",
            "fails": False,
            "docs": "docs/adding-a-connector.md#descriptions",
        }
    ]
    assert "C05 acme: 1 exempted." in trunkline_check("acme", "--only", "C05", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (
            ["nothing_of_that_name"],
            ExitCode.NOT_FOUND,
            "There is no connector or folder nothing_of_that_name.",
        ),
        (["./nowhere"], ExitCode.NOT_FOUND, "There is no connector or folder nowhere."),
        (["."], ExitCode.FAILED, "there is no connector"),
        (["--only", "C99"], ExitCode.USAGE, "There is no check C99."),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, arguments: list[str], exit_code: int, words: str) -> None:
    ran = trunkline_check(*arguments, cwd=tmp_path)
    assert (ran.exit_code, ran.stdout) == (exit_code, "")
    assert words in ran.stderr


def test_a_name_that_is_taken_is_said(tmp_path: Path) -> None:
    write(tmp_path / "telegram", FILES)
    ran = trunkline_check("./telegram", cwd=tmp_path)
    assert ran.exit_code == ExitCode.FAILED
    assert "C01 telegram: the folder's name is already taken by " in ran.stdout
    assert "Give the folder another name." in ran.stdout


def test_a_folder_that_python_cannot_import_is_said(tmp_path: Path) -> None:
    write(tmp_path / "my-acme", FILES)
    ran = trunkline_check("./my-acme", cwd=tmp_path)
    assert ran.exit_code == ExitCode.FAILED
    assert "Rename it, such as my_acme." in ran.stdout
