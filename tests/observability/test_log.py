"""The log as JSON: every line of it, with ids, and without anything that was entrusted to the platform."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.otlp import collecting
from tests.support.platform import eventually

from .relay import PLANTED, SIGNING, relaying, seconds_to_stop


async def test_every_line_is_json_with_ids_and_without_secrets_or_payloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=planted-token-of-the-collector")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        async with relaying(tmp_path, log_format="json", log_level="debug", public_url=True) as relay:
            await relay.webhook(id="good")
            raised = await relay.webhook(fault="raise")
            field = await relay.webhook(fault="field")
            assert await relay.webhook(secret="planted-signing-wrong") == ""
            await relay.client.post(relay.connection["webhook_url"], content=b"{" + SIGNING.encode())
            await relay.client.post("/webhooks/relay/planted-token-unknown", content=SIGNING.encode())
            assert (await relay.act(fault="raise"))["state"] == "unknown"
            assert (await relay.act(fault="reset after effect"))["state"] == "unknown"
            failed = await relay.act(fault="400")
            assert failed["state"] == "failed"
            await relay.client.post(
                f"/api/v1/connections/{relay.connection['id']}/actions",
                json={"type": "planted-payload", "payload": {"planted-payload": 1}},
                headers={"Idempotency-Key": "planted-payload-key"},
            )
            await relay.client.get("/metrics")
            await relay.client.get("/api/v1/events", params={"type": "planted-payload"})
            await relay.client.get("/api/v1/nothing/planted-payload")

            async def poll_lines() -> list[dict[str, Any]]:
                return [line for line in lines(relay.process.log_text()) if line["event"] == "poll_failed"]

            await eventually(poll_lines, bool)
            await seconds_to_stop(relay.process)
            said = lines(relay.process.log_text())
    token = relay.connection["webhook_url"].rsplit("/", 1)[-1]
    text = relay.process.log_text()
    assert [secret for secret in (*PLANTED, token, relay.process.admin_key) if secret in text] == [
        relay.process.admin_key
    ]
    assert all({"event", "level", "timestamp"} <= line.keys() for line in said)
    named = {line["event"]: line for line in said}
    assert {"webhook_handler_failed", "action_handler_failed", "poll_failed", "traces_on"} <= named.keys()
    of_webhooks = [line for line in said if line.get("event") == "webhook_handler_failed"]
    assert [line["webhook"] for line in of_webhooks] == [raised, field]
    for line in of_webhooks:
        assert line["trace_id"] == line["webhook"].removeprefix("whk_")
        assert line["connection"] == relay.connection["id"]
    assert named["action_handler_failed"]["trace_id"] == named["action_handler_failed"]["action"][4:]
    assert named["poll_failed"]["connection"] == relay.connection["id"]


def lines(text: str) -> list[dict[str, Any]]:
    """All but what the command itself prints: where it listens, and the first key."""
    return [line for line in map(json.loads, text.splitlines()) if "admin_key" not in line]
