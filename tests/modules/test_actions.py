"""Actions: validated, durable, tried once, with an honest outcome."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from app.integrations.base import BaseIntegration
from app.integrations.errors import (
    AuthenticationFailed,
    NotSent,
    ProviderError,
    RateLimited,
    Rejected,
    Unavailable,
)
from app.integrations.http import ConnectorHttp
from app.integrations.specs import ActionSpec
from tests.support.connectors import ChatConnector, Note
from tests.support.platform import Running, running_platform
from tests.support.provider import Provider


class Scripted(BaseIntegration):
    """An action whose handler does what the test says."""

    name = "Scripted"
    key = "scripted"
    actions = [
        ActionSpec("do_it", "Does it", Note, "do_it"),
        ActionSpec("set_it", "Sets it", Note, "do_it", effect="idempotent"),
    ]
    calls: list[Note] = []
    script: Any = None

    async def do_it(self, note: Note) -> Any:
        type(self).calls.append(note)
        return await type(self).script(note)


def scripted(script: Any) -> type[Scripted]:
    return type("Scripted", (Scripted,), {"script": staticmethod(script), "calls": []})


async def connect_chat(running: Running, provider: Provider) -> str:
    connection = await running.connect(
        "chat", secrets={"token": "provider-token"}, settings={"base_url": provider.url}
    )
    return connection["id"]


async def test_an_action_is_carried_out_and_its_result_kept(tmp_path: Path) -> None:
    async with Provider.running() as provider, running_platform(tmp_path, ChatConnector) as running:
        connection = await connect_chat(running, provider)
        action = await running.act(connection, "send_note", {"text": "hello"})
        assert action["state"] == "succeeded"
        assert action["result"] == {"number": 1}
        assert action["error"] is None
        [attempt] = action["attempts"]
        assert (attempt["number"], attempt["state"], attempt["sent"], attempt["status"]) == (
            1,
            "succeeded",
            True,
            200,
        )
        assert provider.effects == [{"text": "hello", "count": 1}]
        assert provider.headers[0]["authorization"] == "Bearer provider-token"
        assert await running.get(f"/api/v1/actions/{action['id']}") == action
        assert [a["id"] for a in (await running.get("/api/v1/actions"))["items"]] == [action["id"]]


async def test_without_waiting_the_answer_is_202_with_the_address(tmp_path: Path) -> None:
    async with Provider.running() as provider, running_platform(tmp_path, ChatConnector) as running:
        connection = await connect_chat(running, provider)
        answer = await running.client.post(
            f"/api/v1/connections/{connection}/actions", json={"type": "send_note", "payload": {"text": "x"}}
        )
        assert answer.status_code == 202
        assert answer.headers["location"] == f"/api/v1/actions/{answer.json()['id']}"


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({}, "payload.text"),
        ({"text": 7}, "payload.text"),
        ({"text": "private words", "count": 0}, "payload.count"),
    ],
)
async def test_a_wrong_payload_is_422_naming_the_field(
    tmp_path: Path, payload: dict[str, Any], path: str
) -> None:
    async with running_platform(tmp_path, ChatConnector) as running:
        connection = (await running.connect("chat", secrets={"token": "t-123456"}))["id"]
        answer = await running.client.post(
            f"/api/v1/connections/{connection}/actions", json={"type": "send_note", "payload": payload}
        )
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["code"] == "invalid_payload"
        assert [p["path"] for p in problem["problems"]] == [path]
        assert "private words" not in answer.text
        assert (await running.get("/api/v1/actions"))["items"] == []


@pytest.mark.parametrize(
    "body",
    [
        b'{"type": "send_note", "payload": {"text": "\\ud800"}}',
        b'{"type": "send_note", "payload": {"text": "x", "n": NaN}}',
        b'{"type": "send_note", "payload": {"text": "x", "n": 100000000000000000000}}',
        b'{"type": "send_note", "payload": "text"}',
        b'{"type": "no_such_action", "payload": {}}',
        b'{"type": "send_note", "payload": {"text": "x"}, "extra": 1}',
        b"[]",
        b"{",
        b"\xff",
    ],
)
async def test_what_cannot_be_an_action_is_422(tmp_path: Path, body: bytes) -> None:
    async with running_platform(tmp_path, ChatConnector) as running:
        connection = (await running.connect("chat", secrets={"token": "t-123456"}))["id"]
        answer = await running.client.post(
            f"/api/v1/connections/{connection}/actions",
            content=body,
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == 422, answer.text
        assert answer.json()["remedy"]


async def test_an_idempotency_key_makes_repeating_safe(tmp_path: Path) -> None:
    async with Provider.running() as provider, running_platform(tmp_path, ChatConnector) as running:
        connection = await connect_chat(running, provider)
        answers = await asyncio.gather(
            *(running.act(connection, "send_note", {"text": "once"}, key="k1") for _ in range(10))
        )
        assert {a["id"] for a in answers} == {answers[0]["id"]}
        assert len(provider.effects) == 1
        other = await running.client.post(
            f"/api/v1/connections/{connection}/actions",
            json={"type": "send_note", "payload": {"text": "another"}},
            headers={"Idempotency-Key": "k1"},
        )
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        tenants = await running.connect(
            "chat", tenant="other", secrets={"token": "t"}, settings={"base_url": provider.url}
        )
        theirs = await running.client.post(
            f"/api/v1/connections/{tenants['id']}/actions",
            json={"type": "send_note", "payload": {"text": "theirs"}},
            headers={"Idempotency-Key": "k1", "Trunkline-Tenant": "other", "Prefer": "wait=10"},
        )
        assert theirs.json()["state"] == "succeeded"


@pytest.mark.parametrize(
    ("error", "state", "sent", "code"),
    [
        (NotSent("refused"), "failed", False, "not_sent"),
        (AuthenticationFailed("no", status=401), "failed", True, "authentication_failed"),
        (RateLimited("later", status=429, retry_after=7), "failed", True, "rate_limited"),
        (Rejected("no", status=400), "failed", True, "rejected"),
        (Unavailable("broke", status=502), "unknown", True, "provider_unavailable"),
        (RuntimeError("private words"), "unknown", None, "connector_error"),
        (KeyError("private words"), "unknown", None, "connector_error"),
    ],
)
async def test_each_error_has_its_outcome(
    tmp_path: Path, error: Exception, state: str, sent: bool | None, code: str
) -> None:
    async def fail(_: Note) -> None:
        raise error

    async with running_platform(tmp_path, scripted(fail), action_attempts=1) as running:
        connection = (await running.connect("scripted"))["id"]
        action = await running.act(connection, "do_it", {"text": "x"})
        assert (action["state"], action["error"]["code"]) == (state, code)
        [attempt] = action["attempts"]
        assert (attempt["state"], attempt["sent"]) == (state, sent)
        assert "private words" not in json.dumps(action)
        if code == "connector_error":
            assert "test_actions:" in action["error"]["message"], "it says where the connector failed"
        if isinstance(error, ProviderError):
            assert attempt["status"] == error.status


class Unspeakable(Rejected):
    """An error that cannot even say what it is."""

    code = "x" * 100

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Rejected("a\0b"), "rejected"),
        (Rejected("half \ud83d a character"), "rejected"),
        (Rejected("x" * 1_000_000), "rejected"),
        (Rejected({"a": [1]}), "rejected"),  # type: ignore[arg-type]
        (Rejected("no", status="400"), "rejected"),  # type: ignore[arg-type]
        (Rejected("no", status=10**30), "rejected"),
        (Unspeakable("no"), "rejected"),
        (RateLimited("later", retry_after=float("nan")), "rate_limited"),
        (RateLimited("later", retry_after=float("inf")), "rate_limited"),
        (RateLimited("later", retry_after=-5), "rate_limited"),
        (RateLimited("later", retry_after=1e12), "rate_limited"),
        (RateLimited("later", retry_after="7"), "rate_limited"),  # type: ignore[arg-type]
        (TimeoutError("of the connector's own"), "connector_error"),
        (ExceptionGroup("both", [Rejected("one"), ValueError("other")]), "connector_error"),
        (asyncio.CancelledError(), "connector_error"),
        (SystemExit(3), "connector_error"),
        (StopIteration(), "connector_error"),
    ],
)
async def test_whatever_a_handler_raises_ends_the_attempt(
    tmp_path: Path, error: BaseException, code: str
) -> None:
    async def fail(_: Note) -> None:
        raise error

    async with running_platform(tmp_path, scripted(fail), action_attempts=1) as running:
        connection = (await running.connect("scripted"))["id"]
        action = await running.act(connection, "do_it", {"text": "x"})
        assert action["state"] == ("unknown" if code == "connector_error" else "failed"), action
        [attempt] = action["attempts"]
        assert attempt["error"]["code"] == action["error"]["code"] == code
        assert len(action["error"]["message"]) < 600
        assert 0 <= (attempt["retry_after"] or 0) <= 86_400
        limits = await running.get(f"/api/v1/connections/{connection}/limits")
        assert limits["running"] == 0


async def test_a_secret_in_an_error_of_the_connectors_own_is_not_shown(tmp_path: Path) -> None:
    class Talkative(ChatConnector):
        def __init__(self, token: str, settings: Any, http: ConnectorHttp) -> None:
            self._token = token

        async def send_note(self, note: Note) -> Any:
            raise Rejected(f"the provider knows no token {self._token}")

    async with running_platform(tmp_path, Talkative) as running:
        connection = (await running.connect("chat", secrets={"token": "planted-secret"}))["id"]
        action = await running.act(connection, "send_note", {"text": "x"})
        assert (action["state"], action["error"]["message"]) == ("failed", "the provider knows no token ***")
        assert "planted-secret" not in json.dumps(action)


async def test_what_a_handler_leaves_running_sends_nothing_after_the_outcome(tmp_path: Path) -> None:
    """Two requests side by side: the refusal of the first is the outcome while the second is still on its way
    to be sent. It must not go out after "failed" has been said."""
    refused, left = asyncio.Event(), []

    class SideBySide(ChatConnector):
        async def send_note(self, note: Note) -> Any:
            async def later() -> None:
                left.append(asyncio.current_task())
                await refused.wait()
                await self._http.post("/notes", json=note.model_dump())

            first = self._http.post("/notes", content=b"{}", headers={"X-Fault": "400"})
            await asyncio.gather(first, later())

    async with Provider.running() as provider, running_platform(tmp_path, SideBySide) as running:
        connection = await connect_chat(running, provider)
        action = await running.act(connection, "send_note", {"text": "hello"})
        assert (action["state"], action["error"]["code"]) == ("failed", "rejected")
        refused.set()
        [error] = await asyncio.gather(*left, return_exceptions=True)
        assert isinstance(error, NotSent)
        assert provider.effects == []


async def test_a_refusal_does_not_speak_for_what_was_in_doubt_before_it(tmp_path: Path) -> None:
    class Swallowing(ChatConnector):
        async def send_note(self, note: Note) -> Any:
            try:
                return await super().send_note(note)
            except Unavailable:
                raise Rejected("It did not work.") from None

    async with Provider.running() as provider, running_platform(tmp_path, Swallowing) as running:
        connection = await connect_chat(running, provider)
        for fault in ("500 after effect", "reset after effect"):
            provider.fault = fault
            action = await running.act(connection, "send_note", {"text": "hello"})
            assert (action["state"], action["error"]["code"]) == ("unknown", "rejected")


@pytest.mark.parametrize(
    ("fault", "state", "sent", "effects"),
    [
        ("refuse", "failed", False, 0),
        ("401", "failed", True, 0),
        ("400", "failed", True, 0),
        ("429", "failed", True, 0),
        ("500 after effect", "unknown", True, 1),
        ("reset after effect", "unknown", True, 1),
        ("reset before effect", "unknown", True, 0),
    ],
)
async def test_over_a_real_wire_the_outcome_says_what_is_known(
    tmp_path: Path, fault: str, state: str, sent: bool, effects: int
) -> None:
    async with (
        Provider.running() as provider,
        running_platform(tmp_path, ChatConnector, action_attempts=1) as running,
    ):
        connection = await connect_chat(running, provider)
        if fault == "refuse":
            await provider.close()
        provider.fault = fault
        action = await running.act(connection, "send_note", {"text": "hello"})
        assert action["state"] == state, action
        assert action["attempts"][0]["sent"] is sent
        assert len(provider.effects) == effects
        assert "provider-token" not in json.dumps(action)


async def test_not_sent_does_not_count_when_something_was_sent_before_it(tmp_path: Path) -> None:
    """Two calls in one action: the first had its effect, so the second's refusal proves nothing."""
    async with Provider.running() as provider, running_platform(tmp_path / "data", ChatConnector) as _:
        pass

    class TwoCalls(ChatConnector):
        async def send_note(self, note: Note) -> Any:
            await self._http.post("/notes", json=note.model_dump())
            await self._http.bind("http://127.0.0.1:9").post("/more", json={})

    async with Provider.running() as provider, running_platform(tmp_path / "two", TwoCalls) as running:
        connection = await connect_chat(running, provider)
        action = await running.act(connection, "send_note", {"text": "hello"})
        assert (action["state"], action["error"]["code"]) == ("unknown", "not_sent")


async def test_a_handler_that_hangs_ends_unknown(tmp_path: Path) -> None:
    async def hang(_: Note) -> None:
        await asyncio.sleep(60)

    async with running_platform(tmp_path, scripted(hang), action_timeout=0.2) as running:
        connection = (await running.connect("scripted"))["id"]
        action = await running.act(connection, "do_it", {"text": "x"})
        assert (action["state"], action["error"]["code"]) == ("unknown", "timeout")


async def test_a_handler_that_ignores_its_end_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps neither its place nor the action, and what it sends later is not sent."""
    monkeypatch.setattr("app.infra.deadline.GRACE", 0.1)
    go_on, left = asyncio.Event(), []

    class Stubborn(ChatConnector):
        async def send_note(self, note: Note) -> Any:
            left.append(asyncio.current_task())
            while not go_on.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await go_on.wait()
            return await super().send_note(note)

    async with (
        Provider.running() as provider,
        running_platform(tmp_path, Stubborn, action_timeout=0.2, action_attempts=1) as running,
    ):
        connection = await connect_chat(running, provider)
        once = await running.act(connection, "send_note", {"text": "x"})
        assert (once["state"], once["error"]["code"]) == ("unknown", "timeout")
        assert (await running.get(f"/api/v1/connections/{connection}/limits"))["running"] == 0
        go_on.set()
        [error] = await asyncio.gather(*left, return_exceptions=True)
        assert isinstance(error, NotSent)
        assert provider.effects == []


@pytest.mark.parametrize(
    ("result", "shown", "warned"),
    [
        ({"a": [1, None]}, {"a": [1, None]}, False),
        (None, None, False),
        (Note(text="x"), {"text": "x", "count": 1}, False),
        (object(), None, True),
        ({1: 2}, None, True),
        ({"a": float("nan")}, None, True),
        ({"a": "\ud800"}, None, True),
        (b"bytes", None, True),
        ("x" * 2_000_000, None, True),
    ],
)
async def test_a_result_that_cannot_be_kept_is_success_with_a_warning(
    tmp_path: Path, result: Any, shown: Any, warned: bool
) -> None:
    async def answer(_: Note) -> Any:
        return result

    async with running_platform(tmp_path, scripted(answer)) as running:
        connection = (await running.connect("scripted"))["id"]
        action = await running.act(connection, "do_it", {"text": "x"})
        assert (action["state"], action["result"]) == ("succeeded", shown)
        assert bool(action["warning"]) is warned


async def test_an_unknown_action_is_resolved_or_retried_by_somebody(tmp_path: Path) -> None:
    outcomes: list[Any] = [Unavailable("broke"), Unavailable("broke"), {"done": True}]

    async def next_outcome(_: Note) -> Any:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async with running_platform(tmp_path, scripted(next_outcome)) as running:
        connection = (await running.connect("scripted"))["id"]
        first = await running.act(connection, "do_it", {"text": "x"})
        assert first["state"] == "unknown"
        path = f"/api/v1/actions/{first['id']}"
        assert (await running.client.post(f"{path}/cancel")).status_code == 409
        resolved = await running.client.post(f"{path}/resolve", json={"state": "succeeded", "note": "seen"})
        assert resolved.json()["state"] == "succeeded"
        assert "seen" in resolved.json()["warning"]
        assert (await running.client.post(f"{path}/resolve", json={"state": "failed"})).status_code == 409
        assert (await running.client.post(f"{path}/retry")).status_code == 409

        second = await running.act(connection, "do_it", {"text": "y"})
        path = f"/api/v1/actions/{second['id']}"
        assert (await running.client.post(f"{path}/retry")).status_code == 202
        from tests.support.platform import eventually

        done = await eventually(lambda: running.get(path), lambda a: a["state"] == "succeeded")
        assert [a["state"] for a in done["attempts"]] == ["unknown", "succeeded"]
        assert done["error"] is None


async def test_a_disabled_connection_takes_no_actions(tmp_path: Path) -> None:
    async def answer(_: Note) -> None:
        return None

    async with running_platform(tmp_path, scripted(answer)) as running:
        connection = (await running.connect("scripted", enabled=False))["id"]
        answered = await running.client.post(
            f"/api/v1/connections/{connection}/actions", json={"type": "do_it", "payload": {"text": "x"}}
        )
        assert (answered.status_code, answered.json()["code"]) == (409, "connection_disabled")


async def test_a_missing_secret_fails_the_action_and_says_which(tmp_path: Path) -> None:
    async with running_platform(tmp_path, ChatConnector) as running:
        connection = await running.connect("chat")
        assert (connection["state"], connection["missing_secrets"]) == ("incomplete", ["token"])
        action = await running.act(connection["id"], "send_note", {"text": "x"})
        assert (action["state"], action["error"]["code"]) == ("failed", "secret_missing")
        assert "token" in action["error"]["message"]


async def test_attempts_that_a_dead_process_left_open_end_by_effect(tmp_path: Path) -> None:
    """The process is not killed here: its traces are made to look so, and the next start finds them."""
    release = asyncio.Event()

    async def hang(_: Note) -> Any:
        await release.wait()
        return {"late": True}

    connector = scripted(hang)
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("scripted"))["id"]
        once = await running.act(connection, "do_it", {"text": "x"}, wait=0)
        idempotent = await running.act(connection, "set_it", {"text": "x"}, wait=0)
        from tests.support.platform import eventually

        for action in (once, idempotent):
            await eventually(
                lambda a=action: running.get(f"/api/v1/actions/{a['id']}"), lambda a: a["state"] == "running"
            )
        from app.modules.actions.attempts import abandon_attempts
        from app.modules.actions.schedule import Schedule

        worker = running.platform.worker
        lost = await running.platform.database.write(
            lambda session: abandon_attempts(session, worker.queue, Schedule(20, 60.0), ["run_another"])
        )
        assert lost == 2
        seen = await running.get(f"/api/v1/actions/{once['id']}")
        assert (seen["state"], seen["error"]["code"]) == ("unknown", "interrupted")
        path = f"/api/v1/actions/{idempotent['id']}"
        await eventually(lambda: running.get(path), lambda a: len(a["attempts"]) == 2)
        release.set()
        # The owner was alive after all: its own result replaces the guess, and `once` ran once.
        seen = await eventually(
            lambda: running.get(f"/api/v1/actions/{once['id']}"), lambda a: a["state"] == "succeeded"
        )
        assert seen["result"] == {"late": True}
        repeated = await eventually(
            lambda: running.get(f"/api/v1/actions/{idempotent['id']}"), lambda a: a["state"] == "succeeded"
        )
        assert len(repeated["attempts"]) == 2
        assert len(connector.calls) == 3


async def test_a_connector_that_makes_its_own_client_gets_the_same_honesty(tmp_path: Path) -> None:
    class OwnClient(ChatConnector):
        def __init__(self, token: str, settings: Any, http: ConnectorHttp) -> None:
            self._http = ConnectorHttp(settings.base_url)

        async def aclose(self) -> None:
            await self._http.aclose()

    async with Provider.running() as provider, running_platform(tmp_path, OwnClient) as running:
        connection = await connect_chat(running, provider)
        provider.fault = "reset after effect"
        action = await running.act(connection, "send_note", {"text": "hello"})
        assert (action["state"], action["attempts"][0]["sent"]) == ("unknown", True)


async def test_an_action_survives_a_clock_that_is_set_back(tmp_path: Path) -> None:
    from sqlalchemy import update

    from app.infra.clock import now_ms
    from app.modules.actions.attempts import open_attempts
    from app.modules.actions.models import ActionRow

    async def answer(_: Note) -> None:
        return None

    async with running_platform(tmp_path, scripted(answer)) as running:
        connection = (await running.connect("scripted"))["id"]
        action = await running.act(connection, "do_it", {"text": "x"})
        worker, registry = running.platform.worker, running.platform.registry

        def set_back(session: Any) -> None:
            later = now_ms() + 300
            session.execute(update(ActionRow).values(state="queued", run_at=later, finished_at=None))
            assert open_attempts(session, worker.queue, registry, [action["id"]], "run_x") == [None]

        await running.platform.database.write(set_back)
        from tests.support.platform import eventually

        done = await eventually(
            lambda: running.get(f"/api/v1/actions/{action['id']}"), lambda a: a["state"] == "succeeded"
        )
        assert len(done["attempts"]) == 2
