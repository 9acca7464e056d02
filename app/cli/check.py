"""`trunkline check`: connectors held against the contract, before anybody runs them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .commands import local, single
from .exits import CommandFailed, ExitCode, WrongUsage
from .output import Output
from .own_connectors import own_connectors

if TYPE_CHECKING:
    from app.checks.model import Check, Finding, Result
    from app.checks.subject import ConnectorUnderTest

app = single()

_MARKS = {"passed": "✓", "warned": "warn", "failed": "✗", "skipped": "–"}


@local(
    app,
    "check",
    "trunkline check",
    "trunkline check telegram --only C07",
    "trunkline check ./my_service",
    "trunkline check --connectors-path ./connectors --json",
)
def check(
    out: Output,
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY|FOLDER]...", help="Connectors to check; all that there are if none."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="Only this check; can be repeated.")
    ] = None,
    connectors_path: Annotated[
        Path | None,
        typer.Option(
            envvar="TRUNKLINE_CONNECTORS_PATH",
            help="Folder with connectors of your own; ./connectors if there is one.",
            metavar="PATH",
        ),
    ] = None,
) -> None:
    """Check connectors: what they declare, how they take webhooks and failures, that secrets stay inside.

    What each check wants and why is in docs/adding-a-connector.md. For connectors of your own most findings
    are warnings; what breaks the contract fails, with exit code 1.
    """
    from app.checks.run import run_all

    checks = _chosen(only or [])
    subjects = _subjects(targets or [], own_connectors(connectors_path))
    results = [run_all(checks, subject) for subject in subjects]
    flat = [result for row in results for result in row]
    if out.as_json:
        out.document(_document(results))
    else:
        _print(out, checks, results)
    if any(result.status == "failed" for result in flat):
        raise typer.Exit(ExitCode.FAILED)


def _chosen(codes: Sequence[str]) -> "list[Check]":
    from app.checks.catalogue import CHECKS

    known = {check.code: check for check in CHECKS}
    wanted = [code.upper() for code in codes]
    if unknown := [code for code in wanted if code not in known]:
        raise WrongUsage(f"There is no check {unknown[0]}.", f"There are {', '.join(known)}.")
    return [check for check in CHECKS if check.code in wanted or not wanted]


def _subjects(targets: Sequence[str], folder: Path | None) -> "list[ConnectorUnderTest]":
    from app.checks.subject import discovered, in_folder

    if not targets:
        return discovered(folder)
    found: list[ConnectorUnderTest] = []
    by_key: dict[str, ConnectorUnderTest] | None = None
    for target in targets:
        if not _is_path(target):
            by_key = {one.key: one for one in discovered(folder)} if by_key is None else by_key
            if target in by_key:
                found.append(by_key[target])
                continue
        found += [in_folder(place) for place in _folders(Path(target).expanduser(), by_key or {})]
    return found


def _is_path(target: str) -> bool:
    return target.startswith((".", "~")) or os.sep in target or "/" in target


def _folders(path: Path, known: "dict[str, ConnectorUnderTest]") -> list[Path]:
    """The folder itself, or if it only holds connectors, those."""
    if not path.is_dir():
        listed = f" Keys are: {', '.join(known)}." if known else ""
        raise CommandFailed(
            f"There is no connector or folder {path}.",
            f"Name a connector's folder or its key.{listed}",
            exit_code=ExitCode.NOT_FOUND,
        )
    if any(path.glob("*.py")):
        return [path]
    inside = sorted(file.parent for file in path.glob("*/connector.py"))
    if not inside:
        raise CommandFailed(
            f"In {path} there is no connector.", "A connector's folder holds connector.py or __init__.py."
        )
    return inside


def _print(out: Output, checks: "list[Check]", results: "list[list[Result]]") -> None:
    rows: list[dict[str, Any]] = [
        {"connector": row[0].subject.key} | {result.check.code: _MARKS[result.status] for result in row}
        for row in results
    ]
    columns = {name: name for name in ("connector", *(check.code for check in checks))}
    out.items(rows, columns, empty="There are no connectors.")
    flat = [result for row in results for result in row]
    failures = [result.line(f) for result in flat for f in result.findings if result.fails(f)]
    warnings = [result.line(f) for result in flat for f in result.findings if not result.fails(f)]
    for title, lines in (("Failures", failures), ("Warnings", warnings)):
        if lines:
            out.text(f"\n{title}")
        for line in lines:
            out.text(f"  {line}")
    for result in flat:
        if result.exempted:
            out.text(f"\n{result.check.code} {result.subject.key}: {len(result.exempted)} exempted.")
    if rows:
        out.text(f"\n{_counted(len(failures), 'failure')}, {_counted(len(warnings), 'warning')}.")


def _counted(number: int, what: str) -> str:
    return f"{number or 'No'} {what}{'' if number == 1 else 's'}"


def _document(results: "list[list[Result]]") -> dict[str, Any]:
    flat = [result for row in results for result in row]
    return {
        "connectors": [
            {
                "key": row[0].subject.key,
                "source": str(row[0].subject.folder or row[0].subject.package),
                "checks": [_described(result) for result in row],
            }
            for row in results
        ],
        "failures": sum(result.fails(finding) for result in flat for finding in result.findings),
        "warnings": sum(not result.fails(finding) for result in flat for finding in result.findings),
    }


def _described(result: "Result") -> dict[str, Any]:
    return {
        "code": result.check.code,
        "title": result.check.title,
        "status": result.status,
        "skipped": result.skipped or None,
        "findings": [_shown(result, finding) for finding in result.findings],
        "exempted": [_shown(result, finding) for finding in result.exempted],
    }


def _shown(result: "Result", finding: "Finding") -> dict[str, Any]:
    from app.checks.model import PAGE

    return {
        "message": finding.message,
        "remedy": finding.remedy,
        "about": finding.about or None,
        "fails": result.fails(finding),
        "docs": f"{PAGE}#{result.check.section}",
    }
