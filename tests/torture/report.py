"""What a run found: a table for people, JSON for programs."""

import platform
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from .bench import Scale, Scenario, Verdict


@dataclass(frozen=True)
class Outcome:
    """A scenario that has been run."""

    scenario: Scenario
    verdicts: Sequence[Verdict]
    seconds: float

    @property
    def kept(self) -> bool:
        return all(verdict.kept for verdict in self.verdicts)


def print_report(console: Console, outcomes: Sequence[Outcome], scale: Scale, seed: int) -> None:
    seconds = sum(outcome.seconds for outcome in outcomes)
    table = Table(title=f"Torture, {scale}, seed {seed}, {seconds:.0f} s", show_lines=True)
    for heading, ratio in (
        ("scenario", None),
        ("promise", 3),
        ("what was tried", 3),
        ("figures", 3),
        ("verdict", None),
    ):
        table.add_column(heading, ratio=ratio, no_wrap=ratio is None)
    for outcome in outcomes:
        for verdict in outcome.verdicts:
            table.add_row(
                outcome.scenario.name,
                verdict.promise,
                verdict.tried,
                figures(verdict),
                "[green]kept[/]" if verdict.kept else "[red]BROKEN[/]",
            )
    console.print(table)
    for outcome in outcomes:
        for verdict in outcome.verdicts:
            for fault in verdict.faults:
                line = f"{outcome.scenario.name}: {verdict.promise}: {fault}"
                console.print(line, style="red", markup=False, highlight=False)
    broken = [outcome.scenario.name for outcome in outcomes if not outcome.kept]
    if broken:
        size = "" if scale == "short" else f" --{scale}"
        again = f"python -m tests.torture{size} --only {','.join(broken)} --seed {seed} --keep FOLDER"
        console.print(f"Again: {again}", highlight=False)
    else:
        console.print("Every promise was kept.")


def figures(verdict: Verdict) -> str:
    return ", ".join(f"{name} {_figure(value)}" for name, value in verdict.figures.items())


def _figure(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def as_json(outcomes: Sequence[Outcome], scale: Scale, seed: int) -> dict[str, Any]:
    return {
        "scale": scale,
        "seed": seed,
        "date": time.strftime("%Y-%m-%d"),
        "machine": {
            "system": platform.platform(),
            "python": platform.python_version(),
            "sqlite": sqlite3.sqlite_version,
        },
        "kept": all(outcome.kept for outcome in outcomes),
        "scenarios": [
            {
                "name": outcome.scenario.name,
                "seconds": round(outcome.seconds, 1),
                "verdicts": [asdict(verdict) | {"kept": verdict.kept} for verdict in outcome.verdicts],
            }
            for outcome in outcomes
        ],
    }  # fmt: skip
