"""Traces as a collector gets them: from webhook to event, from request to exchange."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest
from opentelemetry.sdk.trace import TracerProvider

from app.infra import tracing
from tests.support.otlp import Collected, collecting
from tests.support.platform import eventually
from tests.support.specification import ROOT
from tests.support.wire import Exchange, refused_url, wire_server

from .relay import PLANTED, relaying, seconds_to_stop

NO_HURRY = {"OTEL_BSP_SCHEDULE_DELAY": "600000"}
"""So that what comes, comes by the flush at the end."""


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


def ask_for(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def ids(spans: list[Collected]) -> list[tuple[str, str, bool]]:
    return [(span.name, span.kind, span.failed) for span in spans]


async def test_the_way_of_webhooks_and_actions_is_one_trace_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collecting() as collector:
        ask_for(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_SERVICE_NAME="ours", **NO_HURRY)
        async with relaying(tmp_path, action_lifetime=2.5) as relay:
            elsewhere = await relay.connected_to(refused_url())
            retried = await relay.act("put_message", connection=elsewhere, wait=0)
            good = await relay.webhook(id="1")
            [event] = await relay.events_of(good)
            repeated = await relay.webhook(id="1")
            failed = await relay.webhook(fault="raise")
            fetching = await relay.webhook(fault="fetch")
            assert await relay.webhook(secret="wrong") == ""
            done = await relay.act()
            unknown = await relay.act(fault="500 after effect")
            refused = await relay.act(fault="400")
            polled = await relay.polled()
            [polled_event] = await relay.events_of(polled)
            retried = await eventually(
                lambda: relay.get(f"/api/v1/actions/{retried['id']}"), lambda a: a["state"] == "failed"
            )
            assert collector.spans == []
            await seconds_to_stop(relay.process)
    connection = relay.connection["id"]

    receive, process = collector.trace(good)
    assert ids([receive, process]) == [
        ("webhook receive", "SERVER", False),
        ("webhook process", "CONSUMER", False),
    ]
    assert (receive.parent, receive.span) == ("", good[-16:])
    assert process.parent == receive.span
    known = {
        "trunkline.webhook.id": good,
        "trunkline.integration": "relay",
        "trunkline.connection.id": connection,
    }
    assert receive.attributes == known | {"http.route": "/webhooks/{key}/{token}"}
    assert process.attributes == known | {"trunkline.event.ids": [event]}
    assert 0 < receive.seconds < 10
    assert receive.resource["service.name"] == "ours"

    assert collector.trace(repeated)[1].attributes["trunkline.event.ids"] == []
    assert ids(collector.trace(failed))[1] == ("webhook process", "CONSUMER", True)
    assert collector.trace(failed)[1].attributes["error.type"] == "connector_error"
    fetch = collector.trace(fetching)[2]
    assert (fetch.name, fetch.parent) == ("POST", collector.trace(fetching)[1].span)

    host = httpx2.URL(collector.url).host
    for action, verdict, status in (
        (done, "succeeded", 200),
        (unknown, "ambiguous", 500),
        (refused, "refused", 400),
    ):
        request, attempt, exchange = collector.trace(action["id"])
        bad = verdict != "succeeded"
        assert ids([request, attempt, exchange]) == [
            ("action request", "SERVER", False),
            ("action attempt", "INTERNAL", bad),
            ("POST", "CLIENT", bad),
        ]
        assert (request.parent, request.span) == ("", action["id"][-16:])
        assert (attempt.parent, exchange.parent) == (request.span, attempt.span)
        assert attempt.attributes["trunkline.action.id"] == action["id"]
        assert attempt.attributes["trunkline.action.type"] == "send_message"
        assert attempt.attributes["trunkline.attempt.number"] == 1
        assert attempt.attributes["trunkline.attempt.verdict"] == verdict
        assert exchange.attributes.pop("server.port") > 0
        assert exchange.attributes.pop("error.type", None) == (str(status) if bad else None)
        assert exchange.attributes == {
            "http.request.method": "POST",
            "http.response.status_code": status,
            "server.address": host,
        }

    request, *later = collector.trace(retried["id"])
    attempts = sorted((span for span in later if span.name == "action attempt"), key=number)
    assert [number(span) for span in attempts] == [a["number"] for a in retried["attempts"]]
    assert len(attempts) > 1
    assert {span.parent for span in attempts} == {request.span}
    exchanges = [span for span in later if span.name == "POST"]
    assert {span.parent for span in exchanges} == {span.span for span in attempts}
    assert {span.attributes["error.type"] for span in exchanges} == {"ConnectError"}

    [poll] = collector.trace(polled)
    assert (poll.name, poll.parent) == ("webhook process", "")
    assert poll.attributes["trunkline.event.ids"] == [polled_event]

    assert {span.name for span in collector.spans} <= {
        *("webhook receive", "webhook process", "action request", "action attempt", "POST"),
    }
    # A second item: both connections poll.
    assert len({span.trace for span in collector.spans}) == 10, "nothing else is traced"
    token = relay.connection["webhook_url"].rsplit("/", 1)[-1]
    for body in collector.raw:
        assert not any(secret.encode() in body for secret in (*PLANTED, token, "/notes", "/bot"))


def number(span: Collected) -> int:
    found: int = span.attributes["trunkline.attempt.number"]
    return found


async def test_a_trace_is_sampled_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collecting() as collector:
        ask_for(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **NO_HURRY)
        ask_for(monkeypatch, OTEL_TRACES_SAMPLER="parentbased_traceidratio", OTEL_TRACES_SAMPLER_ARG="0.5")
        async with relaying(tmp_path) as relay:
            webhooks = [await relay.webhook(id=str(number)) for number in range(12)]
            actions = [(await relay.act())["id"] for _ in range(6)]
            await seconds_to_stop(relay.process)
    whole = {identifier: len(collector.trace(identifier)) for identifier in webhooks + actions}
    assert {whole[identifier] for identifier in webhooks} <= {0, 2}
    assert {whole[identifier] for identifier in actions} <= {0, 3}
    assert 0 < sum(map(bool, whole.values())) < len(whole)


async def hangs(exchange: Exchange) -> None:
    await exchange.hang()


async def test_a_collector_that_does_not_answer_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with wire_server(hangs) as server:
        ask_for(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=server.url, OTEL_EXPORTER_OTLP_TIMEOUT="0.3")
        ask_for(monkeypatch, OTEL_BSP_SCHEDULE_DELAY="50", OTEL_BSP_MAX_QUEUE_SIZE="8")
        ask_for(monkeypatch, OTEL_BSP_MAX_EXPORT_BATCH_SIZE="4")
        async with relaying(tmp_path, log_format="json") as relay:
            for count in range(12):
                assert await relay.webhook(id=str(count))
            assert (await relay.act())["state"] == "succeeded"

            async def complaints() -> list[str]:
                return [line for line in relay.process.log_text().splitlines() if "traces_not" in line]

            await eventually(complaints, bool)
            await seconds_to_stop(relay.process)
            [said] = await complaints()  # once a minute is enough
    assert server.url not in said


async def test_a_flush_that_hangs_does_not_keep_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    class Hanging(TracerProvider):
        def shutdown(self) -> None:
            release.wait(30)

    monkeypatch.setattr(tracing, "FLUSH_SECONDS", 0.1)
    began = time.monotonic()
    await tracing.Tracing(Hanging(shutdown_on_exit=False)).stop()
    assert time.monotonic() - began < 5
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "trunkline-traces")
    release.set()


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "set"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "set"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_ENDPOINT": "set"},
        {"OTEL_TRACES_EXPORTER": "zipkin"},
    ],
)
def test_traces_are_off_unless_asked_for(variables: dict[str, str]) -> None:
    tracing.start(variables)
    assert tracing.active is None


async def test_nothing_is_exported_when_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with collecting() as collector:
        ask_for(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="10")
        ask_for(monkeypatch, OTEL_TRACES_EXPORTER="none")
        async with relaying(tmp_path) as relay:
            assert await relay.webhook(id="1")
            assert (await relay.act())["state"] == "succeeded"
            await seconds_to_stop(relay.process)
    assert collector.raw == []


def test_what_only_traces_need_is_not_even_loaded_when_off() -> None:
    code = "import sys, app.main; print(sorted(n for n in sys.modules if n.startswith('opentelemetry.')))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "opentelemetry.sdk" not in ran.stdout
    assert "opentelemetry.exporter" not in ran.stdout
