"""A start with a gigabyte of webhooks that wait: how fast they are processed, and in how much memory."""

import time

from benchmarks.bench import Bench, Record
from benchmarks.databases import Storage
from benchmarks.machine import memory_mb
from benchmarks.servers import Trunkline
from benchmarks.stock import add_waiting

_TEXT = 16_000
"""Length of a body's text: between the small webhooks of the other parts and the largest."""


def measure(bench: Bench, storage: Storage, record: Record) -> None:
    with bench.place(storage) as place:
        first = Trunkline(place)
        with bench.running(first):
            target = (first.port, first.webhook_path())
            bench.burst(first, [target], "sample", connections=1, seconds=10.0, requests=1)
        ids = add_waiting(place, bench.plan.backlog_mb * 1024 * 1024, _TEXT)
        server = Trunkline(place)
        with bench.running(server):
            began = time.monotonic()
            done = server.feed.wait_for(set(ids))
            record("trunkline", "webhooks", len(ids))
            record("trunkline", "webhooks/s", len(ids) / (done - began + server.startup_seconds))
            if memory := memory_mb(server.pid):
                record("trunkline", "peak MB", memory[1])
