"""Webhooks of many connections at the same time, each from a sender of its own."""

from benchmarks.bench import Bench, Record, record_burst
from benchmarks.databases import Storage
from benchmarks.servers import Trunkline


def measure(bench: Bench, storage: Storage, record: Record) -> None:
    count = bench.plan.fan_in
    with bench.place(storage) as place:
        server = Trunkline(place)
        with bench.running(server):
            alone = bench.start(server)
            targets = [(server.port, server.new_webhook_path(f"bench-{n}")) for n in range(count)]
            # Once around: every connection's first webhook makes its instance, and reads its secrets.
            bench.burst(server, targets, "around", connections=count, seconds=60.0, requests=count)
            for row, to in ((f"{count} connections", targets), (f"one, {count} sockets", alone)):
                burst = bench.burst(server, to, row.split()[0], connections=count, seconds=bench.plan.seconds)
                record_burst(record, row, burst)
