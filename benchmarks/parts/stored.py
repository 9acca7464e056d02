"""What one more webhook costs, from the request to the feed, when few and when many are stored.

The many are copies of one that came the ordinary way, written straight into the database.
"""

from benchmarks.bench import Bench, Record
from benchmarks.databases import Storage
from benchmarks.servers import Trunkline
from benchmarks.stock import add_processed


def measure(bench: Bench, storage: Storage, record: Record) -> None:
    plan = bench.plan
    with bench.place(storage) as place:
        first = Trunkline(place)
        with bench.running(first):
            path = first.webhook_path()
            bench.burst(first, [(first.port, path)], "sample", connections=1, seconds=10.0, requests=1)
        have = 1
        for stored in plan.stored:
            newest = add_processed(place, stored - have)
            row = f"{stored} stored"
            record(row, "bytes each", storage.size(place) / stored)
            server = Trunkline(place)
            with bench.running(server):
                server.feed.cursor = str(newest)
                targets = [(server.port, path)]
                bench.burst(server, targets, f"warm{stored}", connections=64, seconds=9.0, requests=500)
                logged = storage.logged()
                burst = bench.burst(
                    server, targets, f"cost{stored}", connections=64, seconds=60.0, requests=plan.costed
                )
                if logged is not None:
                    record(row, "log bytes each", ((storage.logged() or 0) - logged) / plan.costed)
            assert burst.end_to_end is not None
            record(row, "µs each", 1_000_000 / burst.end_to_end)
            record(row, "p99 ms", burst.load.p99_ms)
            record(row, "ready s", server.startup_seconds)
            have = stored + 500 + plan.costed
