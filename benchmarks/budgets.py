"""What the platform has to reach, as ratios within one run (README.md explains them)."""

from dataclasses import dataclass

from .bench import Name, Plan, Results
from .parts.processes import ROWS

Cell = tuple[str, str]
"""A row and a column of a part's table."""


@dataclass(frozen=True)
class Budget:
    """A limit on the ratio of two figures, or on the first itself where there is no `other`. Without `limit`
    the ratio is only worth knowing."""

    title: str
    part: str
    cell: Cell
    other: Cell | None
    limit: float | None = None
    at_least: bool = True

    def measured(self, results: Results, database: str) -> float | None:
        """What the run gave on that database; None if it did not measure what this takes."""
        name = Name(self.part, database, *self.cell)
        if self.other is None:
            return results.median(name)
        return results.ratio(name, Name(self.part, database, *self.other))

    def met(self, measured: float) -> bool | None:
        """None if there is no limit."""
        if self.limit is None:
            return None
        return measured >= self.limit if self.at_least else measured <= self.limit


def budgets(plan: Plan) -> list[Budget]:
    """The budgets of a run with this plan."""
    at = 64 if 64 in plan.connections else plan.connections[0]
    ours, bare, usual = (f"{name}, {at}" for name in ("trunkline", "group_commit", "commit_per_request"))
    few, *many = (f"{stored} stored" for stored in plan.stored)
    one, *more = ROWS
    fan_in, alone = f"{plan.fan_in} connections", f"one, {plan.fan_in} sockets"
    return [
        Budget("acknowledgements / bare server", "acknowledge", (ours, "req/s"), (bare, "req/s"), 0.6),
        Budget("acknowledgements / commit per request", "acknowledge", (ours, "req/s"), (usual, "req/s"), 10),
        Budget(
            "p99 / bare server's p99", "acknowledge", (ours, "p99 ms"), (bare, "p99 ms"), 3, at_least=False
        ),
        Budget("end to end / bare server", "acknowledge", (ours, "end to end /s"), (bare, "req/s"), 0.3),
        Budget("start until ready, s", "acknowledge", ("trunkline", "ready s"), None, 2, at_least=False),
        *(
            Budget(
                f"cost at {row} / {few}", "stored", (row, "µs each"), (few, "µs each"), 1.25, at_least=False
            )
            for row in many
        ),
        Budget(
            "memory at its highest with a backlog, MB", "backlog", ("trunkline", "peak MB"), None, 512,
            at_least=False,
        ),
        Budget("actions / calls alone", "actions", ("trunkline", "actions/s"), ("calls alone", "actions/s")),
        Budget(f"{fan_in} / one", "fan_in", (fan_in, "end to end /s"), (alone, "end to end /s")),
        *(
            Budget(f"end to end, {row} / one", "processes", (row, "end to end /s"), (one, "end to end /s"))
            for row in more
        ),
    ]  # fmt: skip
