"""What it costs to be watched: acknowledgements, and the processor time of a webhook from the request to the
feed, with less and with more that watches.

Rates differ by more than this from burst to burst on a machine that does something else meanwhile. The
processor time that the platform has used differs less.
"""

import http.client
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass

from benchmarks.bench import Bench, Record, record_burst
from benchmarks.databases import Place, Storage
from benchmarks.load import HOST
from benchmarks.machine import cpu_seconds
from benchmarks.servers import Collector, Trunkline

CONNECTIONS = 64
SCRAPE_SECONDS = 1.0


@dataclass(frozen=True)
class Watched:
    """One way of being watched.

    module   what is started
    sampled  share of webhooks that are traced; None: traces are off
    scraped  whether somebody asks for the metrics once a second
    """

    name: str
    module: str = "app"
    sampled: float | None = None
    scraped: bool = False


WAYS = (
    Watched("without metrics", "benchmarks.apps.unobserved"),
    Watched("as it is"),
    Watched("scraped", scraped=True),
    Watched("1 % traced", sampled=0.01),
    Watched("all traced", sampled=1.0),
)


class _Trunkline(Trunkline):
    def __init__(self, place: Place, way: Watched, collector: int | None) -> None:
        super().__init__(place)
        self._way = way
        self._collector = collector

    def command(self) -> list[str]:
        return [self._way.module if word == "app" else word for word in super().command()]

    def environment(self) -> dict[str, str]:
        if self._collector is None:
            return super().environment()
        return super().environment() | {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{HOST}:{self._collector}",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(self._way.sampled),
        }


def measure(bench: Bench, storage: Storage, record: Record) -> None:
    for way in WAYS[:: -1 if bench.round % 2 else 1]:
        with ExitStack() as stack:
            port = None
            if way.sampled is not None:
                collector = Collector(stack.enter_context(bench.place(storage)))
                stack.enter_context(collector.running(bench.cores.load))
                port = collector.port
            server = _Trunkline(stack.enter_context(bench.place(storage)), way, port)
            stack.enter_context(bench.running(server))
            targets = bench.start(server)
            if way.scraped:
                stack.enter_context(_scraping(server.port))
            before = cpu_seconds(server.pid)
            burst = bench.burst(
                server, targets, "watched", connections=CONNECTIONS, seconds=bench.plan.seconds
            )
            after = cpu_seconds(server.pid)
            record_burst(record, way.name, burst)
            if before is not None and after is not None:
                record(way.name, "CPU µs each", (after - before) * 1e6 / burst.load.acknowledged)


@contextmanager
def _scraping(port: int) -> Iterator[None]:
    """Somebody asks for the metrics meanwhile."""
    stop = threading.Event()

    def scrape() -> None:
        while not stop.wait(SCRAPE_SECONDS):
            with closing(http.client.HTTPConnection(HOST, port, timeout=30)) as connection:
                connection.request("GET", "/metrics")
                connection.getresponse().read()

    thread = threading.Thread(target=scrape, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
