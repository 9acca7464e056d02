"""The load: a closed loop over keep-alive connections, in a process of its own.

`python -m benchmarks.load` reads a LoadSpec from stdin and prints a LoadResult, both as JSON. Each connection
has one request under way and sends the next as soon as the answer is complete. Signing takes place before
the clock of a request starts and costs the same for every server.
"""

import asyncio
import json
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import cast

import uvloop

from .message import action_builder, webhook_builder

HOST = "127.0.0.1"
DRAIN_SECONDS = 20.0
"""How long answers may take once no more requests are sent."""
_FAILURES_KEPT = 5


@dataclass(frozen=True)
class LoadSpec:
    """What to send, and when to stop: after `seconds` or `requests`, whichever comes first.

    targets  ports and paths; the connections are dealt out to them in turn
    api_key  set: the requests ask for actions, and this is their key. None: they are webhooks
    """

    targets: list[tuple[int, str]]
    run: str
    connections: int
    seconds: float
    requests: int
    api_key: str | None = None


@dataclass
class LoadResult:
    """What came back. Times are those of time.monotonic(), which all processes of a machine share.

    unacknowledged  numbers of the requests that got no 2xx
    failures        the first few reasons why
    busy            share of the time in which the load process itself was computing
    """

    sent: int
    acknowledged: int
    first_sent: float
    last_answered: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    busy: float
    unacknowledged: list[int] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        return self.acknowledged / (self.last_answered - self.first_sent)


class Burst:
    """The state that the connections of one burst share."""

    def __init__(self, spec: LoadSpec, loop: asyncio.AbstractEventLoop) -> None:
        self.requests = spec.requests
        self.deadline = float("inf")
        self.sent = 0
        self.active = spec.connections
        self.latencies = array("d")
        self.unacknowledged: list[int] = []
        self.failures: list[str] = []
        self.finished = loop.create_future()

    def next_number(self) -> int | None:
        """The number of the next request, or None if there is to be none."""
        if self.sent >= self.requests or time.monotonic() >= self.deadline:
            return None
        self.sent += 1
        return self.sent - 1

    def failed(self, number: int, reason: str) -> None:
        self.unacknowledged.append(number)
        if len(self.failures) < _FAILURES_KEPT:
            self.failures.append(reason)

    def retire(self) -> None:
        """One connection has nothing more to do."""
        self.active -= 1
        if self.active == 0 and not self.finished.done():
            self.finished.set_result(None)


class Connection(asyncio.Protocol):
    """One keep-alive connection: sends, waits for the whole answer, sends the next."""

    def __init__(self, burst: Burst, build: Callable[[int], bytes]) -> None:
        self._burst = burst
        self._build = build
        self._transport: asyncio.Transport
        self._number: int | None = None
        self._started = 0.0
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports do not inherit from asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)

    def send_next(self) -> None:
        self._number = self._burst.next_number()
        if self._number is None:
            self._burst.retire()
            return
        request = self._build(self._number)
        self._started = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        if self._buffer:
            data = self._buffer + data
        end = answer_length(data)
        if end is None or len(data) < end:
            self._buffer = data
            return
        self._buffer = b""
        self._burst.latencies.append(time.perf_counter() - self._started)
        if self._number is not None and data[9:10] != b"2":
            self._burst.failed(self._number, data[9:300].decode("latin-1"))
        self.send_next()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._number is not None:
            self._burst.failed(self._number, f"The server closed the connection ({exc}).")
            self._number = None
            self._burst.retire()

    def give_up(self) -> None:
        """The time for late answers is over."""
        if self._number is not None:
            self._burst.failed(self._number, f"No answer within {DRAIN_SECONDS:g} s after the burst.")
            self._number = None


def answer_length(data: bytes) -> int | None:
    """The length of the answer that `data` begins with; None while its head is incomplete."""
    head = data.find(b"\r\n\r\n") + 4
    if head < 4:
        return None
    fields = data[:head].lower()
    at = fields.find(b"\r\ncontent-length:")
    if at < 0:
        raise ValueError(f"An answer without Content-Length: {fields!r}")
    return head + int(fields[at + 17 : fields.index(b"\r\n", at + 17)])


async def run_burst(spec: LoadSpec) -> LoadResult:
    loop = asyncio.get_running_loop()
    burst = Burst(spec, loop)
    builders = [_builder(spec, port, path) for port, path in spec.targets]
    connections: list[Connection] = []
    for n in range(spec.connections):
        (port, _), build = spec.targets[n % len(spec.targets)], builders[n % len(builders)]
        made: Callable[[], Connection] = partial(Connection, burst, build)
        _, connection = await loop.create_connection(made, HOST, port)
        connections.append(connection)
    computing = time.process_time()
    first_sent = time.monotonic()
    burst.deadline = first_sent + spec.seconds
    for connection in connections:
        connection.send_next()
    await asyncio.wait([burst.finished], timeout=spec.seconds + DRAIN_SECONDS)
    last_answered = time.monotonic()
    computing = time.process_time() - computing
    for connection in connections:
        connection.give_up()
    latencies = sorted(burst.latencies) or [0.0]
    return LoadResult(
        sent=burst.sent,
        acknowledged=burst.sent - len(burst.unacknowledged),
        first_sent=first_sent,
        last_answered=last_answered,
        p50_ms=_percentile_ms(latencies, 0.50),
        p99_ms=_percentile_ms(latencies, 0.99),
        max_ms=latencies[-1] * 1000,
        busy=computing / (last_answered - first_sent),
        unacknowledged=burst.unacknowledged,
        failures=burst.failures,
    )


def _builder(spec: LoadSpec, port: int, path: str) -> Callable[[int], bytes]:
    if spec.api_key is not None:
        return action_builder(HOST, port, path, spec.run, spec.api_key)
    return webhook_builder(HOST, port, path, spec.run)


def send_load(spec: LoadSpec) -> LoadResult:
    """Runs the burst in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"],
        input=json.dumps(asdict(spec)).encode(),
        stdout=subprocess.PIPE,
        timeout=spec.seconds + 2 * DRAIN_SECONDS,
        check=True,
    )
    return LoadResult(**json.loads(done.stdout))


def _percentile_ms(ordered: list[float], share: float) -> float:
    return ordered[int(share * (len(ordered) - 1))] * 1000


if __name__ == "__main__":
    print(json.dumps(asdict(uvloop.run(run_burst(LoadSpec(**json.loads(sys.stdin.read())))))))
