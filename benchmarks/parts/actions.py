"""Actions per second: asked for through the API, carried out at a provider that does them at once.

The provider is a process of its own on the load's core. What its calls cost alone, made by the same HTTP
client on the servers' core with nothing stored, is what the platform is compared with.
"""

import http.client
import subprocess
import sys
from contextlib import closing

from benchmarks.bench import Bench, Record, send
from benchmarks.databases import Storage
from benchmarks.load import HOST, LoadSpec
from benchmarks.machine import pin
from benchmarks.servers import BenchmarkError, Provider, Trunkline
from benchmarks.servers.base import ROOT

CALLERS = 64
"""Clients of the API that ask for one action after the other."""

_AT_ONCE = 32
"""Calls at the same time: what the platform's setting action_concurrency is by default."""
_WARM_UP = 50


def measure(bench: Bench, storage: Storage, record: Record) -> None:
    with bench.place(storage) as place:
        provider, platform = Provider(place), Trunkline(place)
        with provider.running(bench.cores.load):
            record("calls alone", "actions/s", _calls_alone(bench, provider))
            before = _done(provider)
            with bench.running(platform):
                _measure(bench, provider, platform, before, record)


def _measure(bench: Bench, provider: Provider, platform: Trunkline, before: int, record: Record) -> None:
    count = bench.plan.actions
    connection = platform.api.call(
        "POST",
        "/api/v1/connections",
        expected=201,
        body={"integration": "bench_courier", "settings": {"base_url": f"http://{HOST}:{provider.port}"}},
    )["id"]
    target = (platform.port, f"/api/v1/connections/{connection}/actions")
    for run, wanted in (("warmup", _WARM_UP), ("actions", count)):
        load = send(LoadSpec([target], run, min(CALLERS, wanted), 60.0, wanted, platform.api.key))
        ended = platform.api.wait_finished(connection)
    record("trunkline", "accepted /s", load.rate)
    record("trunkline", "p50 ms", load.p50_ms)
    record("trunkline", "p99 ms", load.p99_ms)
    record("trunkline", "actions/s", load.acknowledged / (ended - load.first_sent))
    if (done := _done(provider) - before) != count + _WARM_UP:
        raise BenchmarkError(f"The provider was called {done} times for {count + _WARM_UP} actions.")


def _calls_alone(bench: Bench, provider: Provider) -> float:
    url = f"http://{HOST}:{provider.port}/parcels"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.apps.calls", url, str(bench.plan.actions), str(_AT_ONCE)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        timeout=120,
        check=True,
        preexec_fn=lambda: pin(0, bench.cores.server),
    )
    return float(done.stdout)


def _done(provider: Provider) -> int:
    with closing(http.client.HTTPConnection(HOST, provider.port, timeout=10)) as connection:
        connection.request("GET", "/")
        return int(connection.getresponse().read())
