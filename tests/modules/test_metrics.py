"""`/metrics`: what happens moves the samples that say so, and no others."""

import ast
import asyncio
import hashlib
import hmac
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from app.errors import StartupError, StorageUnavailable
from app.infra import metrics
from app.infra.metrics import CODES, DECLARED
from app.integrations import errors
from app.integrations.errors import AuthenticationFailed, InboundError, Refused
from app.integrations.specs import ActionSpec, PollSpec
from app.modules.monitoring.service import Depths, read_depths
from tests.support.connectors import ChatConnector, Note, OpenConnector
from tests.support.platform import Running, eventually, running_platform
from tests.support.provider import Provider
from tests.support.specification import ROOT
from tests.support.wire import refused_url

SECRET = "s-1234567"

Samples = dict[str, float]


async def scrape(running: Running) -> Samples:
    """Every sample, by name and labels as they stand in the page, without those of the process."""
    running.platform.app._following._fresh_until = 0.0  # type: ignore[attr-defined]
    answer = await running.client.get("/metrics", headers={"Authorization": ""})
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        sample.name
        + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.name.startswith("trunkline_")
    }


def moved(before: Samples, after: Samples) -> Samples:
    """What changed, without the times that are never twice the same."""
    names = before.keys() | after.keys()
    changes = {name: after.get(name, 0.0) - before.get(name, 0.0) for name in names}
    return {
        name: change
        for name, change in changes.items()
        if change and "_bucket" not in name and not name.split()[0].endswith("seconds_sum")
    }


def signed(body: bytes, secret: str = SECRET) -> dict[str, str]:
    return {"X-Signature": "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}


async def connect_chat(running: Running, **more: Any) -> dict[str, Any]:
    return await running.connect("chat", secrets={"token": "t-1234567", "signing_secret": SECRET}, **more)


class Chat(ChatConnector):
    """Can say no in words of its own."""

    async def handle_webhook(self, payload: dict[str, Any]) -> Any:
        if reason := payload.get("reason"):
            raise InboundError(reason, "no")
        return await super().handle_webhook(payload)

    async def put_note(self, note: Note) -> Any:
        return await self.send_note(note)


async def test_a_webhook_moves_its_samples_and_no_others(tmp_path: Path) -> None:
    async with running_platform(tmp_path, Chat) as running:
        connection = await connect_chat(running)
        before = await scrape(running)
        body = b'{"id": "1", "text": "x"}'
        for _ in range(2):  # the second is a repetition, and makes no event
            answer = await running.client.post(connection["webhook_url"], content=body, headers=signed(body))
            assert answer.status_code == 200
        await running.settled()
        after = await scrape(running)
    assert moved(before, after) == {
        "trunkline_webhook_acknowledgement_seconds_count": 2,
        "trunkline_webhook_responses_total status=200": 2,
        "trunkline_webhooks_processed_total integration=chat": 2,
        "trunkline_events_stored_total integration=chat": 1,
    }
    name = "trunkline_webhook_acknowledgement_seconds"
    assert 0 < after[f"{name}_sum"] - before[f"{name}_sum"] < 10
    assert after[f"{name}_bucket le=+Inf"] == after[f"{name}_count"]
    bounds = [after[key] for key in after if key.startswith(f"{name}_bucket")]
    assert bounds == sorted(bounds), "buckets are cumulative"


async def test_what_is_refused_is_counted_by_integration_and_code(tmp_path: Path) -> None:
    async with running_platform(tmp_path, Chat) as running:
        connection = await connect_chat(running)
        before = await scrape(running)
        for headers in (signed(b"{}", "wrong"), {}):
            answer = await running.client.post(connection["webhook_url"], content=b"{}", headers=headers)
            assert answer.status_code == 401
        await running.client.post("/webhooks/chat/unknown", content=b"{}")
        await running.client.put(connection["webhook_url"], content=b"{}")
        after = await scrape(running)
    assert moved(before, after) == {
        "trunkline_webhook_responses_total status=401": 2,
        "trunkline_webhook_responses_total status=404": 1,
        "trunkline_webhook_responses_total status=405": 1,
        "trunkline_webhooks_refused_total code=signature_differs integration=chat": 1,
        "trunkline_webhooks_refused_total code=header_missing integration=chat": 1,
    }


async def test_failed_webhooks_are_counted_by_known_codes(tmp_path: Path) -> None:
    async with running_platform(tmp_path, Chat) as running:
        connection = await connect_chat(running)
        before = await scrape(running)
        for body in (b"{}", b"not json", b'{"reason": "not_json"}', b'{"reason": "of the sender"}'):
            await running.client.post(connection["webhook_url"], content=body, headers=signed(body))
        webhooks = await running.settled()
        assert len(webhooks) == 4
        after = await scrape(running)
        await running.client.post(f"/api/v1/webhooks/{webhooks[0]['id']}/replay")
        await running.settled()
        again = await scrape(running)
    changes = moved(before, after)
    assert changes.pop("trunkline_webhook_acknowledgement_seconds_count") == 4
    assert changes.pop("trunkline_webhook_responses_total status=200") == 4
    assert changes == {
        "trunkline_webhooks_failed_total code=connector_error integration=chat": 1,
        "trunkline_webhooks_failed_total code=not_json integration=chat": 2,
        "trunkline_webhooks_failed_total code=other integration=chat": 1,
        "trunkline_webhooks state=failed": 4,
    }
    assert moved(after, again) == {"trunkline_webhooks_failed_total code=other integration=chat": 1}


async def test_a_fault_of_ours_is_counted_as_500(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        connection = await running.connect("open")
        before = await scrape(running)
        monkeypatch.setattr(
            running.platform.app, "_judge", lambda *_: (_ for _ in ()).throw(ZeroDivisionError())
        )
        assert (await running.client.post(connection["webhook_url"], content=b"{}")).status_code == 500
        assert moved(before, await scrape(running)) == {"trunkline_webhook_responses_total status=500": 1}


@pytest.mark.parametrize(
    ("fault", "verdict", "state", "status", "code"),
    [
        ("", "succeeded", "succeeded", "2xx", ""),
        ("400", "refused", "failed", "4xx", "rejected"),
        ("500 after effect", "ambiguous", "unknown", "5xx", "provider_unavailable"),
        ("reset after effect", "ambiguous", "unknown", "none", "provider_unavailable"),
    ],
)
async def test_an_action_that_ends_is_counted(
    tmp_path: Path, fault: str, verdict: str, state: str, status: str, code: str
) -> None:
    async with Provider.running() as provider, running_platform(tmp_path, Chat) as running:
        provider.fault = fault
        connection = await connect_chat(running, settings={"base_url": provider.url})
        before = await scrape(running)
        ended = await running.act(connection["id"], "send_note", {"text": "x"})
        assert ended["state"] == state
        name = f"trunkline_action_attempts_total integration=chat verdict={verdict}"
        after = await eventually(lambda: scrape(running), lambda s: s.get(name, 0) > before.get(name, 0))
    more = {"trunkline_actions state=unknown": 1} if state == "unknown" else {}
    if code:
        more[f"trunkline_action_attempts_failed_total code={code} integration=chat"] = 1
    assert moved(before, after) == more | {
        f"trunkline_provider_request_seconds_count integration=chat status={status}": 1,
        name: 1,
        "trunkline_action_attempt_seconds_count integration=chat": 1,
        f"trunkline_actions_ended_total integration=chat state={state}": 1,
    }


async def test_an_action_that_waits_is_a_gauge_and_its_cancellation_an_end(tmp_path: Path) -> None:
    async with running_platform(tmp_path, Chat) as running:
        connection = await connect_chat(running, settings={"base_url": refused_url()})
        before = await scrape(running)
        later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        path = f"/api/v1/connections/{connection['id']}/actions"
        request = {"type": "send_note", "payload": {"text": "x"}, "run_at": later}
        scheduled = (await running.client.post(path, json=request)).json()
        waiting = await scrape(running)
        assert moved(before, waiting) == {"trunkline_actions state=queued": 1}
        assert waiting["trunkline_action_oldest_due_seconds"] == 0, "it is not due yet"
        await running.client.post(f"/api/v1/actions/{scheduled['id']}/cancel")
        assert moved(before, await scrape(running)) == {
            "trunkline_actions_ended_total integration=chat state=cancelled": 1
        }


async def test_a_provider_that_is_down_shows_as_attempts_and_one_pause(tmp_path: Path) -> None:
    class Hasty(Chat):
        actions = [ActionSpec("put_note", "Sets the note", Note, "put_note", effect="idempotent")]

    async with running_platform(tmp_path, Hasty) as running:
        connection = await connect_chat(running, settings={"base_url": refused_url()})
        before = await scrape(running)
        path = f"/api/v1/connections/{connection['id']}/actions"
        for _ in range(6):
            await running.client.post(path, json={"type": "put_note", "payload": {"text": "x"}})
        name = "trunkline_connections_paused"
        after = await eventually(lambda: scrape(running), lambda s: s[name] > before[name])
        due = await eventually(lambda: scrape(running), lambda s: s["trunkline_actions state=running"] == 0)
    changes = moved(before, due)
    assert changes["trunkline_connection_pauses_total integration=chat"] == 1
    tries = changes["trunkline_action_attempts_total integration=chat verdict=not_done"]
    assert tries >= 5
    assert changes["trunkline_action_attempts_failed_total code=not_sent integration=chat"] == tries
    assert changes["trunkline_provider_request_seconds_count integration=chat status=none"] == tries
    assert changes["trunkline_actions state=queued"] == 6
    assert not any("ended" in name for name in changes), "all of them are tried again"
    assert after[name] == 1


async def test_tries_after_the_first_are_counted_as_retries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.modules.actions.schedule.FIRST_PAUSE", 0.05)
    async with Provider.running() as provider, running_platform(tmp_path, Chat) as running:
        provider.fault = "reset after effect"
        connection = await connect_chat(running, settings={"base_url": provider.url})
        before = await scrape(running)
        name = "trunkline_action_retries_total integration=chat"
        path = f"/api/v1/connections/{connection['id']}/actions"
        made = (await running.client.post(path, json={"type": "put_note", "payload": {"text": "x"}})).json()
        await eventually(lambda: scrape(running), lambda s: s[name] > before[name])
        provider.fault = ""
        good = "trunkline_action_attempts_total integration=chat verdict=succeeded"
        after = await eventually(lambda: scrape(running), lambda s: s.get(good, 0) > before.get(good, 0))
        ended = await running.get(f"/api/v1/actions/{made['id']}")
    changes = moved(before, after)
    failed = "trunkline_action_attempts_failed_total code=provider_unavailable integration=chat"
    assert changes[name] == changes[failed] == len(ended["attempts"]) - 1


async def test_polls_are_counted_when_they_bring_something_and_when_they_fail(tmp_path: Path) -> None:
    class Polled(OpenConnector):
        key = "polled"
        polls = [PollSpec("things", every=0.02, handler="ask")]
        fault = True

        async def ask(self, cursor: str | None) -> tuple[list[dict[str, Any]], str | None]:
            if type(self).fault:
                raise AuthenticationFailed("no")
            return ([] if cursor else [{"id": "1"}, {"id": "2"}]), "1"

    async with running_platform(tmp_path, Polled) as running:
        before = await scrape(running)
        connection = await running.connect("polled")
        name = "trunkline_polls_failed_total code=authentication_failed integration=polled"
        failing = await eventually(
            lambda: scrape(running), lambda s: s.get(name, 0) and s["trunkline_polls_failing"]
        )
        assert moved(before, failing).keys() == {name, "trunkline_polls_failing"}
        Polled.fault = False
        await running.client.patch(f"/api/v1/connections/{connection['id']}", json={"name": "mended"})
        await running.feed_of(2)
        after = await eventually(lambda: scrape(running), lambda s: not s["trunkline_polls_failing"])
    changes = moved(before, after)
    changes.pop(name)
    assert changes == {
        "trunkline_webhooks_processed_total integration=polled": 2,
        "trunkline_events_stored_total integration=polled": 2,
    }


async def test_a_backlog_shows_how_many_wait_and_for_how_long(tmp_path: Path) -> None:
    gate = asyncio.Event()

    class Slow(OpenConnector):
        async def handle_webhook(self, payload: dict[str, Any]) -> Any:
            await gate.wait()
            return await super().handle_webhook(payload)

    async with running_platform(tmp_path, Slow) as running:
        connection = await running.connect("open")
        for number in range(5):
            await running.client.post(connection["webhook_url"], json={"n": number})
        await asyncio.sleep(0.3)
        # A busy machine may need longer than a scrape waits, which then tells nothing of the storage.
        stuck = await eventually(
            lambda: scrape(running), lambda s: s.get("trunkline_webhooks state=waiting") == 5
        )
        assert 0.3 <= stuck["trunkline_webhook_oldest_waiting_seconds"] < 30
        gate.set()
        await running.settled()
        free = await scrape(running)
        assert free["trunkline_webhooks state=waiting"] == 0
        assert free["trunkline_webhook_oldest_waiting_seconds"] == 0


class Undone(Exception):
    """Ends a unit of work, so that nothing of it remains."""


async def test_what_waits_is_read_by_indexes_of_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, Any]] = []
    depths: list[Depths] = []
    missing: list[set[str]] = []

    def unit(session: Session) -> None:
        fill(session)
        connection = session.connection()
        sqlite = connection.dialect.name == "sqlite"

        def note(*told: Any) -> None:
            seen.append((told[2], told[3]))

        event.listen(connection, "before_cursor_execute", note)
        depths.append(read_depths(session, 2_000_000))
        event.remove(connection, "before_cursor_execute", note)

        def unused() -> set[str]:
            """Indexes that no plan names; fails if one reads what does not wait."""
            used: set[str] = set()
            for statement, parameters in seen:
                explain = f"{'EXPLAIN QUERY PLAN' if sqlite else 'EXPLAIN'} {statement}"
                explain += f" -- {len(missing)}"  # or a statement that is kept prepared tells its old plan
                rows = connection.exec_driver_sql(explain, parameters).all()
                plan = "\n".join(str(row[-1]) for row in rows)
                assert not re.search(r"Seq Scan on (webhooks|actions)\b", plan), plan
                assert not re.search(r"SCAN (webhooks|actions|w)\b(?! USING)", plan), plan
                used |= set(re.findall(r"ix_(?:webhooks|actions)_\w+", plan))
            assert used <= OF_WHAT_WAITS | {"ix_actions_deadline"}, used
            return OF_WHAT_WAITS - used

        missing.append(unused())
        connection.exec_driver_sql("DROP INDEX ix_actions_due")
        missing.append(unused())
        monkeypatch.setattr("app.modules.monitoring.service.MOST", 7)
        depths.append(read_depths(session, 2_000_000))
        raise Undone

    async with running_platform(tmp_path, OpenConnector) as running:
        with pytest.raises(Undone):
            await running.platform.database.write(unit)
    assert missing == [set(), {"ix_actions_due"}], "it would see an index that is missing"
    full, capped = depths
    assert (full.webhooks_waiting, full.webhooks_failed) == (2000, 20)
    assert (full.actions_queued, full.actions_running, full.actions_unknown) == (2000, 0, 20)
    assert (full.oldest_webhook, full.oldest_action) == (2000 - 18.001, 2000 - 998.001)
    assert (capped.webhooks_waiting, capped.actions_queued) == (7, 7), "counting ends somewhere"


OF_WHAT_WAITS = {
    *("ix_webhooks_waiting", "ix_webhooks_failed"),
    *("ix_actions_due", "ix_actions_running", "ix_actions_unknown"),
}


def fill(session: Session) -> None:
    """20,000 webhooks of 50 connections and as many actions of 200 tenants, of which a tenth waits."""
    if session.get_bind().dialect.name == "sqlite":
        body = "zeroblob(200)"
        numbers = (
            "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 20000)"
        )
        source = "numbers"
    else:
        body, numbers, source = (
            "convert_to(repeat('x', 200), 'UTF8')",
            "",
            "generate_series(1, 20000) AS g (n)",
        )
    state = "CASE WHEN n <= 20 THEN '{}' WHEN n <= 18000 THEN '{}' ELSE '{}' END"
    webhooks = {
        "id": "'whk_' || n",
        "tenant": "'t' || n % 200",
        "connection_id": "'con_' || (20000 - n) % 50",
        "integration": "'open'",
        "source": "'webhook'",
        "method": "'POST'",
        "query": "''",
        "headers": "'[]'",
        "body": body,
        "received_at": "n",
        "state": state.format("failed", "processed", "received"),
        "tries": "0",
    }
    actions = {
        "id": "'act_' || n",
        "tenant": "'t' || n % 200",
        "connection_id": "'con_' || n % 50",
        "integration": "'open'",
        "type": "'x'",
        "payload": "'{}'",
        "effect": "'once'",
        "state": state.format("unknown", "succeeded", "queued"),
        "attempts": "0",
        "run_at": "1018001 - n",
        "created_at": "0",
        "schedule_start": "0",
        "ambiguous": "false",
        "deadline": "3000000",
    }
    for table, columns in (("webhooks", webhooks), ("actions", actions)):
        session.execute(
            text(
                f"INSERT INTO {table} ({', '.join(columns)}) {numbers} "
                f"SELECT {', '.join(columns.values())} FROM {source}"
            )
        )
        session.execute(text(f"ANALYZE {table}"))


async def test_metrics_can_have_a_port_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_platform(tmp_path, OpenConnector, metrics_port=0) as running:
        monitor = running.platform.core.monitor
        assert monitor is not None
        assert (await running.client.get("/metrics")).status_code == 404, "and nowhere else"
        async with httpx2.AsyncClient(base_url=monitor.url, trust_env=False) as there:
            assert "trunkline_up_storage 1" in (await there.get("/metrics")).text
            assert (await there.get("/healthz")).json() == {"status": "ok"}
            assert (await there.head("/healthz")).content == b""
            assert (await there.get("/readyz")).json() == {"status": "ready"}
            for path in ("/api/v1/events", "/webhooks/open/token", "/docs", "/metrics/"):
                assert (await there.get(path)).status_code == 404

            async def full() -> None:
                raise StorageUnavailable("The disk is full.")

            monkeypatch.setattr(running.platform.database, "check", full)
            answer = await there.get("/readyz")
            assert answer.status_code == 503
            assert answer.json() == {"status": "storage_unavailable", "reason": "The disk is full."}
            assert (await there.get("/healthz")).status_code == 200
        port = httpx2.URL(monitor.url).port
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{monitor.url}/healthz", trust_env=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        with pytest.raises(StartupError) as refused:
            async with running_platform(tmp_path, OpenConnector, metrics_port=port):
                pass
    assert "TRUNKLINE_METRICS_PORT or --metrics-port" in refused.value.remedy
    async with running_platform(tmp_path, OpenConnector) as running:
        assert running.platform.core.monitor is None, "and what could not start holds nothing"


async def test_without_storage_it_answers_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        connection = await running.connect("open")
        assert (await scrape(running))["trunkline_up_storage"] == 1
        database = running.platform.database

        async def full(*_: object) -> None:
            raise StorageUnavailable("The disk is full.")

        with monkeypatch.context() as patch:
            patch.setattr(database, "check", full)
            patch.setattr(running.platform.app, "_append", full)
            assert (await running.client.post(connection["webhook_url"], json={})).status_code == 503
            down = await scrape(running)
            assert down["trunkline_up_storage"] == 0
            assert "trunkline_webhooks state=waiting" not in down, "nobody knows"
            assert down["trunkline_webhook_responses_total status=503"] >= 1
        assert (await scrape(running))["trunkline_up_storage"] == 1


async def test_storage_that_hangs_holds_one_question_and_no_scrape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    back = asyncio.Event()

    async def hangs() -> None:
        nonlocal asked
        asked += 1
        await back.wait()

    monkeypatch.setattr("app.modules.monitoring.endpoint.PATIENCE", 0.05)
    async with running_platform(tmp_path, OpenConnector) as running:
        monkeypatch.setattr(running.platform.database, "check", hangs)
        for _ in range(3):
            assert (await scrape(running))["trunkline_up_storage"] == 0
        assert asked == 1
        back.set()
        await eventually(lambda: scrape(running), lambda s: s["trunkline_up_storage"] == 1)


async def test_many_scrapes_ask_the_database_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        database, asked = running.platform.database, 0
        check = database.check

        async def counted() -> None:
            nonlocal asked
            asked += 1
            await check()

        monkeypatch.setattr(database, "check", counted)
        answers = await asyncio.gather(*(running.client.get("/metrics") for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert asked == 1


async def test_the_endpoint_speaks_both_formats_and_takes_only_questions(tmp_path: Path) -> None:
    async with running_platform(tmp_path, OpenConnector) as running:
        wanted = {"Accept": "application/openmetrics-text; version=1.0.0"}
        answer = await running.client.get("/metrics", headers=wanted)
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")
        assert (await running.client.head("/metrics")).content == b""
        assert (await running.client.post("/metrics")).status_code == 405
        assert (await running.client.get("/metrics/")).status_code == 404


async def test_labels_name_no_tenant_connection_or_sender(tmp_path: Path) -> None:
    async with running_platform(tmp_path, Chat) as running:
        # The process may have run other tests, with connectors of theirs.
        before = _integrations((await running.client.get("/metrics")).text)
        connection = await running.connect(
            "chat", tenant="acme-corp", name="mine", secrets={"token": "t-1", "signing_secret": SECRET}
        )
        body = b'{"reason": "marker-of-the-sender"}'
        await running.client.post(connection["webhook_url"], content=body, headers=signed(body))
        await running.client.post(connection["webhook_url"], content=body)
        await running.client.post("/webhooks/invented/invented-token", content=body)
        await eventually(lambda: scrape(running), lambda s: s["trunkline_webhooks state=waiting"] == 0)
        page = (await running.client.get("/metrics")).text
    token = connection["webhook_url"].rsplit("/", 1)[-1]
    for secret in ("acme-corp", connection["id"], token, "marker-of-the-sender", "invented"):
        assert secret not in page
    assert _integrations(page) - before <= {"chat"}
    names = {declared.name for declared in DECLARED}
    for family in text_string_to_metric_families(page):
        if not family.name.startswith(("python_", "process_")):
            assert {family.name, f"{family.name}_total", f"{family.name}_info"} & names, family.name
        for sample in family.samples:
            assert sample.labels.get("code", "other") in CODES | {"other"}


def _integrations(page: str) -> set[str]:
    return {
        sample.labels["integration"]
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if "integration" in sample.labels
    }


async def test_each_integration_begins_at_zero(tmp_path: Path) -> None:
    class Fresh(OpenConnector):
        key = "fresh"

    async with running_platform(tmp_path, Fresh) as running:
        samples = await scrape(running)
    assert samples["trunkline_webhooks_processed_total integration=fresh"] == 0
    assert samples["trunkline_events_stored_total integration=fresh"] == 0


def test_codes_are_those_of_the_code() -> None:
    used = set(_codes()) | {error.code for error in errors.ProviderError.__subclasses__()}
    used |= {errors.ProviderError.code, StorageUnavailable.code, "not_found", "connection_unusable"}
    assert used - CODES == set(), "Add it to CODES in app/infra/metrics.py."
    assert CODES - used == set(), "CODES in app/infra/metrics.py names codes that are gone."


def _codes() -> Iterator[str]:
    """Codes of refusals, failures and polls that the platform itself gives."""
    makers = {"Refused", "KeyUnavailable", "InvalidBody", "UnhandledWebhook", "InboundError", "Failure"}
    modules = ROOT / "app" / "modules"
    places = [p for p in (ROOT / "app" / "integrations").rglob("*.py") if "connectors" not in p.parts]
    places += [*(modules / "webhooks").glob("*.py"), *(modules / "polling").glob("*.py")]
    places += [modules / "integrations" / "instances.py", modules / "actions" / "runner.py"]
    for path in places:
        source = path.read_text()
        for call in (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)):
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            given = call.args[:1] if name in makers or name == "__init__" else []
            given += call.args[1:2] if name in ("_unsent", "_ambiguous") else []
            given += [k.value for k in call.keywords if k.arg == "code" and "Conn" in name]
            for node in given:
                code = node.value if isinstance(node, ast.Constant) else None
                if isinstance(code, str) and re.fullmatch(r"[a-z_0-9]+", code):
                    yield code
        yield from re.findall(r'code, message = "(\w+)"', source)


def test_a_code_that_nobody_knows_is_other() -> None:
    assert metrics.code_label("signature_differs") == "signature_differs"
    assert metrics.code_label(Refused("whatever-a-sender-said", "no").code) == "other"
