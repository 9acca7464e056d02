"""The run's figures: tables for people, JSON for programs."""

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from .budgets import BUDGETS
from .machine import Cores
from .measure import FIGURES, Plan, Results
from .servers import SERVERS

_BUSY = 0.95
"""From here on the load itself may be what limits a figure."""


def print_report(console: Console, results: Results, plan: Plan, cores: Cores) -> None:
    console.print(_throughput_table(results, plan))
    console.print(_placement(cores))
    for server in SERVERS:
        busy = results.median(server, "load_busy")
        if busy is not None and busy > _BUSY:
            console.print(
                f"The load process was {busy:.0%} busy at {server}: it may be what limits the rate."
            )
    budgets = _budget_table(results)
    if budgets.row_count:
        console.print(budgets)
    for error in results.errors:
        console.print(f"ERROR {error}", style="red", markup=False, highlight=False)


def as_json(
    results: Results, plan: Plan, cores: Cores, machine: dict[str, object], command: list[str]
) -> dict[str, Any]:
    measured = [(budget, budget.measured(results)) for budget in BUDGETS]
    return {
        "command": command,
        "machine": machine,
        "plan": asdict(plan),
        "cores": asdict(cores),
        "rounds": [{name: asdict(figures) for name, figures in round_.items()} for round_ in results.rounds],
        "medians": {
            server: {figure: results.median(server, figure) for figure in FIGURES} for server in SERVERS
        },
        "budgets": [
            asdict(budget) | {"measured": value, "met": None if value is None else budget.met(value)}
            for budget, value in measured
        ],
        "errors": results.errors,
    }


def _throughput_table(results: Results, plan: Plan) -> Table:
    table = Table(title=f"Medians, {plan.connections} connections, rounds: {plan.rounds}")
    table.add_column("server", no_wrap=True)
    for heading in ("req/s", "p50 ms", "p99 ms", "max ms", "end to end /s", "ready s"):
        table.add_column(heading, justify="right")
    for server in SERVERS:
        if results.median(server, "rate") is not None:
            table.add_row(
                server,
                _number(results.median(server, "rate"), 0),
                _number(results.median(server, "p50_ms"), 2),
                _number(results.median(server, "p99_ms"), 2),
                _number(results.median(server, "max_ms"), 1),
                _number(results.median(server, "end_to_end"), 0),
                _number(results.median(server, "startup_seconds"), 2),
            )
    return table


def _budget_table(results: Results) -> Table:
    table = Table(title="Budgets, medians of the ratios in each round")
    table.add_column("budget")
    for heading in ("measured", "limit", ""):
        table.add_column(heading, justify="right")
    for budget in BUDGETS:
        measured = budget.measured(results)
        if measured is not None:
            limit = f"{'at least' if budget.at_least else 'at most'} {budget.limit:g}"
            table.add_row(
                budget.title, f"{measured:.2f}", limit, "met" if budget.met(measured) else "[red]missed[/]"
            )
    return table


def _placement(cores: Cores) -> str:
    if cores.pinned:
        return f"Server on core {cores.server}, load on core {cores.load}."
    return "Server and load share the cores: this system does not pin processes, or offers one core only."


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
