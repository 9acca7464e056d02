"""What the platform has to reach, as ratios within one run (README.md explains them)."""

from dataclasses import dataclass

from .measure import Results


@dataclass(frozen=True)
class Budget:
    """A limit on a ratio, or on a figure itself where `other` is None."""

    title: str
    figure: str
    other: str | None
    other_figure: str
    limit: float
    at_least: bool

    def measured(self, results: Results) -> float | None:
        """What the run gave; None if a server that it takes was not measured."""
        if self.other is None:
            return results.median("trunkline", self.figure)
        return results.ratio("trunkline", self.figure, self.other, self.other_figure)

    def met(self, measured: float) -> bool:
        return measured >= self.limit if self.at_least else measured <= self.limit


BUDGETS = (
    Budget("acknowledgements / bare server", "rate", "group_commit", "rate", 0.6, at_least=True),
    Budget("acknowledgements / commit per request", "rate", "commit_per_request", "rate", 10, at_least=True),
    Budget("end to end / bare server", "end_to_end", "group_commit", "rate", 0.3, at_least=True),
    Budget("p99 / bare server's p99", "p99_ms", "group_commit", "p99_ms", 3, at_least=False),
    Budget("start until ready, seconds", "startup_seconds", None, "", 2, at_least=False),
)
