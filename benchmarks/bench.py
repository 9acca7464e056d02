"""What all parts of the benchmark use: places, servers that run, bursts, and where the figures go."""

import http.client
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .databases import Place, Storage
from .load import LoadResult, LoadSpec, send_load
from .machine import Cores
from .servers import BenchmarkError, Server

FAULTS = (BenchmarkError, OSError, http.client.HTTPException, subprocess.SubprocessError)


@dataclass(frozen=True)
class Plan:
    """How much to measure.

    seconds         of a burst that budgets compare
    other_seconds   of a burst at the servers or with the connections that none does
    warm_up         seconds of a burst that does not count
    actions         that are asked for
    fan_in          connections of the platform that send at the same time
    stored          webhooks stored when the cost of one more is measured; the first is compared with
    costed          webhooks that are sent for that
    backlog_mb      of webhooks that wait when the platform starts; 0: not measured
    """

    rounds: int
    seconds: float
    other_seconds: float
    warm_up: float
    connections: tuple[int, ...]
    actions: int
    fan_in: int
    stored: tuple[int, ...]
    costed: int
    backlog_mb: int


TINY = Plan(
    rounds=1, seconds=0.3, other_seconds=0.2, warm_up=0.1, connections=(4,), actions=20, fan_in=5,
    stored=(50, 200), costed=50, backlog_mb=0,
)  # fmt: skip
QUICK = Plan(
    rounds=1, seconds=1.5, other_seconds=0.7, warm_up=0.3, connections=(64, 1, 256), actions=400, fan_in=200,
    stored=(1_000, 20_000), costed=2_000, backlog_mb=0,
)  # fmt: skip
DEFAULT = Plan(
    rounds=3, seconds=2.0, other_seconds=0.8, warm_up=0.3, connections=(64, 1, 256), actions=1_000,
    fan_in=1_000, stored=(1_000, 100_000), costed=4_000, backlog_mb=0,
)  # fmt: skip
LONG = Plan(
    rounds=5, seconds=10.0, other_seconds=3.0, warm_up=0.5, connections=(64, 1, 256), actions=5_000,
    fan_in=1_000, stored=(1_000, 100_000, 1_000_000), costed=10_000, backlog_mb=1_024,
)  # fmt: skip
MOST_REQUESTS = 2_000_000


class Name(NamedTuple):
    """What a figure is of. In a table of the part, `column` of the row `database`, `row`."""

    part: str
    database: str
    row: str
    column: str


Record = Callable[[str, str, float], None]
"""Keeps the figure of a row and a column."""


@dataclass
class Results:
    """The figures of every round, and what went wrong."""

    rounds: list[dict[Name, float]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def median(self, name: Name) -> float | None:
        return _median(round_.get(name) for round_ in self.rounds)

    def ratio(self, name: Name, other: Name) -> float | None:
        """The median of the ratios within each round, which noise that lasts longer cancels out of."""
        pairs = [(round_.get(name), round_.get(other)) for round_ in self.rounds]
        return _median(a / b for a, b in pairs if a is not None and b)

    def names(self) -> list[Name]:
        """All that there are figures of, in the order in which they came first."""
        return list(dict.fromkeys(name for round_ in self.rounds for name in round_))


@dataclass(frozen=True)
class Burst:
    """What a burst gave. `end_to_end` is events read per second, None where nothing can be read."""

    load: LoadResult
    end_to_end: float | None


@dataclass
class Bench:
    """One run of the benchmark."""

    plan: Plan
    cores: Cores
    folder: Path
    results: Results = field(default_factory=Results)
    round: int = 0

    @contextmanager
    def place(self, storage: Storage) -> Iterator[Place]:
        """A place that is removed at the end."""
        with tempfile.TemporaryDirectory(dir=self.folder, prefix=f"{storage.name}-") as folder:
            place = storage.place(Path(folder))
            try:
                yield place
            finally:
                storage.forget(place)

    @contextmanager
    def running(self, server: Server) -> Iterator[None]:
        """Runs a server on the servers' core."""
        with server.running(self.cores.server):
            yield

    def in_turn(self, kinds: Sequence[type[Server]]) -> list[type[Server]]:
        """In every other round the other way round: nobody always comes first."""
        return list(kinds[:: -1 if self.round % 2 else 1])

    def burst(
        self,
        server: Server,
        targets: list[tuple[int, str]],
        run: str,
        *,
        connections: int,
        seconds: float,
        requests: int = MOST_REQUESTS,
    ) -> Burst:
        """Sends webhooks and waits until all of them can be read. Raises BenchmarkError if one is missing."""
        load = send(LoadSpec(targets, run, connections, seconds, requests))
        readable_at = server.wait_readable(run, load)
        if readable_at is None:
            return Burst(load, None)
        return Burst(load, load.acknowledged / (readable_at - load.first_sent))

    def start(self, server: Server) -> list[tuple[int, str]]:
        """Sets up where the load goes, and warms the server up; returns the targets."""
        targets = [(server.port, server.webhook_path())]
        self.burst(server, targets, "warmup", connections=min(64, max(self.plan.connections)),
                   seconds=self.plan.warm_up)  # fmt: skip
        return targets


def send(spec: LoadSpec) -> LoadResult:
    """Sends the load. Raises BenchmarkError if a request failed."""
    load = send_load(spec)
    if load.unacknowledged:
        raise BenchmarkError(
            f"{len(load.unacknowledged)} of {load.sent} requests failed, for example: {load.failures[0]}"
        )
    if not load.acknowledged:
        raise BenchmarkError("No request was answered.")
    return load


def record_burst(record: Record, row: str, burst: Burst) -> None:
    record(row, "req/s", burst.load.rate)
    record(row, "p50 ms", burst.load.p50_ms)
    record(row, "p99 ms", burst.load.p99_ms)
    record(row, "max ms", burst.load.max_ms)
    if burst.end_to_end is not None:
        record(row, "end to end /s", burst.end_to_end)
    record(row, "load busy", burst.load.busy)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
