"""One process answers requests, another works: what is seen of them together."""

from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.otlp import Collected, collecting
from tests.support.platform import eventually
from tests.support.wire import refused_url

from .relay import PLANTED, relaying_apart, seconds_to_stop
from .test_log import lines
from .test_traces import NO_HURRY, _no_variables, ask_for, number  # noqa: F401 - a fixture


def services(spans: list[Collected]) -> list[tuple[str, str]]:
    return [(span.name, span.resource["service.name"]) for span in spans]


async def test_two_processes_are_one_platform_to_whoever_watches(
    tmp_path: Path, empty_postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collecting() as collector, httpx2.AsyncClient(trust_env=False) as there:
        ask_for(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, **NO_HURRY)
        async with relaying_apart(
            tmp_path, empty_postgres, log_format="json", log_level="debug", action_lifetime=2.5
        ) as relay:
            assert relay.worker is not None
            elsewhere = await relay.connected_to(refused_url())
            retried = await relay.act("put_message", connection=elsewhere, wait=0)
            good = await relay.webhook(id="1")
            [event] = await relay.events_of(good)
            raised = await relay.webhook(fault="raise")
            done = await relay.act()
            lost = await relay.act(fault="reset after effect")
            polled = await relay.polled()
            retried = await eventually(
                lambda: relay.get(f"/api/v1/actions/{retried['id']}"), lambda a: a["state"] == "failed"
            )
            processes = (relay.process, relay.worker)
            api, worker = [samples((await there.get(f"{p.url}/metrics")).text) for p in processes]
            statuses = {path: (await there.get(relay.worker.url + path)).status_code for path in PATHS}
            for process in processes:
                await seconds_to_stop(process)
            with pytest.raises(httpx2.ConnectError):
                await there.get(f"{relay.worker.url}/healthz")

    receive, process = collector.trace(good)
    assert services([receive, process]) == [("webhook receive", "api"), ("webhook process", "worker")]
    assert process.parent == receive.span == good[-16:]
    assert process.attributes["trunkline.event.ids"] == [event]
    request, attempt, exchange = collector.trace(done["id"])
    assert services([request, attempt, exchange]) == [
        ("action request", "api"),
        ("action attempt", "worker"),
        ("POST", "worker"),
    ]
    assert (attempt.parent, exchange.parent) == (request.span, attempt.span)
    assert [span.failed for span in collector.trace(lost["id"])] == [False, True, True]
    request, *later = collector.trace(retried["id"])
    attempts = sorted((span for span in later if span.name == "action attempt"), key=number)
    assert [number(span) for span in attempts] == [a["number"] for a in retried["attempts"]]
    assert len(attempts) > 1, "one span for each try"
    assert {span.parent for span in attempts} == {request.span}
    assert {span.resource["service.name"] for span in later} == {"worker"}
    assert services(collector.trace(polled)) == [("webhook process", "worker")]

    assert statuses == PATHS
    acknowledged = "trunkline_webhook_acknowledgement_seconds_count"
    assert (api[acknowledged], worker[acknowledged]) == (2, 0)
    processed = "trunkline_webhooks_processed_total integration=relay"
    assert (api[processed], worker[processed]) == (0, 3)  # both connections poll
    failed = "trunkline_action_attempts_failed_total code={} integration=relay"
    assert worker[failed.format("provider_unavailable")] == 1
    assert worker[failed.format("not_sent")] == len(attempts)
    assert worker["trunkline_action_retries_total integration=relay"] == len(attempts) - 1
    assert worker["trunkline_provider_request_seconds_count integration=relay status=2xx"] >= 1
    assert (
        worker["trunkline_provider_request_seconds_count integration=relay status=none"] == len(attempts) + 1
    )
    assert not any("attempts" in name or "provider" in name for name in api), "it tries nothing"
    for page in (api, worker):
        assert page["trunkline_up_storage"] == page["trunkline_actions state=unknown"] == 1

    token = relay.connection["webhook_url"].rsplit("/", 1)[-1]
    logs = [process.log_text() for process in processes]
    for text in (*logs, *(str(body) for body in collector.raw), str(api), str(worker)):
        assert [secret for secret in (*PLANTED, token, empty_postgres) if secret in text] == []
    said = [line for text in logs for line in lines(text)]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in said)
    [told] = [line for line in said if line["event"] == "webhook_handler_failed"]
    assert (told["webhook"], told["trace_id"]) == (raised, raised.removeprefix("whk_"))


PATHS = {"/healthz": 200, "/readyz": 200, "/metrics": 200, "/api/v1/events": 404, "/": 404}
"""What the worker's port has."""


def samples(page: str) -> dict[str, float]:
    return {
        sample.name
        + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
