"""Actions over time: tried again where that is safe, scheduled, ended at a deadline, asked about first."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.integrations.base import BaseIntegration
from app.integrations.errors import AuthenticationFailed, NotSent, RateLimited, Rejected, Unavailable
from app.integrations.http import current_attempt
from app.integrations.models import Applied, CannotTell, NotApplied
from app.integrations.specs import ActionSpec
from app.modules.actions.schedule import Schedule
from tests.support.connectors import ChatConnector, Note
from tests.support.platform import Running, eventually, running_platform
from tests.support.provider import Provider

Script = Callable[[int], Any]


class Told(BaseIntegration):
    """Does what the test says at each call, and keeps the keys that it was called with."""

    name = "Told"
    key = "told"
    actions = [
        ActionSpec("do_once", "Does it", Note, "do_it"),
        ActionSpec("set_it", "Sets it", Note, "do_it", effect="idempotent"),
        ActionSpec("check_it", "Does it, and can be asked", Note, "do_it", effect="checkable", probe="ask"),
        ActionSpec("read_it", "Reads it", Note, "do_it", reads=True),
    ]
    script: Script
    answers: list[Any]
    keys: list[str]
    asked: int

    async def do_it(self, note: Note) -> Any:
        attempt = current_attempt.get()
        assert attempt is not None
        cls = type(self)
        cls.keys.append(attempt.key)
        outcome = cls.script(len(cls.keys))
        if isinstance(outcome, Awaitable):
            outcome = await outcome
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def ask(self, note: Note) -> Any:
        cls = type(self)
        cls.asked += 1
        answer = cls.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def told(script: Script, *answers: Any) -> type[Told]:
    return type(
        "Told", (Told,), {"script": staticmethod(script), "answers": list(answers), "keys": [], "asked": 0}
    )


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.modules.actions.schedule.FIRST_PAUSE", 0.05)
    monkeypatch.setattr("app.modules.actions.schedule.AFTER_RETRY_AFTER", 0.05)
    monkeypatch.setattr("app.modules.actions.gates.FIRST_BREAK", 0.4)


async def ended(running: Running, action: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = await eventually(
        lambda: running.get(f"/api/v1/actions/{action['id']}"),
        lambda a: a["state"] not in ("queued", "running"),
    )
    return found


def first_fails(error: Exception, times: int = 1) -> Script:
    return lambda call: error if call <= times else {"call": call}


@pytest.mark.parametrize("action_type", ["do_once", "set_it", "check_it"])
@pytest.mark.parametrize("error", [NotSent("refused"), RateLimited("later", status=429)])
async def test_what_provably_did_not_happen_is_tried_again(
    tmp_path: Path, action_type: str, error: Exception
) -> None:
    connector = told(first_fails(error, 3))
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("told"))["id"]
        action = await running.act(connection, action_type, {"text": "x"})
        assert (action["state"], action["result"]) == ("succeeded", {"call": 4})
        assert [a["state"] for a in action["attempts"]] == ["failed"] * 3 + ["succeeded"]
        assert set(connector.keys) == {action["id"]}
        assert connector.asked == 0
        assert action["error"] is None


@pytest.mark.parametrize(
    "error",
    [Rejected("no", status=400), AuthenticationFailed("no", status=401), NotSent("url", hopeless=True)],
)
async def test_what_is_refused_for_good_is_not(tmp_path: Path, error: Exception) -> None:
    connector = told(first_fails(error))
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("told"))["id"]
        action = await running.act(connection, "set_it", {"text": "x"})
        assert (action["state"], len(connector.keys)) == ("failed", 1)


async def test_once_is_not_repeated_when_it_may_have_happened(tmp_path: Path) -> None:
    connector = told(first_fails(Unavailable("broke", status=502)))
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("told"))["id"]
        action = await running.act(connection, "do_once", {"text": "x"})
        await asyncio.sleep(0.2)
        assert (action["state"], len(connector.keys)) == ("unknown", 1)


@pytest.mark.parametrize("error", [Unavailable("broke", status=502), RuntimeError("bug")])
async def test_idempotent_is_repeated_with_the_same_key(tmp_path: Path, error: Exception) -> None:
    connector = told(first_fails(error, 2))
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("told"))["id"]
        action = await running.act(connection, "set_it", {"text": "x"})
        assert [a["state"] for a in action["attempts"]] == ["unknown", "unknown", "succeeded"]
        assert connector.keys == [action["id"]] * 3


async def test_idempotent_over_a_real_wire_has_its_effects_under_one_key(tmp_path: Path) -> None:
    async with Provider.running() as provider, running_platform(tmp_path, ChatConnector) as running:
        connection = (
            await running.connect("chat", secrets={"token": "t-1234"}, settings={"base_url": provider.url})
        )["id"]
        provider.fault = "reset after effect"
        action = await running.act(connection, "put_note", {"text": "x"}, wait=0)
        await eventually(
            lambda: running.get(f"/api/v1/actions/{action['id']}"), lambda a: len(a["attempts"]) > 1
        )
        provider.fault = ""
        assert (await ended(running, action))["state"] == "succeeded"


async def test_a_try_that_may_have_happened_is_never_called_failed(tmp_path: Path) -> None:
    """The first try may have had its effect, so the refusal of the second proves nothing."""
    connector = told(lambda call: Unavailable("broke") if call == 1 else Rejected("no", status=409))
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("told"))["id"]
        action = await running.act(connection, "set_it", {"text": "x"})
        assert (action["state"], action["error"]["code"]) == ("unknown", "rejected")


@pytest.mark.parametrize(
    ("action_type", "error", "state"),
    [
        ("do_once", NotSent("refused"), "failed"),
        ("set_it", Unavailable("broke"), "unknown"),
        ("read_it", Unavailable("broke"), "failed"),
        ("read_it", RuntimeError("bug"), "failed"),
    ],
)
async def test_the_schedule_ends(tmp_path: Path, action_type: str, error: Exception, state: str) -> None:
    connector = told(lambda _: error)
    async with running_platform(tmp_path, connector, action_attempts=3) as running:
        connection = (await running.connect("told"))["id"]
        action = await running.act(connection, action_type, {"text": "x"})
        assert (action["state"], len(action["attempts"])) == (state, 3)
        assert "3 tries" in action["warning"]
        assert action["error"]["code"]
        again = await running.client.post(f"/api/v1/actions/{action['id']}/retry")
        assert again.status_code == 202
        action = await ended(running, action)
        assert len(action["attempts"]) == 6, "somebody's retry begins a schedule of its own"


async def test_retry_after_is_obeyed_by_the_whole_connection(tmp_path: Path) -> None:
    began: list[float] = []

    def script(call: int) -> Any:
        began.append(time.monotonic())
        return RateLimited("later", status=429, retry_after=0.7) if call == 1 else {"call": call}

    async with running_platform(tmp_path, told(script)) as running:
        connection = (await running.connect("told"))["id"]
        first = await running.act(connection, "do_once", {"text": "x"}, wait=0)
        await eventually(lambda: running.get(f"/api/v1/actions/{first['id']}"), lambda a: a["attempts"])
        limits = await eventually(
            lambda: running.get(f"/api/v1/connections/{connection}/limits"), lambda g: g["state"] == "paused"
        )
        assert limits["reason"] == "rate_limited"
        second = await running.act(connection, "do_once", {"text": "y"})
        assert second["state"] == "succeeded"
        assert (await ended(running, first))["state"] == "succeeded"
        assert min(began[1:]) - began[0] >= 0.65
        assert second["attempts"][0]["number"] == 1, "waiting is not trying"


@pytest.mark.parametrize("happened", [True, False])
async def test_checkable_asks_the_provider_first(tmp_path: Path, happened: bool) -> None:
    answer = Applied({"found": True}) if happened else NotApplied()
    connector = told(first_fails(Unavailable("broke")), CannotTell(), Unavailable("down"), answer)
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("told"))["id"]
        action = await running.act(connection, "check_it", {"text": "x"})
        assert action["state"] == "succeeded"
        assert connector.asked == 3
        assert len(connector.keys) == (1 if happened else 2)
        assert action["result"] == ({"found": True} if happened else {"call": 2})
        assert [a["error"]["code"] for a in action["attempts"][1:3]] == [
            "cannot_tell",
            "provider_unavailable",
        ]


async def test_checkable_that_cannot_be_told_ends_unknown(tmp_path: Path) -> None:
    connector = told(first_fails(Unavailable("broke")), *[CannotTell()] * 10)
    async with running_platform(tmp_path, connector, action_attempts=4) as running:
        connection = (await running.connect("told"))["id"]
        action = await running.act(connection, "check_it", {"text": "x"})
        assert (action["state"], len(connector.keys), connector.asked) == ("unknown", 1, 3)


async def test_after_not_applied_a_refusal_is_a_failure(tmp_path: Path) -> None:
    connector = told(lambda call: Unavailable("broke") if call == 1 else Rejected("no"), NotApplied())
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("told"))["id"]
        action = await running.act(connection, "check_it", {"text": "x"})
        assert action["state"] == "failed"


async def test_an_answer_that_is_none_is_no_answer(tmp_path: Path) -> None:
    connector = told(first_fails(Unavailable("broke")), None, True, NotApplied())
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("told"))["id"]
        action = await running.act(connection, "check_it", {"text": "x"})
        assert action["state"] == "succeeded"
        assert action["attempts"][1]["error"]["code"] == "connector_error"


def at(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


async def request(running: Running, connection: str, **body: Any) -> Any:
    return await running.client.post(
        f"/api/v1/connections/{connection}/actions",
        json={"type": "do_once", "payload": {"text": "x"}, **body},
    )


async def test_a_scheduled_action_runs_when_it_is_due(tmp_path: Path) -> None:
    connector = told(lambda call: {"done_at": time.time()})
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("told"))["id"]
        cancelled = (await request(running, connection, run_at=at(3.0))).json()
        action = (await request(running, connection, run_at=at(3.5))).json()
        assert (action["state"], action["waiting"]) == ("queued", "time")
        answer = await running.client.post(f"/api/v1/actions/{cancelled['id']}/cancel")
        assert answer.json()["state"] == "cancelled"
        done = await ended(running, action)
        assert done["state"] == "succeeded"
        assert done["result"]["done_at"] >= datetime.fromisoformat(action["run_at"]).timestamp()
        assert connector.keys == [action["id"]]


async def test_a_scheduled_action_outlives_a_restart(tmp_path: Path) -> None:
    connector = told(lambda call: {"call": call})
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("told"))["id"]
        action = (await request(running, connection, run_at=at(1.0))).json()
    async with running_platform(tmp_path, connector) as running:
        assert (await ended(running, action))["state"] == "succeeded"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"deadline": at(-60)}, "deadline_passed"),
        ({"run_at": at(60), "deadline": at(30)}, "deadline_passed"),
        ({"run_at": "tomorrow"}, None),
        ({"run_at": "2026-11-22T10:00:00"}, None),
        ({"run_at": 1_900_000_000}, None),
        ({"run_at": "5"}, None),
        ({"run_at": "9999-12-31T23:59:59-12:00"}, None),
        ({"deadline": "9999-12-31T23:59:59-12:00"}, None),
        ({"run_at": "0001-01-01T00:00:00+14:00"}, None),
        ({"run_at": "2030-02-30T00:00:00Z"}, None),
        ({"run_at": "2030-01-01T00:00:00Z", "deadline": "2030-01-01T00:00:00.0004Z"}, "deadline_passed"),
    ],
)
async def test_times_that_make_no_sense_are_422(
    tmp_path: Path, body: dict[str, Any], code: str | None
) -> None:
    async with running_platform(tmp_path, told(lambda _: None)) as running:
        connection = (await running.connect("told"))["id"]
        answer = await request(running, connection, **body)
        assert answer.status_code == 422, answer.text
        assert code is None or answer.json()["code"] == code
        if body == {"run_at": "2026-11-22T10:00:00"}:
            assert "with its time zone, such as" in answer.text


async def test_the_last_moment_that_can_be_written_can_be_shown(tmp_path: Path) -> None:
    async with running_platform(tmp_path, told(lambda _: None)) as running:
        connection = (await running.connect("told"))["id"]
        answer = await request(running, connection, run_at="9999-12-31T23:59:59.999999Z")
        assert answer.status_code == 202, answer.text
        [shown] = (await running.get("/api/v1/actions"))["items"]
        assert (shown["run_at"][:4], shown["deadline"][:4]) == ("9999", "9999")


def test_a_retry_after_of_nothing_does_not_use_the_tries_up() -> None:
    schedule = Schedule(attempts=20, lifetime=60.0)
    longest = {wish: max(schedule.pause(10, wish) or 0.0 for _ in range(100)) for wish in (None, 0.0, 3.0)}
    assert longest[0.0] > 5.0, "as long as without a wish"
    assert longest[None] > 5.0
    assert 3.0 <= longest[3.0] <= 3.1
    assert schedule.pause(20, 0.0) is None


@pytest.mark.parametrize(
    ("outcome", "state"),
    [
        (NotSent("refused"), "cancelled"),
        (Rejected("no", status=400), "failed"),
        (Unavailable("broke"), "unknown"),
        ({"late": True}, "succeeded"),
    ],
)
async def test_what_was_cancelled_is_not_taken_up_again_by_a_late_word(
    tmp_path: Path, outcome: Any, state: str
) -> None:
    """Its owner was thought dead, then somebody cancelled it, then the owner says what it knows."""
    from app.modules.actions.attempts import abandon_attempts
    from app.modules.actions.service import cancel_action, get_action

    release = asyncio.Event()

    async def hold() -> Any:
        await release.wait()
        return outcome

    connector = told(lambda _: hold())
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("told"))["id"]
        action = await running.act(connection, "set_it", {"text": "x"}, wait=0)
        path, worker = f"/api/v1/actions/{action['id']}", running.platform.worker
        await eventually(lambda: running.get(path), lambda a: a["state"] == "running")

        def give_up_and_cancel(session: Any) -> None:
            abandon_attempts(session, worker.queue, Schedule(20, 60.0), ["run_another"])
            cancel_action(session, get_action(session, "default", action["id"], hold=True))

        await running.platform.database.write(give_up_and_cancel)
        assert (await running.get(path))["state"] == "unknown"
        release.set()
        await eventually(
            lambda: running.get(path),
            lambda a: a["attempts"][0]["error"] is None or a["attempts"][0]["error"]["code"] != "interrupted",
        )
        await asyncio.sleep(0.2)
        assert (await running.get(path))["state"] == state
        assert len(connector.keys) == 1


async def test_what_ends_the_process_each_time_is_not_tried_for_ever(tmp_path: Path) -> None:
    from app.modules.actions.attempts import abandon_attempts

    hang = asyncio.Event()

    async with running_platform(tmp_path, told(lambda _: hang.wait())) as running:
        connection = (await running.connect("told"))["id"]
        action = await running.act(connection, "set_it", {"text": "x"}, wait=0)
        path, worker = f"/api/v1/actions/{action['id']}", running.platform.worker
        for tries in (1, 2, 3):
            await eventually(
                lambda: running.get(path),
                lambda a, n=tries: a["state"] == "running" and len(a["attempts"]) == n,
            )
            await running.platform.database.write(
                lambda s: abandon_attempts(s, worker.queue, Schedule(3, 60.0), ["run_another"])
            )
        action = await running.get(path)
        assert (action["state"], action["error"]["code"]) == ("unknown", "interrupted")
        assert "3 tries" in action["warning"]


@pytest.mark.parametrize(
    ("action_type", "error", "state"),
    [("do_once", NotSent("refused"), "failed"), ("set_it", Unavailable("broke"), "unknown")],
)
async def test_no_try_begins_after_the_deadline(
    tmp_path: Path, action_type: str, error: Exception, state: str
) -> None:
    connector = told(lambda _: error)
    async with running_platform(tmp_path, connector, action_attempts=1000) as running:
        connection = (await running.connect("told"))["id"]
        answer = await request(running, connection, type=action_type, deadline=at(2.0))
        action = await ended(running, answer.json())
        assert action["state"] == state
        assert "deadline" in action["warning"]
        assert all(a["started_at"] < action["deadline"] for a in action["attempts"])


async def test_what_waits_for_a_slot_ends_at_its_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.modules.actions.runner.SWEEP_SECONDS", 0.1)
    release = asyncio.Event()

    async def hold() -> dict[str, Any]:
        await release.wait()
        return {}

    async with running_platform(tmp_path, told(lambda _: hold())) as running:
        connection = (await running.connect("told"))["id"]
        await running.client.put(f"/api/v1/connections/{connection}/limits", json={"concurrency": 1})
        first = await running.act(connection, "do_once", {"text": "x"}, wait=0)
        await eventually(
            lambda: running.get(f"/api/v1/actions/{first['id']}"), lambda a: a["state"] == "running"
        )
        second = (await request(running, connection, deadline=at(0.5))).json()
        second = await ended(running, second)
        assert (second["state"], second["error"]["code"]) == ("failed", "deadline_passed")
        assert second["attempts"] == []
        release.set()
        assert (await ended(running, first))["state"] == "succeeded"


async def test_cancelling_what_may_have_happened_ends_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.modules.actions.schedule.Schedule.pause", lambda *_: 60.0)
    async with running_platform(tmp_path, told(lambda _: Unavailable("broke"))) as running:
        connection = (await running.connect("told"))["id"]
        action = await running.act(connection, "set_it", {"text": "x"}, wait=0)
        path = f"/api/v1/actions/{action['id']}"
        await eventually(lambda: running.get(path), lambda a: a["state"] == "queued" and a["attempts"])
        cancelled = (await running.client.post(f"{path}/cancel")).json()
        assert cancelled["state"] == "unknown"
        assert "may have" in cancelled["warning"]
        resolved = await running.client.post(f"{path}/resolve", json={"state": "failed"})
        assert resolved.json()["state"] == "failed"


async def test_two_steps_of_which_the_first_had_its_effect(tmp_path: Path) -> None:
    """The provider refuses the second request: the first one has happened all the same."""

    class TwoSteps(ChatConnector):
        async def send_note(self, note: Note) -> Any:
            await self._http.post("/notes", json=note.model_dump(), effect=False if note.count == 2 else None)
            raise Rejected("the second step") if note.count > 2 else await self._refused()

        async def _refused(self) -> Exception:
            try:
                await self._http.post("/notes", content=b"{}", headers={"X-Fault": "400"})
            except Rejected as error:
                return error
            raise AssertionError

    async with Provider.running() as provider, running_platform(tmp_path, TwoSteps) as running:
        connection = (
            await running.connect("chat", secrets={"token": "t-1234"}, settings={"base_url": provider.url})
        )["id"]
        first = await running.act(connection, "send_note", {"text": "x", "count": 1})
        assert (first["state"], first["error"]["code"]) == ("unknown", "rejected")
        second = await running.act(connection, "send_note", {"text": "x", "count": 2})
        assert second["state"] == "failed", "the connector has said that the first step changes nothing"
        third = await running.act(connection, "send_note", {"text": "x", "count": 3})
        assert third["state"] == "failed", "the error speaks of the last exchange"
