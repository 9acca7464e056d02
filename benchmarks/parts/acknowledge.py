"""Acknowledgements per second and their latency, beside the floors; then from there to the feed; memory and
start-up on the way."""

import time

from benchmarks.bench import Bench, Record, record_burst
from benchmarks.databases import Storage
from benchmarks.machine import memory_mb
from benchmarks.servers import CommitPerRequest, GroupCommit, Noop, Server, Trunkline

COMPARED = 64
"""Connections at which the budgets compare."""

_IDLE_SECONDS = 0.5


def measure(bench: Bench, storage: Storage, record: Record) -> None:
    # The bare server and the platform are neighbours: the machine changes least between what is compared.
    kinds: list[type[Server]] = [CommitPerRequest, GroupCommit, Trunkline]
    if storage.name == "sqlite":
        kinds.insert(0, Noop)
    for kind in bench.in_turn(kinds):
        with bench.place(storage) as place:
            server = kind(place)
            with bench.running(server):
                _measure(bench, server, record)


def _measure(bench: Bench, server: Server, record: Record) -> None:
    name, plan = server.name, bench.plan
    if isinstance(server, Trunkline):
        record("trunkline", "ready s", server.startup_seconds)
        time.sleep(_IDLE_SECONDS)
        if memory := memory_mb(server.pid):
            record("trunkline", "idle MB", memory[0])
    targets = bench.start(server)
    for connections in plan.connections:
        compared = connections in (COMPARED, max(plan.connections)) and server.name in _COMPARED_SERVERS
        burst = bench.burst(
            server,
            targets,
            f"c{connections}",
            connections=connections,
            seconds=plan.seconds if compared else plan.other_seconds,
        )
        record_burst(record, f"{name}, {connections}", burst)
        if isinstance(server, Noop):
            break
    if isinstance(server, Trunkline) and (memory := memory_mb(server.pid)):
        record("trunkline", "peak MB", memory[1])


_COMPARED_SERVERS = (GroupCommit.name, Trunkline.name)
