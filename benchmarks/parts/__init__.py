"""The parts of the benchmark: what is measured, each on the databases that it makes sense on."""

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.bench import Bench, Plan, Record
from benchmarks.databases import Storage

from . import acknowledge, actions, backlog, fan_in, observing, processes, stored


@dataclass(frozen=True)
class Part:
    """`measure` records the figures of one round. Only `acknowledge` takes every round by itself: the others
    are slower to set up, and take `rounds` at most."""

    name: str
    title: str
    measure: Callable[[Bench, Storage, Record], None]
    rounds: int = 1
    databases: tuple[str, ...] = ("sqlite", "postgres")
    wanted: Callable[[Plan], bool] = lambda plan: True
    on_request: bool = False
    """Whether it is left out unless --only names it."""


PARTS = {
    part.name: part
    for part in (
        Part("acknowledge", "Acknowledgements, memory, start", acknowledge.measure, rounds=100),
        Part("actions", "Actions against an instant provider", actions.measure, rounds=3),
        Part("fan_in", "Fan-in from many connections", fan_in.measure),
        Part("stored", "Cost of one webhook when many are stored", stored.measure, rounds=2),
        Part("processes", "Several processes", processes.measure, databases=("postgres",)),
        Part("observing", "What metrics and traces cost", observing.measure, rounds=100, on_request=True),
        Part("backlog", "Start with a backlog", backlog.measure, wanted=lambda plan: plan.backlog_mb > 0),
    )
}
