"""The run's figures: tables for people, JSON for programs."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from .bench import Name, Plan, Results
from .budgets import Budget, budgets
from .machine import Cores
from .parts import PARTS

DATABASES = ("sqlite", "postgres")

_BUSY = 0.95
"""From here on the load itself may be what limits a figure."""


def print_report(console: Console, results: Results, plan: Plan, cores: Cores) -> None:
    for part in PARTS.values():
        names = [name for name in results.names() if name.part == part.name]
        if names:
            console.print(_table(part.title, names, results))
    console.print(_placement(cores))
    for name in results.names():
        busy = results.median(name) if name.column == "load busy" else None
        if busy is not None and busy > _BUSY:
            console.print(
                f"The load process was {busy:.0%} busy at {name.row} on {name.database}: "
                "it may be what limits the rate."
            )
    verdicts = judged(results, plan)
    if verdicts:
        console.print(_budget_table(verdicts))
    for error in results.errors:
        console.print(f"ERROR {error}", style="red", markup=False, highlight=False)


def judged(results: Results, plan: Plan) -> list[tuple[Budget, str, float]]:
    """Budgets with the database and what was measured there."""
    return [
        (budget, database, measured)
        for budget in budgets(plan)
        for database in DATABASES
        if (measured := budget.measured(results, database)) is not None
    ]


def as_json(
    results: Results, plan: Plan, cores: Cores, machine: dict[str, object], command: list[str]
) -> dict[str, Any]:
    return {
        "command": command,
        "machine": machine,
        "plan": asdict(plan),
        "cores": asdict(cores),
        "rounds": [
            [name._asdict() | {"value": value} for name, value in round_.items()] for round_ in results.rounds
        ],
        "medians": [name._asdict() | {"value": results.median(name)} for name in results.names()],
        "budgets": [
            asdict(budget) | {"database": database, "measured": measured, "met": budget.met(measured)}
            for budget, database, measured in judged(results, plan)
        ],
        "errors": results.errors,
    }


def _table(title: str, names: list[Name], results: Results) -> Table:
    table = Table(title=title)
    table.add_column("database", no_wrap=True)
    table.add_column("", no_wrap=True)
    columns = list(dict.fromkeys(name.column for name in names if name.column != "load busy"))
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    rows = sorted(
        dict.fromkeys((name.database, name.row) for name in names), key=lambda row: DATABASES.index(row[0])
    )
    for database, row in rows:
        values = [results.median(Name(names[0].part, database, row, column)) for column in columns]
        table.add_row(database, row, *("" if value is None else readable(value) for value in values))
    return table


def _budget_table(verdicts: list[tuple[Budget, str, float]]) -> Table:
    table = Table(title="Budgets, medians of the ratios in each round")
    table.add_column("figure")
    table.add_column("database", no_wrap=True)
    for heading in ("measured", "budget", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    words = {True: "met", False: "[red]missed[/]", None: ""}
    for budget, database, measured in verdicts:
        limit = ""
        if budget.limit is not None:
            limit = f"{'at least' if budget.at_least else 'at most'} {budget.limit:g}"
        table.add_row(budget.title, database, readable(measured), limit, words[budget.met(measured)])
    return table


def _placement(cores: Cores) -> str:
    if cores.pinned:
        return f"Servers on core {cores.server}, load and provider on core {cores.load}; PostgreSQL on any."
    return "Server and load share the cores: this system does not pin processes, or offers one core only."


def readable(value: float) -> str:
    """A figure with three digits or all before the point."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"
