"""How fast a connection's actions go: slots, rate, and the pause while its provider is down."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.integrations.base import BaseIntegration
from app.integrations.errors import Rejected, Unavailable
from app.integrations.specs import ActionSpec, Limits
from tests.support.connectors import Note
from tests.support.platform import Running, eventually, running_platform


class Paced(BaseIntegration):
    """Notes when each call began, and how many were under way at once."""

    name = "Paced"
    key = "paced"
    limits = Limits(concurrency=3)
    actions = [
        ActionSpec("do_it", "Does it", Note, "do_it"),
        ActionSpec("set_it", "Sets it", Note, "do_it", effect="idempotent"),
    ]
    takes = 0.02
    began: list[float]
    now = 0
    most = 0
    outcome: Callable[[], Exception | None]

    async def do_it(self, note: Note) -> Any:
        cls = type(self)
        cls.began.append(time.monotonic())
        cls.now += 1
        cls.most = max(cls.most, cls.now)
        try:
            await asyncio.sleep(cls.takes)
        finally:
            cls.now -= 1
        if (error := cls.outcome()) is not None:
            raise error
        return {}


def paced(**more: Any) -> type[Paced]:
    return type("Paced", (Paced,), {"began": [], "outcome": staticmethod(lambda: None), **more})


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.modules.actions.schedule.FIRST_PAUSE", 0.02)
    monkeypatch.setattr("app.modules.actions.gates.FIRST_BREAK", 0.5)
    monkeypatch.setattr("app.modules.actions.gates.LONGEST_BREAK", 0.5)


async def limits(running: Running, connection: str) -> dict[str, Any]:
    found: dict[str, Any] = await running.get(f"/api/v1/connections/{connection}/limits")
    return found


async def ask_many(running: Running, connection: str, count: int, action_type: str = "do_it") -> list[str]:
    answers = await asyncio.gather(
        *(running.act(connection, action_type, {"text": str(n)}, wait=0) for n in range(count))
    )
    return [answer["id"] for answer in answers]


async def all_ended(running: Running, connection: str, timeout: float = 30.0) -> list[dict[str, Any]]:
    await eventually(
        lambda: limits(running, connection), lambda g: not g["running"] and not g["queued"], timeout
    )
    return (await running.get(f"/api/v1/actions?connection={connection}&limit=1000"))["items"]


async def test_no_more_at_once_than_the_connector_says(tmp_path: Path) -> None:
    connector = paced(takes=0.2)
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("paced"))["id"]
        await ask_many(running, connection, 30)
        actions = await all_ended(running, connection)
        assert {a["state"] for a in actions} == {"succeeded"}
        assert {len(a["attempts"]) for a in actions} == {1}, "waiting for a slot is not trying"
        assert connector.most == 3


async def test_one_slow_connection_does_not_hold_up_another(tmp_path: Path) -> None:
    slow, quick = paced(takes=60.0), paced(key="quick", takes=0.0)
    async with running_platform(tmp_path, slow, quick, action_concurrency=8) as running:
        held_up = (await running.connect("paced"))["id"]
        other = (await running.connect("quick"))["id"]
        await ask_many(running, held_up, 40)
        action = await running.act(other, "do_it", {"text": "x"})
        assert action["state"] == "succeeded"
        shown = await limits(running, held_up)
        assert (shown["running"], shown["queued"]) == (3, 37)
        waiting = (await running.get(f"/api/v1/actions?connection={held_up}&state=queued&limit=50"))["items"]
        assert {a["waiting"] for a in waiting} == {"slot"}


async def test_the_rate_spaces_actions_evenly_and_outlives_a_restart(tmp_path: Path) -> None:
    connector = paced(limits=Limits(rate=10, per=1.0))
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("paced"))["id"]
        await ask_many(running, connection, 10)
    async with running_platform(tmp_path, connector) as running:
        actions = await all_ended(running, connection)
        assert {a["state"] for a in actions} <= {"succeeded", "unknown"}
        began = connector.began
        assert len(began) == 10
        # The first one may have begun late; the others have kept their turns.
        assert began[-1] - began[0] >= 0.6, "ten actions at ten a second"


async def test_a_connection_may_have_limits_of_its_own(tmp_path: Path) -> None:
    connector = paced()
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("paced"))["id"]
        path = f"/api/v1/connections/{connection}/limits"
        before = await running.get(path)
        assert before["limits"] == before["declared"] == {"concurrency": 3, "rate": None, "per": 1.0}
        own = (await running.client.put(path, json={"concurrency": 1, "rate": 600, "per": 60})).json()
        assert own["limits"] == {"concurrency": 1, "rate": 600, "per": 60.0}
        await ask_many(running, connection, 5)
        await all_ended(running, connection)
        assert connector.most == 1
        assert connector.began[-1] - connector.began[0] >= 0.35
        assert (await running.client.delete(path)).json()["limits"] == before["limits"]
        for wrong in (
            {"concurrency": 0},
            {"rate": 0},
            {"per": 0},
            {"per": 60},
            {"rate": 100_000, "per": 1},
            {"x": 1},
        ):
            assert (await running.client.put(path, json=wrong)).status_code == 422
        theirs = await running.connect("paced", tenant="other")
        for method in ("GET", "PUT", "DELETE"):
            answer = await running.client.request(
                method, f"/api/v1/connections/{theirs['id']}/limits", json={} if method == "PUT" else None
            )
            assert answer.status_code == 404
        assert (await running.client.post(f"/api/v1/connections/{theirs['id']}/resume")).status_code == 404


async def test_raising_the_limit_lets_more_through_at_once(tmp_path: Path) -> None:
    connector = paced(takes=60.0)
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("paced"))["id"]
        path = f"/api/v1/connections/{connection}/limits"
        await ask_many(running, connection, 8)
        await eventually(lambda: running.get(path), lambda g: g["running"] == 3)
        await running.client.put(path, json={"concurrency": 6})
        await eventually(lambda: running.get(path), lambda g: g["running"] == 6, timeout=3.0)


async def test_a_provider_that_is_down_pauses_the_connection_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.modules.actions.gates.FIRST_BREAK", 3.0)
    monkeypatch.setattr("app.modules.actions.gates.LONGEST_BREAK", 3.0)
    down = True
    connector = paced(outcome=staticmethod(lambda: Unavailable("down", status=503) if down else None))
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("paced"))["id"]
        await ask_many(running, connection, 12, "set_it")
        paused = await eventually(lambda: limits(running, connection), lambda g: g["state"] == "paused")
        assert paused["reason"] == "provider_down"
        assert paused["outages"] >= 5
        tries = len(connector.began)
        late = await running.act(connection, "set_it", {"text": "late"}, wait=0)
        late = await eventually(
            lambda: running.get(f"/api/v1/actions/{late['id']}"), lambda a: a["waiting"] == "provider"
        )
        assert (late["attempts"], late["error"]["code"]) == ([], "connection_paused")
        assert len(connector.began) == tries, "nothing is tried in a pause"
        connector.most = 0
        await eventually(lambda: asyncio.sleep(0, len(connector.began)), lambda n: n >= tries + 2)
        assert connector.most == 1, "one at a time looks whether the provider is back"
        down = False
        actions = await all_ended(running, connection)
        assert {a["state"] for a in actions} == {"succeeded"}
        assert (await limits(running, connection))["state"] == "open"


async def test_resume_ends_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.modules.actions.gates.FIRST_BREAK", 600.0)
    monkeypatch.setattr("app.modules.actions.gates.LONGEST_BREAK", 600.0)
    down = True
    connector = paced(outcome=staticmethod(lambda: Unavailable("down") if down else None))
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("paced"))["id"]
        await ask_many(running, connection, 8, "set_it")
        await eventually(lambda: limits(running, connection), lambda g: g["state"] == "paused")
        down = False
        assert (await running.client.post(f"/api/v1/connections/{connection}/resume")).json()[
            "state"
        ] == "open"
        actions = await all_ended(running, connection)
        assert {a["state"] for a in actions} == {"succeeded"}


async def test_other_limits_hold_for_what_waits_already(tmp_path: Path) -> None:
    """A rate that was a slip of the pen would otherwise hold actions back for days."""
    async with running_platform(tmp_path, paced()) as running:
        connection = (await running.connect("paced"))["id"]
        path = f"/api/v1/connections/{connection}/limits"
        for undone in ({"rate": 1000}, None):
            await running.client.put(path, json={"rate": 1, "per": 86_400})
            await ask_many(running, connection, 12)
            await eventually(
                lambda: running.get(f"/api/v1/actions?connection={connection}&state=queued"),
                lambda found: sum(a["waiting"] == "rate" for a in found["items"]) >= 3,
            )
            await running.client.request("PUT" if undone else "DELETE", path, json=undone)
            actions = await all_ended(running, connection)
            assert {a["state"] for a in actions} == {"succeeded"}


@pytest.mark.parametrize("retry_after", [None, 3600.0])
async def test_refusals_pause_nothing(tmp_path: Path, retry_after: float | None) -> None:
    connector = paced(outcome=staticmethod(lambda: Rejected("no", status=400, retry_after=retry_after)))
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("paced"))["id"]
        await ask_many(running, connection, 12)
        actions = await all_ended(running, connection)
        assert {a["state"] for a in actions} == {"failed"}
        assert (await limits(running, connection))["state"] == "open"


async def test_a_slot_of_a_dead_process_is_given_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.modules.actions.runner.SWEEP_SECONDS", 0.1)
    from sqlalchemy import update

    from app.modules.actions.attempts import abandon_attempts
    from app.modules.actions.models import ActionRow
    from app.modules.actions.schedule import Schedule

    connector = paced(takes=60.0)
    async with running_platform(tmp_path, connector) as running:
        connection = (await running.connect("paced"))["id"]
        await ask_many(running, connection, 5)
        path = f"/api/v1/connections/{connection}/limits"
        await eventually(lambda: running.get(path), lambda g: g["running"] == 3)
        worker = running.platform.worker

        def die(session: Any) -> None:
            session.execute(update(ActionRow).where(ActionRow.owner.is_not(None)).values(owner="run_dead"))
            assert abandon_attempts(session, worker.queue, Schedule(20, 60.0), [worker.nodes.id]) == 3

        await running.platform.database.write(die)
        await eventually(lambda: running.get(path), lambda g: (g["running"], g["queued"]) == (2, 0))
