"""One, two and four processes on one PostgreSQL: nodes that serve requests, and workers.

They, the load and PostgreSQL share all cores, so what the machine has cores for is what can be seen.
"""

from contextlib import ExitStack

from benchmarks.bench import Bench, Record, record_burst
from benchmarks.databases import Storage
from benchmarks.servers import Trunkline
from benchmarks.servers.trunkline import Role

ROWS: dict[str, tuple[Role, ...]] = {
    "1: all in one": ("all",),
    "2: API, worker": ("api", "worker"),
    "4: 2 API, 2 workers": ("api", "api", "worker", "worker"),
}
CONNECTIONS = 8
"""Of the platform: one node at a time processes a connection's webhooks."""


def measure(bench: Bench, storage: Storage, record: Record) -> None:
    for row, roles in ROWS.items():
        with bench.place(storage) as place, ExitStack() as stack:
            servers = [Trunkline(place, role, number) for number, role in enumerate(roles)]
            for server in servers:
                stack.enter_context(server.running(None))
            entries = [server for server, role in zip(servers, roles, strict=True) if role != "worker"]
            first = entries[0]
            paths = [first.new_webhook_path(f"bench-{n}") for n in range(CONNECTIONS)]
            targets = [(entries[n % len(entries)].port, path) for n, path in enumerate(paths)]
            bench.burst(first, targets, "warmup", connections=64, seconds=bench.plan.warm_up)
            burst = bench.burst(first, targets, "burst", connections=64, seconds=bench.plan.seconds)
            record_burst(record, row, burst)
