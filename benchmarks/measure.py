"""Rounds of bursts: every server in every round, each time anew in an empty folder."""

import http.client
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from .load import LoadResult, LoadSpec, send_load
from .machine import Cores
from .servers import BenchmarkError, Server
from .servers.base import HOST, free_port

_WARM_UP_SECONDS = 0.5
_FAULTS = (BenchmarkError, OSError, http.client.HTTPException, subprocess.SubprocessError)


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    seconds        of a burst at the servers that the budgets compare, the bare one and the platform
    other_seconds  of a burst at the others
    requests       no burst sends more
    """

    rounds: int
    seconds: float
    other_seconds: float
    connections: int
    requests: int


@dataclass(frozen=True)
class Figures:
    """What one burst at one server gave. `end_to_end` is None where nothing can be read."""

    rate: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    acknowledged: int
    load_busy: float
    startup_seconds: float
    end_to_end: float | None


FIGURES = ("rate", "p50_ms", "p99_ms", "max_ms", "load_busy", "startup_seconds", "end_to_end")


@dataclass
class Results:
    """The figures of every round, and what went wrong."""

    rounds: list[dict[str, Figures]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def median(self, server: str, figure: str) -> float | None:
        return _median(_figure(round_, server, figure) for round_ in self.rounds)

    def ratio(self, server: str, figure: str, other: str, other_figure: str) -> float | None:
        """The median of the ratios within each round, which noise that lasts longer cancels out of."""
        pairs = [
            (_figure(round_, server, figure), _figure(round_, other, other_figure)) for round_ in self.rounds
        ]
        return _median(a / b for a, b in pairs if a is not None and b)


def measure(
    servers: list[type[Server]], plan: Plan, cores: Cores, folder: Path, report: Callable[[str], None]
) -> Results:
    """Runs the plan, every other round in reverse: nobody always comes first.

    A server that fails is reported and left out of the rounds that follow.
    """
    results = Results()
    remaining = list(servers)
    for number in range(1, plan.rounds + 1):
        round_: dict[str, Figures] = {}
        results.rounds.append(round_)
        for server in remaining[:: 1 if number % 2 else -1]:
            report(f"round {number} of {plan.rounds}: {server.name}")
            try:
                round_[server.name] = _measure_once(server, plan, cores, folder)
            except _FAULTS as error:
                notes = getattr(error, "__notes__", [])
                results.errors.append("\n".join([f"{server.name}: {error}", *notes]))
                remaining.remove(server)
    return results


def _measure_once(kind: type[Server], plan: Plan, cores: Cores, folder: Path) -> Figures:
    seconds = plan.seconds if kind.compared else plan.other_seconds
    with tempfile.TemporaryDirectory(dir=folder, prefix=f"{kind.name}-") as own:
        server = kind(Path(own), free_port())
        with server.running(cores.server):
            path = server.webhook_path()
            for run, duration in (("warmup", _WARM_UP_SECONDS), ("burst", seconds)):
                spec = LoadSpec(HOST, server.port, path, run, plan.connections, duration, plan.requests)
                load = send_load(spec)
                _check(load)
                readable_at = server.wait_readable(run, load)
    return Figures(
        rate=load.rate,
        p50_ms=load.p50_ms,
        p99_ms=load.p99_ms,
        max_ms=load.max_ms,
        acknowledged=load.acknowledged,
        load_busy=load.busy,
        startup_seconds=server.startup_seconds,
        end_to_end=None if readable_at is None else load.acknowledged / (readable_at - load.first_sent),
    )


def _check(load: LoadResult) -> None:
    if load.unacknowledged:
        raise BenchmarkError(
            f"{len(load.unacknowledged)} of {load.sent} requests failed, for example: {load.failures[0]}"
        )
    if not load.acknowledged:
        raise BenchmarkError("No request was answered.")


def _figure(round_: dict[str, Figures], server: str, figure: str) -> float | None:
    value: float | None = getattr(round_.get(server), figure, None)
    return value


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
