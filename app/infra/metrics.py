"""What the platform counts and times, for Prometheus: see docs/reference/metrics.md, made from this file.

Labels have few values: keys of integrations, codes of the list below, states. Never a tenant, a connection,
an id or anything that a sender chose. Finding the child that belongs to labels costs more than counting, so
a metric with labels is a function that remembers its children: `EVENTS_STORED("chat").inc()`. The two that
every webhook moves are made here and take no lock: they belong to the event loop.

What is stored is counted after the commit, by whoever ran the unit of work.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

OTHER = "other"
"""Stands for a code that only a connector knows: how many of those there are is up to it."""

CODES = frozenset(
    {
        # Refusals.
        *("certificate_elsewhere", "certificate_unusable", "credentials_differ", "credentials_malformed"),
        *("body_differs", "header_missing", "key_unavailable", "not_a_handshake", "secret_malformed"),
        *("secret_missing", "settings_unread", "signature_differs", "signature_malformed"),
        *("timestamp_old", "timestamp_unreadable", "token_differs", "topic_differs"),
        # Bodies that are not what the integration declares.
        *("brackets_unreadable", "duplicate_key", "lone_surrogate", "not_an_array", "not_an_object"),
        *("not_json", "not_multipart", "not_utf8", "not_xml", "number_out_of_range", "too_deep"),
        *("too_many_fields", "unexpected_content", "unexpected_content_type"),
        # Connectors, and what they make.
        *("connector_error", "connector_failed", "handler_timeout", "no_handler", "not_a_reply"),
        *("not_an_event", "not_storable", "payload_not_json", "poll_timeout", "reply_too_late"),
        "undeclared_event",
        # Connections that cannot be used.
        *("connection_unusable", "integration_unavailable", "not_found", "secret_unreadable"),
        "storage_unavailable",
        # Providers.
        *("authentication_failed", "not_sent", "provider_error", "provider_unavailable", "rate_limited"),
        "rejected",
        # Actions.
        *("cannot_tell", "connection_disabled", "internal_error", "interrupted", "invalid_payload"),
        "timeout",
    }
)
"""The codes that are labels. A test holds this against the code."""


@dataclass(frozen=True)
class Declared:
    """One metric as the reference shows it; `name` is what stands in a query."""

    name: str
    kind: Literal["counter", "gauge", "histogram", "info"]
    labels: tuple[str, ...]
    meaning: str


# As many series again, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]

DECLARED: list[Declared] = []
REGISTRY = CollectorRegistry()

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SLOW = (0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Bounds of histograms, in seconds."""


def code_label(code: str) -> str:
    return code if code in CODES else OTHER


def _counter(name: str, meaning: str, *labels: str) -> Callable[..., Counter]:
    DECLARED.append(Declared(f"{name}_total", "counter", labels, meaning))
    return cache(Counter(name, meaning, labels, registry=REGISTRY).labels)


def _histogram(name: str, meaning: str, buckets: Sequence[float], *labels: str) -> Callable[..., Histogram]:
    DECLARED.append(Declared(name, "histogram", labels, meaning))
    return cache(Histogram(name, meaning, labels, buckets=buckets, registry=REGISTRY).labels)


class LoopHistogram(Collector):
    """A histogram without labels, for the event loop alone."""

    def __init__(self, name: str, meaning: str, buckets: Sequence[float]) -> None:
        self._name, self._meaning, self._bounds = name, meaning, tuple(buckets)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0
        DECLARED.append(Declared(name, "histogram", (), meaning))
        REGISTRY.register(self)

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterator[Metric]:
        bounds = [*(str(bound) for bound in self._bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(self._name, self._meaning, buckets=buckets, sum_value=self._sum)


class LoopCounter(Collector):
    """A counter with one label of few values, for the event loop alone."""

    def __init__(self, name: str, meaning: str, label: str) -> None:
        self._name, self._meaning, self._label = name, meaning, label
        self._counts: defaultdict[int, int] = defaultdict(int)
        DECLARED.append(Declared(f"{name}_total", "counter", (label,), meaning))
        REGISTRY.register(self)

    def inc(self, value: int) -> None:
        self._counts[value] += 1

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._meaning, labels=[self._label])
        for value, count in self._counts.items():
            family.add_metric([str(value)], count)
        yield family


def _version() -> str:
    try:
        return version("trunkline")
    except PackageNotFoundError:  # run from its folder, not installed
        return "unknown"


ACKNOWLEDGEMENT_SECONDS = LoopHistogram(
    "trunkline_webhook_acknowledgement_seconds",
    "From a complete request to its answer, for webhooks that were stored.",
    FAST,
)
WEBHOOK_RESPONSES = LoopCounter(
    "trunkline_webhook_responses", "Answers under /webhooks/, by HTTP status.", "status"
)
WEBHOOKS_REFUSED = _counter(
    "trunkline_webhooks_refused", "Requests that were turned away, by reason.", "integration", "code"
)
WEBHOOKS_PROCESSED = _counter(
    "trunkline_webhooks_processed", "Webhooks and polled items that were processed.", "integration"
)
WEBHOOKS_FAILED = _counter(
    "trunkline_webhooks_failed",
    "Webhooks and polled items that failed, by reason; a replayed one counts again.",
    *("integration", "code"),
)
EVENTS_STORED = _counter(
    "trunkline_events_stored", "Events that were stored, repetitions not.", "integration"
)
POLLS_FAILED = _counter("trunkline_polls_failed", "Polls that failed, by reason.", "integration", "code")
ATTEMPTS = _counter(
    "trunkline_action_attempts",
    "Tries of actions, by verdict: succeeded, refused (nothing happened, never will), not_done (nothing "
    "happened, might later), ambiguous (it may have happened).",
    *("integration", "verdict"),
)
ATTEMPTS_FAILED = _counter(
    "trunkline_action_attempts_failed",
    "Tries of actions that did not succeed, by reason.",
    *("integration", "code"),
)
RETRIES = _counter(
    "trunkline_action_retries", "Tries of actions that were not their action's first.", "integration"
)
ATTEMPT_SECONDS = _histogram(
    "trunkline_action_attempt_seconds",
    "How long the connector and its provider took for one try of an action.",
    SLOW,
    "integration",
)
PROVIDER_SECONDS = _histogram(
    "trunkline_provider_request_seconds",
    "How long a provider took for one request (long polls: as long as they wait), by the first digit of its "
    "status: 2xx to 5xx; none: it gave no answer.",
    SLOW,
    *("integration", "status"),
)
ACTIONS_ENDED = _counter(
    "trunkline_actions_ended",
    "Actions that ended, by state; one that is tried again by hand counts again.",
    *("integration", "state"),
)
CONNECTIONS_PAUSED = _counter(
    "trunkline_connection_pauses",
    "Pauses that began because a provider was down several times in a row.",
    "integration",
)

Info("trunkline_build", "What runs.", registry=REGISTRY).info({"version": _version()})
DECLARED.append(Declared("trunkline_build_info", "info", ("version",), "What runs; always 1."))
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)


def show_from_the_start(integrations: Sequence[str]) -> None:
    """Lets these integrations' counters begin at 0, so that their first increase is seen as one."""
    for key in integrations:
        for counter in (WEBHOOKS_PROCESSED, EVENTS_STORED, RETRIES, CONNECTIONS_PAUSED):
            counter(key)
